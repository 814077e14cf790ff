//! Linear algebra over F2 on vectors packed into `u32`.

/// A subspace in echelon form that remembers how each row was combined from what was inserted.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// Row with leading bit `i`: the vector and the mask of inserted vectors it is the sum of.
    rows: [Option<(u32, u64)>; 32],
    inserted: u32,
}

impl Span {
    /// The zero subspace.
    pub fn new() -> Span {
        Span::default()
    }

    /// The span of `vectors`.
    pub fn of(vectors: impl IntoIterator<Item = u32>) -> Span {
        let mut span = Span::new();
        for v in vectors {
            span.insert(v);
        }
        span
    }

    /// What is left of `v` after subtracting rows, and which inserted vectors were subtracted.
    fn reduce(&self, mut v: u32) -> (u32, u64) {
        let mut combination = 0;
        while v != 0 {
            let lead = 31 - v.leading_zeros();
            match self.rows[lead as usize] {
                Some((row, mask)) => {
                    v ^= row;
                    combination ^= mask;
                }
                None => break,
            }
        }
        (v, combination)
    }

    /// Adds `v`; says whether it was independent of what was there. At most 64 vectors may be inserted.
    pub fn insert(&mut self, v: u32) -> bool {
        let index = self.inserted;
        assert!(index < 64, "internal error: more than 64 vectors in one span");
        self.inserted += 1;
        let (mut rest, mut mask) = (v, 1u64 << index);
        loop {
            let (next, used) = self.reduce(rest);
            mask ^= used;
            rest = next;
            if rest == 0 {
                return false;
            }
            let lead = 31 - rest.leading_zeros();
            if self.rows[lead as usize].is_none() {
                self.rows[lead as usize] = Some((rest, mask));
                return true;
            }
        }
    }

    /// Whether `v` lies in the subspace.
    pub fn contains(&self, v: u32) -> bool {
        self.reduce(v).0 == 0
    }

    /// Which inserted vectors sum to `v` (bit `i`: the `i`-th inserted), if any do.
    pub fn solve(&self, v: u32) -> Option<u64> {
        let (rest, mask) = self.reduce(v);
        (rest == 0).then_some(mask)
    }

    /// The dimension.
    pub fn rank(&self) -> usize {
        self.rows.iter().flatten().count()
    }
}

/// A basis of the intersection of the spans of two lists, each of independent vectors.
pub fn intersection(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut all = Span::of(a.iter().copied());
    let mut common = Vec::new();
    let mut seen = Span::new();
    for (i, &v) in b.iter().enumerate() {
        if let Some(mask) = all.solve(v) {
            // v = (part of a) + (part of b already inserted): their sum with v lies in both.
            let from_a =
                a.iter().enumerate().filter(|(j, _)| mask >> j & 1 == 1).fold(0, |acc, (_, &x)| acc ^ x);
            if from_a != 0 && seen.insert(from_a) {
                common.push(from_a);
            }
        }
        all.insert(v);
        debug_assert!(i < 32);
    }
    common
}

/// Unit vectors of `F2^bits` that complete `vectors` to a basis.
pub fn complement(vectors: impl IntoIterator<Item = u32>, bits: u32) -> Vec<u32> {
    let mut span = Span::of(vectors);
    (0..bits).map(|i| 1 << i).filter(|&unit| span.insert(unit)).collect()
}

/// Independent vectors out of `vectors`, in order.
pub fn independent(vectors: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut span = Span::new();
    vectors.into_iter().filter(|&v| span.insert(v)).collect()
}

/// The inverse of the square matrix with these columns: image of each unit vector, or `None` if singular.
pub fn inverse(columns: &[u32]) -> Option<Vec<u32>> {
    let span = Span::of(columns.iter().copied());
    (0..columns.len()).map(|i| span.solve(1 << i).map(|mask| mask as u32)).collect()
}

/// `map` applied to `v`: the sum of the images of its set bits.
pub fn apply(map: &[u32], v: u32) -> u32 {
    map.iter().enumerate().filter(|(i, _)| v >> i & 1 == 1).fold(0, |acc, (_, &image)| acc ^ image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solving_names_the_vectors_that_sum_to_the_target() {
        let span = Span::of([0b011, 0b110, 0b101]);
        assert_eq!(span.rank(), 2);
        let mask = span.solve(0b101).unwrap();
        let sum = [0b011u32, 0b110, 0b101]
            .iter()
            .enumerate()
            .filter(|(i, _)| mask >> i & 1 == 1)
            .fold(0, |a, (_, v)| a ^ v);
        assert_eq!(sum, 0b101);
        assert_eq!(span.solve(0b001), None);
    }

    #[test]
    fn intersection_is_what_enumeration_says() {
        let cases: [(&[u32], &[u32]); 4] =
            [(&[1, 2], &[2, 4]), (&[3, 4], &[1, 6]), (&[5, 2, 8], &[7, 10]), (&[1], &[2])];
        let span = |v: &[u32]| -> std::collections::BTreeSet<u32> {
            (0..1u32 << v.len()).map(|m| apply(v, m)).collect()
        };
        for (a, b) in cases {
            let expected: Vec<u32> = span(a).intersection(&span(b)).copied().collect();
            let got: Vec<u32> = span(&intersection(a, b)).into_iter().collect();
            assert_eq!(got, expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn inverse_undoes_the_map() {
        let columns = [0b011, 0b010, 0b110];
        let back = inverse(&columns).unwrap();
        for v in 0..8 {
            assert_eq!(apply(&back, apply(&columns, v)), v);
        }
        assert_eq!(inverse(&[1, 1]), None);
    }
}
