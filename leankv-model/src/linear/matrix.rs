//! Products with a matrix of f32. What a row gets does not depend on the rows beside it.
//!
//! Every output is one chain of additions over the inputs, from the first to the last. How many rows and outputs a loop holds in registers,
//! and which thread runs it, changes how many chains run side by side and none of them.

use rayon::prelude::*;

use super::tiles::Tiles;

/// Rows that are done together: enough to read weights from memory once for many products.
const ROWS: usize = 64;

/// Inputs that are done together, so that a panel's part stays in a cache while rows pass by.
const DEPTH: usize = 512;

/// A matrix `[outputs, inputs]`, both of which are at least 1.
#[derive(Debug)]
pub(crate) struct Matrix {
    tiles: Tiles,
    inputs: usize,
    outputs: usize,
    /// `[panels, inputs, width]`: the weights of one input side by side for all outputs of a panel, 0 beyond the last output.
    panels: Vec<f32>,
}

impl Matrix {
    /// Lays out `weights`, `[outputs, inputs]`, for products.
    pub(crate) fn new(weights: &[f32], inputs: usize) -> Matrix {
        Matrix::with(Tiles::here(), weights, inputs)
    }

    pub(super) fn with(tiles: Tiles, weights: &[f32], inputs: usize) -> Matrix {
        let (outputs, width) = (weights.len() / inputs, tiles.width());
        let mut panels = vec![0.0; outputs.div_ceil(width) * inputs * width];
        let rows = weights.par_chunks(width * inputs);
        panels.par_chunks_exact_mut(width * inputs).zip(rows).for_each(|(panel, rows)| {
            for (at, row) in rows.chunks_exact(inputs).enumerate() {
                panel.chunks_exact_mut(width).zip(row).for_each(|(panel, weight)| panel[at] = *weight);
            }
        });
        Matrix { tiles, inputs, outputs, panels }
    }

    /// `x W^T`: `[rows, outputs]` of `[rows, inputs]`.
    pub(crate) fn times(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len() / self.inputs * self.outputs];
        let blocks = out.par_chunks_mut(ROWS * self.outputs).zip(x.par_chunks(ROWS * self.inputs));
        blocks.for_each(|(out, x)| self.block(x, out));
        out
    }

    /// As [`Matrix::times`], of few rows.
    fn block(&self, x: &[f32], out: &mut [f32]) {
        let width = self.tiles.width();
        let (rows, panel) = (x.len() / self.inputs, self.inputs * width);
        // Each panel's place in every row.
        let mut places: Vec<Vec<&mut [f32]>> = Vec::new();
        places.resize_with(self.panels.len() / panel, || Vec::with_capacity(rows));
        for row in out.chunks_exact_mut(self.outputs) {
            places.iter_mut().zip(row.chunks_mut(width)).for_each(|(places, part)| places.push(part));
        }
        let part = |at: usize| x.chunks_exact(self.inputs).map(move |row| row.chunks(DEPTH).nth(at));
        let parts: Vec<Vec<&[f32]>> =
            (0..self.inputs.div_ceil(DEPTH)).map(|at| part(at).flatten().collect()).collect();

        places.into_par_iter().zip(self.panels.par_chunks_exact(panel)).for_each(|(places, panel)| {
            let mut sums = vec![0.0; rows * width];
            for (weights, x) in panel.chunks(DEPTH * width).zip(&parts) {
                self.tiles.add(weights, x, &mut sums);
            }
            for (place, sums) in places.into_iter().zip(sums.chunks_exact(width)) {
                place.copy_from_slice(&sums[..place.len()]);
            }
        });
    }
}
