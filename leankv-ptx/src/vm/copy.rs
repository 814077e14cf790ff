//! Asynchronous copies, run adversarially: data moves as late as the waits allow.

use super::access::{Exec, addresses, lanes};
use super::context::{At, Ctx, Worker};
use super::shared::Actor;
use super::warp::{PendingCopy, Warp};
use crate::decode::op::CpAsync;
use crate::error::FaultKind;
use crate::finding::FindingKind;

impl Ctx<'_> {
    pub(crate) fn copy_async(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        cp: &CpAsync,
        m: u32,
        at: At,
    ) -> Exec<()> {
        if m == 0 {
            return Ok(());
        }
        let regs = &warp.frame(frame).regs;
        let dst64 = addresses(regs, &cp.dst);
        let src = addresses(regs, &cp.src);
        let mut sizes = [cp.bytes as u8; 32];
        if let Some(s) = cp.src_size {
            let v = regs.r32[s as usize];
            for l in lanes(m) {
                if v[l] > cp.bytes {
                    let message =
                        format!("cp.async with a source size of {} above its {} bytes", v[l], cp.bytes);
                    return Err(self.fault(FaultKind::Illegal(message), at, l as u32));
                }
                sizes[l] = v[l] as u8;
            }
        }
        if let Some(p) = cp.ignore_src {
            let ignored = regs.pred(p);
            for l in lanes(m & ignored) {
                sizes[l] = 0;
            }
        }
        let dst = self.shared_offsets("cp.async destination", m, &dst64, cp.bytes, at)?;
        // Lanes that copy nothing do not touch their source.
        let reading = lanes(m).filter(|l| sizes[*l] > 0).fold(0u32, |p, l| p | 1 << l);
        let mut left = reading;
        while left != 0 {
            // The source of a short copy is only read as far as its size.
            let l = left.trailing_zeros() as usize;
            let size = u32::from(sizes[l]);
            let same = lanes(left).filter(|k| sizes[*k] == sizes[l]).fold(0u32, |p, k| p | 1 << k);
            let (i, part, _) = self.locate("cp.async source", same, &src, size, cp.bytes, at)?;
            left &= !part;
            self.count_global(w, i, part, &src, size, false, at);
            self.check_copy_source(w, i, part, &src, size, at);
        }
        let instr = self.launch.number(at);
        for l in lanes(m) {
            if self.shared.shadowed {
                let who = Actor { warp: at.warp, lane: l as u32, instr };
                for e in 0..cp.bytes / 4 {
                    let o = dst[l] + 4 * e;
                    if let Some(t) = self.shared.check_write(o, 4, who, &self.clocks, true, false) {
                        self.shared_trouble(w, t, at, l as u32, o, true);
                    }
                }
                self.shared.set_pending(dst[l], cp.bytes, instr, true);
            }
        }
        warp.copies.push(PendingCopy {
            mask: m,
            group: warp.commits,
            dst,
            src,
            src_bytes: sizes,
            bytes: cp.bytes,
            pc: at.pc,
            func: at.func,
        });
        Ok(())
    }

    fn check_copy_source(&mut self, w: &mut Worker, i: usize, part: u32, src: &[u64; 32], size: u32, at: At) {
        let al = &self.launch.global.allocs[i];
        let checks = &self.launch.config.checks;
        for l in lanes(part) {
            let off = src[l] - al.base;
            if checks.uninit_global {
                let unit = if size.is_multiple_of(4) { 4 } else { 1 };
                for e in (0..size).step_by(unit) {
                    if !al.is_init(off + u64::from(e), unit as u32) {
                        let message =
                            format!("cp.async of global memory that nothing wrote, in {}", al.describe());
                        let address = Some(src[l] + u64::from(e));
                        self.report(w, FindingKind::UninitGlobal, at, l as u32, address, &message);
                        break;
                    }
                }
            }
            if checks.global_races && !al.read_only {
                self.within_block(w, i, off, size, None, false, at, l as u32);
            }
            if checks.global_races && !al.read_only && self.launch.grid != [1, 1, 1] {
                for e in (0..size).step_by(4) {
                    self.global_access(
                        w,
                        al,
                        off + u64::from(e),
                        4.min(size - e),
                        false,
                        false,
                        at,
                        l as u32,
                    );
                }
            }
        }
    }

    /// `wait_group`: lands all but the newest `leave` groups of each lane; `u32::MAX` lands everything, the
    /// copies of the open group included.
    pub(crate) fn copy_wait(&mut self, _w: &mut Worker, warp: &mut Warp, m: u32, leave: u32) -> Exec<()> {
        if m == 0 {
            return Ok(());
        }
        let mut copies = std::mem::take(&mut warp.copies);
        for c in &mut copies {
            let mut due = 0u32;
            for l in lanes(c.mask & m) {
                let closed = warp.commits[l];
                if leave == u32::MAX || (c.group[l] < closed && closed - c.group[l] > leave) {
                    due |= 1 << l;
                }
            }
            if due != 0 {
                self.land(warp.index, c, due);
                c.mask &= !due;
            }
        }
        copies.retain(|c| c.mask != 0);
        warp.copies = copies;
        Ok(())
    }

    /// Moves the data of some lanes' copies, as writes of those lanes now.
    pub(crate) fn land(&mut self, warp: u32, c: &PendingCopy, due: u32) {
        let instr = self.launch.number(At { func: c.func, pc: c.pc, warp });
        for l in lanes(due) {
            let mut data = [0u8; 16];
            let n = usize::from(c.src_bytes[l]);
            if n == 16
                && let Some(al) = self.launch.global.allocs.get(self.hint)
                && c.src[l] >= al.base
                && c.src[l] - al.base + 16 <= al.bytes
                && !al.freed
            {
                // Sixteen aligned bytes of the allocation of the last access.
                let o = c.src[l] - al.base;
                data[..8].copy_from_slice(&al.load64(o).to_le_bytes());
                data[8..].copy_from_slice(&al.load64(o + 8).to_le_bytes());
            } else if n > 0 {
                if self.launch.global.read(c.src[l], &mut data[..n]).is_err() {
                    // Checked when the copy was issued; memory cannot be freed during a launch.
                    continue;
                }
                self.hint = self.launch.global.find(c.src[l]).unwrap_or(self.hint);
            }
            let o = c.dst[l] as usize;
            self.shared.bytes[o..o + c.bytes as usize].copy_from_slice(&data[..c.bytes as usize]);
            if self.shared.shadowed {
                self.shared.set_pending(c.dst[l], c.bytes, instr, false);
                let who = Actor { warp, lane: l as u32, instr };
                for e in 0..c.bytes / 4 {
                    self.shared.record_write(c.dst[l] + 4 * e, 4, who, &self.clocks, false);
                }
            }
        }
    }

    /// Copies that a warp never waited for, at its end.
    pub(crate) fn lost_copies(&mut self, w: &mut Worker, warp: &mut Warp) {
        if warp.copies.is_empty() {
            return;
        }
        let copies = std::mem::take(&mut warp.copies);
        if self.launch.config.checks.async_copies {
            for c in copies {
                let at = At { func: c.func, pc: c.pc, warp: warp.index };
                let l = c.mask.trailing_zeros();
                let message = "the warp ends without waiting for this cp.async";
                self.report(
                    w,
                    FindingKind::AsyncCopyLost,
                    at,
                    l,
                    Some(u64::from(c.dst[l as usize])),
                    message,
                );
            }
        }
    }
}
