//! The largest share of attention that a token received from one query, kept beside the sum of all of them.
//!
//! A mean over recent queries forgets what will be asked for again: a name or a number in the prompt is read once, long before. Its *peak* remembers: the
//! largest share that it received from one query, or more where a model of attention predicts that a repetition of the text would give it more
//! (its prior). Only queries that have the token behind their window count: those close by look at every token, and would make the end of a prompt, and the text
//! that is being written, count for more than all before. A token's score is then its mean share plus a small weight times its peak (after KVzip, arXiv 2505.23416, which asks the
//! model to repeat the prompt instead).
//!
//! The peak takes no byte of a page: it is a logarithmic code in the last 6 bits of the word that holds the sum, of whose mantissa 18 bits are left: a share is lost where it is below a 2^18th of the sum so far.

use leankv_dsl::lang::*;

/// How peaks weigh, and how a word of significance holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peaks {
    /// In thousandths; 0 where none are kept and a word is the sum alone.
    weight: u32,
}

/// Bits of a peak's code.
const CODE_BITS: u32 = 6;
/// The largest code, that of 1.
const MOST: i32 = (1 << CODE_BITS) - 1;
/// Bits of an f32 below one step of the code: a quarter of an octave.
const SHIFT: i32 = 21;
/// The f32 bits of the least peak that is not 0, 5/4 of 2^-16: the largest code then ends at 1.
const LEAST: i32 = 0x37A0_0000;

/// What counted queries gave to tokens, `[tokens]` each.
#[derive(Clone, Copy, Debug, Carry)]
pub struct Received {
    /// The sum over queries.
    pub sum: Tile<f32, 1>,
    /// The most that one of them gave.
    pub most: Tile<f32, 1>,
}

impl Received {
    /// Nothing, to so many tokens.
    #[track_caller]
    pub fn none(tokens: usize) -> Received {
        Received { sum: Tile::zeros([tokens]), most: Tile::zeros([tokens]) }
    }

    /// This, and what other queries gave.
    #[must_use]
    #[track_caller]
    pub fn and(self, other: Received) -> Received {
        Received { sum: self.sum + other.sum, most: self.most.max(other.most) }
    }
}

impl Peaks {
    /// None are kept.
    pub const NONE: Peaks = Peaks { weight: 0 };

    /// Peaks that weigh so many thousandths; 0 keeps none.
    #[must_use]
    pub const fn new(weight: u32) -> Peaks {
        Peaks { weight }
    }

    /// Whether words hold them.
    #[must_use]
    pub const fn kept(self) -> bool {
        self.weight > 0
    }

    /// Bits of a word that hold the peak.
    #[must_use]
    pub const fn code_bits(self) -> u32 {
        if self.kept() { CODE_BITS } else { 0 }
    }

    fn factor(self) -> f32 {
        self.weight as f32 / 1000.0
    }

    /// The code of a share: 0 below 2^-16, about, then four an octave, rounded down.
    #[must_use]
    pub fn code(share: f32) -> i32 {
        (((share.max(0.0).to_bits() as i32 - LEAST) >> SHIFT) + 1).clamp(0, MOST)
    }

    /// The share in the middle of those that a code stands for.
    #[must_use]
    pub fn share(code: i32) -> f32 {
        match code {
            0 => 0.0,
            code => f32::from_bits((LEAST + ((code - 1) << SHIFT) + (1 << (SHIFT - 1))) as u32),
        }
    }

    /// The word of a token that received `sum` so far and `most` from one query.
    #[must_use]
    pub fn word(self, sum: f32, most: f32) -> f32 {
        if !self.kept() {
            return sum;
        }
        let half = 1 << (CODE_BITS - 1);
        let rounded = sum.to_bits().wrapping_add(half) as i32 & !MOST;
        f32::from_bits((rounded | Peaks::code(most)) as u32)
    }

    /// The word after more was received.
    #[must_use]
    pub fn add(self, word: f32, sum: f32, most: f32) -> f32 {
        let (mass, peak) = self.parts(word);
        // A share's own code is kept as it is: that of the middle of a code is the code.
        self.word(mass + sum, peak.max(most))
    }

    /// The sum and the peak of a word.
    #[must_use]
    pub fn parts(self, word: f32) -> (f32, f32) {
        if !self.kept() {
            return (word, 0.0);
        }
        let bits = word.to_bits() as i32;
        (f32::from_bits((bits & !MOST) as u32), Peaks::share(bits & MOST))
    }

    /// The score of a token of this mean share and this peak.
    #[must_use]
    pub fn score(self, mean: f32, peak: f32) -> f32 {
        if self.kept() { peak.mul_add(self.factor(), mean) } else { mean }
    }

    /// As [`code`](Peaks::code), in a kernel.
    #[track_caller]
    fn code_tile(share: Tile<f32, 1>) -> Tile<i32, 1> {
        (((share.max(0.0).bitcast::<i32>() - LEAST) >> SHIFT) + 1).clamp(0, MOST)
    }

    /// As [`word`](Peaks::word), in a kernel.
    #[track_caller]
    pub fn word_tile(self, received: Received) -> Tile<f32, 1> {
        if !self.kept() {
            return received.sum;
        }
        packed(received.sum, Peaks::code_tile(received.most))
    }

    /// As [`add`](Peaks::add), in a kernel.
    #[track_caller]
    pub fn add_tile(self, word: Tile<f32, 1>, more: Received) -> Tile<f32, 1> {
        if !self.kept() {
            return word + more.sum;
        }
        let bits = word.bitcast::<i32>();
        let mass = (bits & !MOST).bitcast::<f32>();
        packed(mass + more.sum, (bits & MOST).max(Peaks::code_tile(more.most)))
    }

    /// As [`parts`](Peaks::parts), in a kernel; without peaks there is none.
    #[track_caller]
    pub(crate) fn parts_tile(self, word: Tile<f32, 1>) -> (Tile<f32, 1>, Option<Tile<f32, 1>>) {
        if !self.kept() {
            return (word, None);
        }
        let bits = word.bitcast::<i32>();
        let code = bits & MOST;
        let middle = (((code - 1) << SHIFT) + (LEAST + (1 << (SHIFT - 1)))).bitcast::<f32>();
        ((bits & !MOST).bitcast(), Some(code.gt(0).select(middle, 0.0)))
    }

    /// As [`score`](Peaks::score), in a kernel.
    #[track_caller]
    pub(crate) fn score_tile(self, mean: Tile<f32, 1>, peak: Option<Tile<f32, 1>>) -> Tile<f32, 1> {
        peak.map_or(mean, |peak| peak.fma(self.factor(), mean))
    }
}

/// A sum, rounded to the bits that are left to it, with a peak's code.
#[track_caller]
fn packed(sum: Tile<f32, 1>, code: Tile<i32, 1>) -> Tile<f32, 1> {
    (((sum.bitcast::<i32>() + (1 << (CODE_BITS - 1))) & !MOST) | code).bitcast()
}

#[cfg(test)]
mod tests {
    use super::Peaks;

    #[test]
    fn codes_rise_with_shares_and_stand_for_shares_within_a_tenth() {
        assert_eq!([0.0, -1.0, f32::NAN, 1e-6].map(Peaks::code), [0; 4]);
        assert_eq!([1.0, 2.0, f32::INFINITY].map(Peaks::code), [63; 3]);
        for code in 1..=63 {
            let share = Peaks::share(code);
            assert_eq!(Peaks::code(share), code);
            assert!(share > Peaks::share(code - 1));
        }
        for share in [2e-5, 1e-3, 0.01, 0.3, 0.99] {
            let off = Peaks::share(Peaks::code(share)) / share;
            assert!((0.9..1.1).contains(&off), "{share}: {off}");
        }
    }

    #[test]
    fn a_word_keeps_the_sum_and_the_largest_share() {
        let peaks = Peaks::new(10);
        let mut word = peaks.word(0.0, 0.02);
        for share in [0.25f32, 0.001, 0.5, 1e-5, 0.1] {
            word = peaks.add(word, share, share);
        }
        let (sum, peak) = peaks.parts(word);
        assert!((sum - 0.85101).abs() < 1e-4, "{sum}");
        assert_eq!(peak, Peaks::share(Peaks::code(0.5)));
        // What nothing is added to stays as it is.
        assert_eq!(peaks.add(word, 0.0, 0.0).to_bits(), word.to_bits());
    }

    #[test]
    fn long_sums_of_small_shares_do_not_stall() {
        let (peaks, share) = (Peaks::new(10), 3e-4f32);
        let word = (0..20_000).fold(peaks.word(0.0, 0.0), |word, _| peaks.add(word, share, share));
        let (sum, _) = peaks.parts(word);
        assert!((sum / 6.0 - 1.0).abs() < 0.05, "{sum}");
    }

    #[test]
    fn without_peaks_a_word_is_the_sum_to_the_bit() {
        let word = Peaks::NONE.add(Peaks::NONE.word(0.1, 0.9), 0.2, 0.9);
        assert_eq!(word, 0.1 + 0.2);
        assert_eq!(Peaks::NONE.parts(word), (word, 0.0));
        assert_eq!(Peaks::NONE.score(0.25, 0.9), 0.25);
    }
}
