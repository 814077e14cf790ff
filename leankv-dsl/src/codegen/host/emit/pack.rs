//! Codes in words, `reshape`, and other rearrangements of lanes.

use super::super::build::{Elem, V};
use super::point::is_uniform;
use super::{CodegenError, Coord, Emit, Point, Val, register};
use crate::ir::{Dtype, Op, Shape, Type, Value};

impl Emit<'_, '_> {
    /// Codes of words: `code[j] = word[j / n] >> (j % n * bits) & mask`, with n codes a word.
    pub(super) fn unpacked(
        &mut self,
        words: Value,
        codes: Dtype,
        point: &Point,
        lanes: u32,
    ) -> Result<Val, CodegenError> {
        let bits = codes.bits();
        let word = self.f.ty(words).dtype();
        let per_word = word.bits() / bits;
        let (last, rows) = point.split_last().expect("packed tiles have a last dimension");
        let at = |coord: Coord| -> Point { rows.iter().copied().chain([coord]).collect() };
        let mask = i64::from((1u32 << bits) - 1);
        if lanes == 1 || is_uniform(point) {
            let Coord::At { base, align } = *last else {
                return Err(CodegenError::Malformed("a scalar coordinate has lanes".to_owned()));
            };
            let (source, shift) = self.word_of(base, align, per_word, bits);
            let val = self.eval(words, &at(source), 1)?;
            let wide = self.to_i32(word, val);
            let v = self.b.and(self.b.lshr(wide, shift), self.b.int(Elem::I32, 1, mask));
            return Ok(Val::scalar(v));
        }
        let aligned = match *last {
            Coord::At { base, align } => {
                // The code stays, the row changes with the lane.
                let (source, shift) = self.word_of(base, align, per_word, bits);
                let val = self.eval(words, &at(source), lanes)?;
                let wide = self.to_i32(word, val);
                let shifted = self.b.lshr(wide, self.b.splat(shift, val.lanes));
                let v = self.b.and(shifted, self.b.int(Elem::I32, val.lanes, mask));
                return Ok(Val { v, lanes: val.lanes });
            }
            Coord::Lanes { base, align, stride: 1 } if align % lanes == 0 => {
                rows.iter().all(|coord| matches!(coord, Coord::At { .. })).then_some((base, align))
            }
            _ => None,
        };
        let Some((base, align)) = aligned else {
            return self.lanewise(point, lanes, &mut |me, at| me.unpacked(words, codes, at, 1));
        };
        let v = if lanes < per_word {
            // All codes are in one word.
            let (source, shift) = self.word_of(base, align, per_word, bits);
            let val = self.eval(words, &at(source), 1)?;
            let wide = self.to_i32(word, val);
            let wide = self.b.splat(self.b.lshr(wide, shift), lanes);
            let steps: Vec<i64> = (0..lanes).map(|lane| i64::from(lane * bits)).collect();
            self.b.lshr(wide, self.b.ints(Elem::I32, &steps))
        } else {
            let count = lanes / per_word;
            let first = self.b.lshr(base, self.b.index(per_word.trailing_zeros().into()));
            let source = Coord::lanes(first, count, &self.b);
            let val = self.eval(words, &at(source), count)?;
            let val = Val { v: self.widen(val, count), lanes: count };
            self.spread(val, word, bits, lanes)?
        };
        Ok(Val { v: self.b.and(v, self.b.int(Elem::I32, lanes, mask)), lanes })
    }

    /// Whole words to one `i32` lane a code, with the code in the lowest bits.
    fn spread(&mut self, words: Val, word: Dtype, bits: u32, lanes: u32) -> Result<V, CodegenError> {
        let total = words.lanes * word.bits();
        if self.multishift && total == 64 && lanes == 16 {
            // Each byte takes any 8 bits of 64 that all lanes hold, which come from memory in every lane.
            let all = self.b.splat(self.b.bitcast(words.v, self.b.elem(Elem::I64, 1)), 8);
            let bytes = self.b.bitcast(all, self.b.elem(Elem::I8, 64));
            let from: Vec<i64> = (0..64).map(|byte| byte / 4 * i64::from(bits)).collect();
            let from = self.b.ints(Elem::I8, &from);
            let moved = self.b.intrinsic("llvm.x86.avx512.pmultishift.qb.512", &[], &[from, bytes])?;
            return Ok(self.b.bitcast(moved, self.b.elem(Elem::I32, lanes)));
        }
        let b = &self.b;
        if bits == 8 {
            let bytes = b.bitcast(words.v, b.elem(Elem::I8, lanes));
            return Ok(b.zext(bytes, b.elem(Elem::I32, lanes)));
        }
        let (source, per_source) = if total < 32 {
            let small = b.bitcast(words.v, b.int_type(total, 1));
            (b.splat(b.zext(small, b.elem(Elem::I32, 1)), lanes), lanes)
        } else {
            let count = total / 32;
            let dwords = b.bitcast(words.v, b.elem(Elem::I32, count));
            let per = 32 / bits;
            if count == 1 {
                (b.splat(dwords, lanes), per)
            } else {
                let picks: Vec<u32> = (0..lanes).map(|lane| lane / per).collect();
                (b.shuffle(dwords, dwords, &picks), per)
            }
        };
        let steps: Vec<i64> = (0..lanes).map(|lane| i64::from(lane % per_source * bits)).collect();
        Ok(b.lshr(source, b.ints(Elem::I32, &steps)))
    }

    /// The word that holds code `base`, and the bit where it starts.
    fn word_of(&self, base: V, align: u32, per_word: u32, bits: u32) -> (Coord, V) {
        let b = &self.b;
        let word = b.lshr(base, b.index(per_word.trailing_zeros().into()));
        let within = b.and(base, b.index(u64::from(per_word - 1)));
        let shift = b.mul(b.trunc(within, b.elem(Elem::I32, 1)), b.int(Elem::I32, 1, bits.into()));
        (Coord::at_aligned(word, (align / per_word).max(1), b), shift)
    }

    fn to_i32(&self, word: Dtype, val: Val) -> V {
        let ty = self.b.elem(Elem::I32, val.lanes);
        if register(word) == Elem::I32 { val.v } else { self.b.zext(val.v, ty) }
    }

    /// Words of codes.
    pub(super) fn packed(
        &mut self,
        codes: Value,
        word: Dtype,
        point: &Point,
        lanes: u32,
    ) -> Result<Val, CodegenError> {
        let bits = self.f.ty(codes).dtype().bits();
        let per_word = word.bits() / bits;
        let (last, rows) = point.split_last().expect("packed tiles have a last dimension");
        let whole_rows = rows.iter().all(|coord| matches!(coord, Coord::At { .. }));
        let mut out: Option<V> = None;
        let ty = self.b.elem(register(word), lanes);
        match *last {
            Coord::Lanes { base, stride: 1, .. } if whole_rows => {
                // Codes are computed as neighbours and dealt out to the words.
                let scale = self.b.index(per_word.into());
                let from = self.b.mul(base, scale);
                let mut parts = Vec::new();
                for part in 0..per_word {
                    let at = self.b.add(from, self.b.index(u64::from(part * lanes)));
                    let coord = Coord::lanes(at, lanes, &self.b);
                    let at: Point = rows.iter().copied().chain([coord]).collect();
                    let val = self.eval(codes, &at, lanes)?;
                    parts.push(self.widen(val, lanes));
                }
                let all = self.concat(parts, lanes);
                for i in 0..per_word {
                    let picks: Vec<u32> = (0..lanes).map(|lane| lane * per_word + i).collect();
                    let code = self.b.shuffle(all, all, &picks);
                    out = Some(self.or_code(out, code, word, i * bits, lanes));
                }
            }
            Coord::At { base, .. } => {
                let mut used = 1;
                let mut parts = Vec::new();
                for i in 0..per_word {
                    let at =
                        self.b.add(self.b.mul(base, self.b.index(per_word.into())), self.b.index(i.into()));
                    let at: Point = rows.iter().copied().chain([Coord::at(at, &self.b)]).collect();
                    let val = self.eval(codes, &at, lanes)?;
                    used = used.max(val.lanes);
                    parts.push(val);
                }
                for (i, val) in (0u32..).zip(parts) {
                    let code = self.widen(val, used);
                    out = Some(self.or_code(out, code, word, i * bits, used));
                }
                return Ok(Val { v: out.unwrap_or_else(|| self.b.zero(ty)), lanes: used });
            }
            _ => return self.lanewise(point, lanes, &mut |me, at| me.packed(codes, word, at, 1)),
        }
        Ok(Val { v: out.unwrap_or_else(|| self.b.zero(ty)), lanes })
    }

    fn or_code(&self, sum: Option<V>, code: V, word: Dtype, shift: u32, lanes: u32) -> V {
        let elem = register(word);
        let ty = self.b.elem(elem, lanes);
        let narrow = if elem == Elem::I32 { code } else { self.b.trunc(code, ty) };
        let shifted = self.b.shl(narrow, self.b.int(elem, lanes, shift.into()));
        sum.map_or(shifted, |sum| self.b.or(sum, shifted))
    }

    /// Vectors of `lanes` elements one after another. Their number is a power of two.
    pub(super) fn concat(&self, mut parts: Vec<V>, mut lanes: u32) -> V {
        while parts.len() > 1 {
            let picks: Vec<u32> = (0..2 * lanes).collect();
            parts = parts
                .chunks(2)
                .map(|pair| {
                    if lanes == 1 {
                        self.b.gather_lanes(pair)
                    } else {
                        self.b.shuffle(pair[0], pair[1], &picks)
                    }
                })
                .collect();
            lanes *= 2;
        }
        parts[0]
    }

    /// The element of a reshaped tile.
    pub(super) fn reshaped(
        &mut self,
        source: Value,
        ty: &Type,
        point: &Point,
        lanes: u32,
    ) -> Result<Val, CodegenError> {
        let from = self.f.ty(source).shape().expect("reshape takes a tile").clone();
        let to = ty.shape().expect("reshape gives a tile").clone();
        if let Some(val) = self.interleaved(source, &from, &to, point, lanes)? {
            return Ok(val);
        }
        let mut at = Point::new();
        for (out_dims, in_dims) in groups(&to, &from) {
            let dims: Vec<u32> = in_dims.iter().map(|&i| from[i]).collect();
            let coords: Vec<(Coord, u32)> = out_dims.iter().map(|&i| (point[i], to[i])).collect();
            self.remap(&coords, &dims, lanes, &mut at);
        }
        self.eval(source, &at, lanes)
    }

    /// `reshape(join(a, b))` that puts the pairs side by side in the last dimension: whole vectors are interleaved.
    fn interleaved(
        &mut self,
        source: Value,
        from: &Shape,
        to: &Shape,
        point: &Point,
        lanes: u32,
    ) -> Result<Option<Val>, CodegenError> {
        let Some(inst) = self.f.def_inst(source) else { return Ok(None) };
        let data = self.f.inst(inst);
        let rank = from.rank();
        let fits = matches!(data.op, Op::Join)
            && self.bufs[source].is_none()
            && rank >= 2
            && to.rank() == rank - 1
            && to[rank - 2] == 2 * from[rank - 2]
            && to.extents()[..rank - 2] == from.extents()[..rank - 2];
        let Some(&Coord::Lanes { base, align, stride: 1 }) = point.last() else { return Ok(None) };
        if !fits || align % lanes != 0 {
            return Ok(None);
        }
        let half = lanes / 2;
        let first = self.b.lshr(base, self.b.index(1));
        let mut at = point.clone();
        at[rank - 2] = Coord::lanes(first, half, &self.b);
        let a = self.eval(data.operands[0], &at, half)?;
        let b = self.eval(data.operands[1], &at, half)?;
        let (a, b) = (self.widen(a, half), self.widen(b, half));
        let v = if half == 1 {
            self.b.gather_lanes(&[a, b])
        } else {
            let picks: Vec<u32> = (0..lanes).map(|lane| lane / 2 + lane % 2 * half).collect();
            self.b.shuffle(a, b, &picks)
        };
        Ok(Some(Val { v, lanes }))
    }

    /// Coordinates of one group of dimensions under other extents with the same product.
    fn remap(&self, coords: &[(Coord, u32)], dims: &[u32], lanes: u32, at: &mut Point) {
        let b = &self.b;
        if let ([(coord, _)], [_]) = (coords, dims) {
            at.push(*coord);
            return;
        }
        // The linear index.
        let mut lin = Coord::at(b.index(0), b);
        let mut step = 1u32;
        for &(coord, extent) in coords.iter().rev() {
            lin = self.add_scaled(lin, coord, step, lanes);
            step *= extent;
        }
        // Back to coordinates, innermost first.
        let mut out = Vec::new();
        for (i, &extent) in dims.iter().enumerate().rev() {
            if i == 0 {
                out.push(lin);
                break;
            }
            let (inner, outer) = self.split_at(lin, extent, lanes);
            out.push(inner);
            lin = outer;
        }
        at.extend(out.into_iter().rev());
    }

    fn add_scaled(&self, sum: Coord, coord: Coord, step: u32, lanes: u32) -> Coord {
        let b = &self.b;
        let scale = b.index(step.into());
        let power = 1u32 << step.trailing_zeros().min(8);
        let parts = |coord: Coord| match coord {
            Coord::At { base, align } => Some((base, align, 0)),
            Coord::Lanes { base, align, stride } => Some((base, align, stride)),
            Coord::Each(_) => None,
        };
        match (parts(sum), parts(coord)) {
            (Some((base, align, stride)), Some((more, more_align, more_stride))) => {
                let base = b.add(base, b.mul(more, scale));
                let align = align.min(more_align.saturating_mul(power));
                match stride + more_stride * i64::from(step) {
                    0 => Coord::at_aligned(base, align, b),
                    stride => Coord::Lanes { base, align, stride },
                }
            }
            _ => {
                let wide = |coord: Coord| {
                    let (v, have) = coord.value(lanes, b);
                    if have == lanes { v } else { b.splat(v, lanes) }
                };
                Coord::Each(b.add(wide(sum), b.mul(wide(coord), b.splat(scale, lanes))))
            }
        }
    }

    /// Remainder and quotient by an extent.
    fn split_at(&self, lin: Coord, extent: u32, lanes: u32) -> (Coord, Coord) {
        let b = &self.b;
        let by = b.index(extent.into());
        let power = 1u32 << extent.trailing_zeros().min(16);
        match lin {
            _ if extent == 1 => (Coord::at(b.index(0), b), lin),
            Coord::At { base, align } => {
                let outer_align = if extent.is_power_of_two() { (align / extent).max(1) } else { 1 };
                (
                    Coord::at_aligned(b.urem(base, by), align.min(power), b),
                    Coord::at_aligned(b.udiv(base, by), outer_align, b),
                )
            }
            Coord::Lanes { base, align, stride } if stride % i64::from(extent) == 0 => (
                Coord::at_aligned(b.urem(base, by), align.min(power), b),
                Coord::Lanes { base: b.udiv(base, by), align: 1, stride: stride / i64::from(extent) },
            ),
            // The lanes stay within one row.
            Coord::Lanes { base, align, stride: 1 } if extent.is_multiple_of(lanes) && align % lanes == 0 => {
                (
                    Coord::Lanes { base: b.urem(base, by), align: align.min(power), stride: 1 },
                    Coord::at(b.udiv(base, by), b),
                )
            }
            other => {
                let (v, have) = other.value(lanes, b);
                let v = if have == lanes { v } else { b.splat(v, lanes) };
                let by = b.splat(by, lanes);
                (Coord::Each(b.urem(v, by)), Coord::Each(b.udiv(v, by)))
            }
        }
    }
}

/// Pairs up runs of dimensions of two shapes with equal products, outermost first.
fn groups(a: &Shape, b: &Shape) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.rank() || j < b.rank() {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let (mut p, mut q) = (1u64, 1u64);
        loop {
            if p <= q && i < a.rank() && (p < q || x.is_empty()) {
                p *= u64::from(a[i]);
                x.push(i);
                i += 1;
            } else if q <= p && j < b.rank() && (q < p || y.is_empty()) {
                q *= u64::from(b[j]);
                y.push(j);
                j += 1;
            } else if p < q && i < a.rank() {
                p *= u64::from(a[i]);
                x.push(i);
                i += 1;
            } else if q < p && j < b.rank() {
                q *= u64::from(b[j]);
                y.push(j);
                j += 1;
            } else {
                break;
            }
        }
        out.push((x, y));
    }
    out
}
