//! Vector clocks of the warps of one block.

/// Orders accesses within a block.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    warps: usize,
    /// Current time of each warp; starts at 1, so that 0 precedes everything.
    now: Vec<u32>,
    /// `seen[w * warps + v]`: warp `w` is ordered after everything warp `v` did up to this time.
    seen: Vec<u32>,
    /// Time of each warp's last collective with all its lanes.
    full_sync: Vec<u32>,
    /// Per warp and pair of lanes, the time of their last common collective; only once a partial one ran.
    lane_sync: Vec<Option<Box<[[u32; 32]; 32]>>>,
    pub(crate) lockstep: bool,
}

impl Clocks {
    pub(crate) fn reset(&mut self, warps: usize, lockstep: bool) {
        self.warps = warps;
        self.lockstep = lockstep;
        self.now.clear();
        self.now.resize(warps, 1);
        self.seen.clear();
        self.seen.resize(warps * warps, 0);
        self.full_sync.clear();
        self.full_sync.resize(warps, 0);
        self.lane_sync.clear();
        self.lane_sync.resize_with(warps, || None);
    }

    #[inline(always)]
    pub(crate) fn now(&self, warp: u32) -> u32 {
        self.now[warp as usize]
    }

    /// Whether an access by (`warp2`, `lane2`) at `time` happens before the current point of (`warp`, `lane`).
    #[inline(always)]
    pub(crate) fn ordered(&self, warp: u32, lane: u32, warp2: u32, lane2: u32, time: u32) -> bool {
        if warp != warp2 {
            return time <= self.seen[warp as usize * self.warps + warp2 as usize];
        }
        if lane == lane2 || self.lockstep || time < self.full_sync[warp as usize] {
            return true;
        }
        match &self.lane_sync[warp as usize] {
            Some(m) if lane2 < 32 => time < m[lane as usize][lane2 as usize],
            _ => false,
        }
    }

    /// A collective of `lanes` of a warp, whose live lanes are `live`.
    #[inline(always)]
    pub(crate) fn collective(&mut self, warp: u32, lanes: u32, live: u32) {
        let w = warp as usize;
        self.now[w] += 1;
        if lanes & live == live {
            self.full_sync[w] = self.now[w];
            return;
        }
        let now = self.now[w];
        let m = self.lane_sync[w].get_or_insert_with(|| Box::new([[0; 32]; 32]));
        for a in 0..32 {
            if lanes >> a & 1 == 1 {
                for b in 0..32 {
                    if lanes >> b & 1 == 1 {
                        m[a][b] = now;
                    }
                }
            }
        }
    }

    /// A warp arrives at a barrier: its past is released into `into`, its clock advances.
    pub(crate) fn release(&mut self, warp: u32, into: &mut Vec<u32>) {
        self.publish(warp, into);
        self.full_sync[warp as usize] = self.now[warp as usize];
    }

    /// A warp releases its past into `into` by an atomic or a strong store: its lanes are ordered no more than before.
    pub(crate) fn publish(&mut self, warp: u32, into: &mut Vec<u32>) {
        let w = warp as usize;
        into.resize(self.warps, 0);
        for v in 0..self.warps {
            into[v] = into[v].max(self.seen[w * self.warps + v]);
        }
        into[w] = into[w].max(self.now[w]);
        self.now[w] += 1;
    }

    /// A warp leaves a barrier: it is ordered after everything released there.
    pub(crate) fn acquire(&mut self, warp: u32, from: &[u32]) {
        let w = warp as usize;
        for (v, t) in from.iter().enumerate() {
            let s = &mut self.seen[w * self.warps + v];
            *s = (*s).max(*t);
        }
    }
}
