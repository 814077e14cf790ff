//! The inner loops of products, for the instructions that the processor has.

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Any,
}

impl Tiles {
    /// The fastest of [`Tiles::all`].
    pub(super) fn here() -> Tiles {
        Tiles::all()[0]
    }

    /// Those that this processor can run, the fastest first.
    pub(super) fn all() -> Vec<Tiles> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f") {
                all.push(Tiles(Kind::Avx512));
            }
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                all.push(Tiles(Kind::Avx2));
            }
        }
        all.push(Tiles(Kind::Any));
        all
    }

    /// Outputs of a panel.
    pub(super) fn width(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 32,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 16,
            Kind::Any => 16,
        }
    }

    /// Adds products to the sums `[rows, width]`: of `weights`, `[inputs, width]`, and every row of `x`, which has as many inputs.
    ///
    /// A sum takes its products one after another, in the order of the inputs, in every kind of loop and for any number of rows.
    pub(super) fn add(self, weights: &[f32], x: &[&[f32]], sums: &mut [f32]) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only `all` makes a `Tiles`, and one of this kind only where the processor has the instructions.
            Kind::Avx512 => unsafe { avx512::add(weights, x, sums) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx2 => unsafe { avx2::add(weights, x, sums) },
            Kind::Any => add_anywhere(weights, x, sums),
        }
    }
}

/// Without vector instructions of its own.
fn add_anywhere(weights: &[f32], x: &[&[f32]], sums: &mut [f32]) {
    const WIDTH: usize = 16;
    let ((weights, _), (sums, _)) = (weights.as_chunks::<WIDTH>(), sums.as_chunks_mut::<WIDTH>());
    for (x, sums) in x.iter().zip(sums) {
        for (x, weights) in x.iter().zip(weights) {
            sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += x * weight);
        }
    }
}

/// A module with `add` for one kind of vector. A panel is two of them wide; as many rows as `$rows` says keep their sums in registers.
#[cfg(target_arch = "x86_64")]
macro_rules! tiles {
    ($name:ident, $features:literal, $lanes:literal, $vector:ident, $load:ident, $store:ident, $splat:ident, $fma:ident, [$($rows:literal)*]) => {
        mod $name {
            use std::arch::x86_64::{$vector, $fma, $load, $splat, $store};

            const WIDTH: usize = 2 * $lanes;

            #[target_feature(enable = $features)]
            pub(super) fn add(weights: &[f32], mut x: &[&[f32]], sums: &mut [f32]) {
                let ((weights, _), (mut sums, _)) = (weights.as_chunks::<WIDTH>(), sums.as_chunks_mut::<WIDTH>());
                $(
                    while let Some((now, later)) = x.split_first_chunk::<$rows>() {
                        let (into, rest) = std::mem::take(&mut sums)
                            .split_first_chunk_mut::<$rows>()
                            .expect("internal error: every row has sums");
                        tile(weights, now, into);
                        (x, sums) = (later, rest);
                    }
                )*
            }

            // Loops over rows by number stay in registers at every optimisation level.
            #[allow(clippy::needless_range_loop)]
            #[target_feature(enable = $features)]
            fn tile<const ROWS: usize>(
                weights: &[[f32; WIDTH]],
                x: &[&[f32]; ROWS],
                sums: &mut [[f32; WIDTH]; ROWS],
            ) {
                let mut x = *x;
                let mut acc = [[$splat(0.0); 2]; ROWS];
                for row in 0..ROWS {
                    x[row] = &x[row][..weights.len()];
                    acc[row] = load(&sums[row]);
                }
                for (at, weights) in weights.iter().enumerate() {
                    let weights = load(weights);
                    for row in 0..ROWS {
                        let x = $splat(x[row][at]);
                        acc[row][0] = $fma(x, weights[0], acc[row][0]);
                        acc[row][1] = $fma(x, weights[1], acc[row][1]);
                    }
                }
                for row in 0..ROWS {
                    store(acc[row], &mut sums[row]);
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn load(from: &[f32; WIDTH]) -> [$vector; 2] {
                // SAFETY: the array is as long as two vectors, and the loads need no alignment.
                unsafe { [$load(from.as_ptr()), $load(from.as_ptr().add($lanes))] }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn store(vectors: [$vector; 2], to: &mut [f32; WIDTH]) {
                // SAFETY: the array is as long as two vectors, and the stores need no alignment.
                unsafe {
                    $store(to.as_mut_ptr(), vectors[0]);
                    $store(to.as_mut_ptr().add($lanes), vectors[1]);
                }
            }
        }
    };
}

// 32 registers: 16 sums, 2 weights.
#[cfg(target_arch = "x86_64")]
tiles!(
    avx512,
    "avx512f",
    16,
    __m512,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    [8 4 2 1]
);

// 16 registers: 12 sums, 2 weights.
#[cfg(target_arch = "x86_64")]
tiles!(
    avx2,
    "avx2,fma",
    8,
    __m256,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    [6 4 2 1]
);
