//! Warp-wide matrix moves: `ldmatrix`, `stmatrix`, `movmatrix`.

use super::access::{Exec, addresses, lanes};
use super::context::{At, Ctx, Worker};
use super::regs::{L32, Regs};
use super::shared::Actor;
use super::warp::Warp;
use super::window;
use crate::decode::op::LdMatrix;
use crate::error::FaultKind;

impl Ctx<'_> {
    /// Row addresses of the matrices: lanes 8j to 8j+7 give those of matrix j.
    fn rows(
        &self,
        warp: &Warp,
        frame: u32,
        x: &LdMatrix,
        m: u32,
        access: &'static str,
        at: At,
    ) -> Exec<(L32, u32)> {
        let used = if x.count == 4 { u32::MAX } else { (1u32 << (8 * x.count)) - 1 };
        if used & !m != 0 {
            let l = (used & !m).trailing_zeros();
            let message = "a lane that gives a row address does not execute the matrix move".to_string();
            return Err(self.fault(FaultKind::Illegal(message), at, l));
        }
        let mut a = addresses(&warp.frame(frame).regs, &x.addr);
        if x.generic {
            for l in lanes(used) {
                if window::of(a[l]) != window::SHARED {
                    return Err(self.oob(
                        access,
                        16,
                        a[l],
                        "the address is not in shared memory".into(),
                        at,
                        l,
                    ));
                }
                a[l] -= window::SHARED;
            }
        }
        Ok((self.shared_offsets(access, used, &a, 16, at)?, used))
    }

    pub(crate) fn ldmatrix(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        x: &LdMatrix,
        m: u32,
        at: At,
    ) -> Exec<()> {
        let (off, used) = self.rows(warp, frame, x, m, "ldmatrix", at)?;
        for j in 0..usize::from(x.count) {
            let mut out: L32 = [0; 32];
            if x.trans {
                // Lane 4r+c receives elements (2c, r) and (2c+1, r): rows become columns.
                for l in 0..32 {
                    let (r, c) = (l as u32 / 4, l % 4);
                    let at = |row: usize| self.shared.load(off[8 * j + row] + 2 * r, 2) as u32;
                    out[l] = at(2 * c) | at(2 * c + 1) << 16;
                }
            } else {
                for l in 0..32 {
                    out[l] = self.shared.load32(off[8 * j + l / 4] + 4 * (l as u32 % 4));
                }
            }
            warp.frame_mut(frame).regs.put32(x.regs[j], m, &out);
        }
        if self.shared.shadowed {
            let instr = self.launch.number(at);
            for l in lanes(used) {
                let who = Actor { warp: at.warp, lane: l as u32, instr };
                if let Some((o, t)) = self.shared.on_read16(off[l], who, &self.clocks) {
                    self.shared_trouble(w, t, at, l as u32, o, false);
                }
            }
        }
        self.count_matrix(w, &off, usize::from(x.count), at);
        Ok(())
    }

    pub(crate) fn stmatrix(
        &mut self,
        w: &mut Worker,
        warp: &mut Warp,
        frame: u32,
        x: &LdMatrix,
        m: u32,
        at: At,
    ) -> Exec<()> {
        let (off, _) = self.rows(warp, frame, x, m, "stmatrix", at)?;
        let instr = self.launch.number(at);
        for j in 0..usize::from(x.count) {
            let v = warp.frame(frame).regs.r32[x.regs[j] as usize];
            for l in 0..32usize {
                let (r, c) = (l / 4, l % 4);
                for h in 0..2 {
                    let half = v[l] >> (16 * h) & 0xffff;
                    let (row, col) = if x.trans { (2 * c + h, r) } else { (r, 2 * c + h) };
                    let o = off[8 * j + row] + 2 * col as u32;
                    if self.shared.shadowed {
                        let who = Actor { warp: at.warp, lane: l as u32, instr };
                        let changes = self.shared.load(o, 2) != u64::from(half);
                        if let Some(t) = self.shared.on_write(o, 2, who, &self.clocks, changes, false) {
                            self.shared_trouble(w, t, at, l as u32, o, true);
                        }
                    }
                    self.shared.store(o, 2, u64::from(half));
                }
            }
        }
        self.count_matrix(w, &off, usize::from(x.count), at);
        Ok(())
    }

    /// One phase per matrix of eight 16-byte rows: as many wavefronts as the worst bank has distinct words.
    fn count_matrix(&mut self, w: &mut Worker, off: &L32, count: usize, at: At) {
        let mut waves = 0u64;
        for j in 0..count {
            let rows = &off[8 * j..8 * j + 8];
            if rows.iter().fold(0u32, |m, o| m | 1 << (o >> 4 & 7)) == 0xff {
                waves += 1;
                continue;
            }
            // A row covers four banks; distinct rows on the same four are served one after the other.
            let mut worst = 1u64;
            for (i, o) in rows.iter().enumerate() {
                let first = !rows[..i].contains(o);
                let same_banks = |p: &u32| (p ^ o) >> 4 & 7 == 0;
                let clashes = (i + 1..8).filter(|k| same_banks(&rows[*k]) && !rows[..*k].contains(&rows[*k]));
                if first {
                    worst = worst.max(1 + clashes.count() as u64);
                }
            }
            waves += worst;
        }
        let c = &mut w.counters[self.launch.counter_base[at.func as usize] + at.pc as usize];
        c.wavefronts += waves;
        c.ideal_wavefronts += count as u64;
        c.bytes += 128 * count as u64;
    }
}

/// Transposes an 8 x 8 matrix of 16-bit elements held as fragments.
pub(crate) fn movmatrix(regs: &mut Regs, d: u32, a: u32, m: u32) {
    let v = regs.r32[a as usize];
    let element = |row: usize, col: usize| v[4 * row + col / 2] >> (16 * (col % 2)) & 0xffff;
    let out: L32 = std::array::from_fn(|l| {
        let (r, c) = (l / 4, l % 4);
        element(2 * c, r) | element(2 * c + 1, r) << 16
    });
    regs.put32(d, m, &out);
}
