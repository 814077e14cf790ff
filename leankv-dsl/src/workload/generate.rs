//! Reproducible data.

use half::f16;

/// Numbers from a seed: the same on every machine.
#[derive(Clone, Debug)]
pub struct Generator(u64);

impl Generator {
    /// A generator of its own sequence for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Generator {
        Generator(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    /// 64 random bits (splitmix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 for `n` = 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    /// Numbers in `low..high`.
    pub fn f32s(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| low + (high - low) * ((self.bits() >> 40) as f32 / (1u32 << 24) as f32)).collect()
    }

    /// Numbers in `low..high` as f16, and what f16 makes of them.
    pub fn f16s(&mut self, len: usize, low: f32, high: f32) -> (Vec<f16>, Vec<f32>) {
        let halves: Vec<f16> = self.f32s(len, low, high).into_iter().map(f16::from_f32).collect();
        let rounded = halves.iter().map(|x| x.to_f32()).collect();
        (halves, rounded)
    }

    /// `0..len` in random order.
    pub fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut out: Vec<usize> = (0..len).collect();
        for i in (1..len).rev() {
            out.swap(i, self.below(i + 1));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Generator;

    #[test]
    fn numbers_stay_in_range_and_depend_on_the_seed_alone() {
        let x = Generator::new(3).f32s(1000, -2.0, 5.0);
        assert!(x.iter().all(|x| (-2.0..5.0).contains(x)));
        assert!(x.iter().any(|x| *x < -1.0) && x.iter().any(|x| *x > 4.0));
        assert_eq!(x, Generator::new(3).f32s(1000, -2.0, 5.0));
        assert_ne!(x, Generator::new(4).f32s(1000, -2.0, 5.0));
    }

    #[test]
    fn a_permutation_has_every_number_once() {
        let mut x = Generator::new(1).permutation(50);
        assert_ne!(x, (0..50).collect::<Vec<_>>());
        x.sort_unstable();
        assert_eq!(x, (0..50).collect::<Vec<_>>());
    }
}
