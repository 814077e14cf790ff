//! Loads and stores in a thread's local memory.

use super::access::{Exec, get, lanes, put};
use super::context::{At, Ctx};
use super::regs::L64;
use super::warp::Warp;
use crate::decode::op::Mem;
use crate::error::FaultKind;

impl Ctx<'_> {
    /// Range of a lane's local memory, checked.
    fn local_range(
        &self,
        access: &'static str,
        warp: &Warp,
        o: u64,
        bytes: u32,
        at: At,
        l: usize,
    ) -> Exec<usize> {
        let have = warp.local[l].len() as u64;
        if o < 16 || o.checked_add(u64::from(bytes)).is_none_or(|e| e > have) {
            let detail = format!("local memory of the thread is [0x10, 0x{have:x})");
            return Err(self.oob(access, bytes, o, detail, at, l));
        }
        let align = bytes.next_power_of_two();
        if o & u64::from(align - 1) != 0 {
            return Err(self.fault(FaultKind::Misaligned { access, address: o, align }, at, l as u32));
        }
        Ok(o as usize)
    }

    pub(crate) fn load_local(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
    ) -> Exec<()> {
        let size = mem.ty.bytes();
        let bytes = size * u32::from(mem.count);
        for e in 0..mem.count as usize {
            let mut v = [0u64; 32];
            for l in lanes(m) {
                let o = self.local_range("local load", warp, a[l], bytes, at, l)? + e * size as usize;
                let mut b = [0u8; 8];
                b[..size as usize].copy_from_slice(&warp.local[l][o..o + size as usize]);
                v[l] = u64::from_le_bytes(b);
            }
            put(&mut warp.frame_mut(frame).regs, mem.regs[e], mem.ty, m, &v);
        }
        Ok(())
    }

    pub(crate) fn store_local(
        &mut self,
        warp: &mut Warp,
        frame: u32,
        mem: &Mem,
        m: u32,
        at: At,
        a: &L64,
    ) -> Exec<()> {
        let size = mem.ty.bytes();
        let bytes = size * u32::from(mem.count);
        for e in 0..mem.count as usize {
            let v = get(&warp.frame(frame).regs, mem.regs[e]);
            for l in lanes(m) {
                let o = self.local_range("local store", warp, a[l], bytes, at, l)? + e * size as usize;
                warp.local[l][o..o + size as usize].copy_from_slice(&v[l].to_le_bytes()[..size as usize]);
            }
        }
        Ok(())
    }
}
