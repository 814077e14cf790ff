//! `dot`: register-blocked kernels whose second operand is computed on demand.
//!
//! The first operand lies in memory in the accumulator's type. With few rows (decode attention) the second operand's elements are
//! decoded once, in registers, right where they are multiplied; with many rows it is decoded to memory once and read from there.
//!
//! * *outer* form, vectors along n: `acc[m][n..] += a[m][k] * b[k][n..]`, for operands that lie row after row (values).
//! * *inner* form, vectors along k: `acc[m][n] += a[m][k..] * b[k..][n]` and a sum over lanes at the end, for operands that
//!   are transposed on the way in (keys).

use std::cell::Cell;

use super::super::build::V;
use super::super::plan::DOT_FUSED_ROWS;
use super::lanes::{MOST_OPS, Pattern, lane_stride, without_units};
use super::{Buf, CodegenError, Coord, Emit, Point, Val, register, scratch_elem};
use crate::ir::{Def, Dtype, Inst, Op, Shape, Value};

/// The second operand.
enum Second {
    /// Computed where it is needed, at `[k, n]`.
    Fused(Value),
    /// In memory as `[k, n]`.
    Rows(Buf),
    /// In memory as `[n, k]`.
    Columns(Buf),
}

/// One product.
struct Product {
    a: Buf,
    b: Second,
    acc: Value,
    out: Buf,
    m: u32,
    n: u32,
    k: u32,
    /// The accumulator's type.
    dtype: Dtype,
}

impl Emit<'_, '_> {
    pub(super) fn emit_dot(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let (a, b, acc, result) = (data.operands[0], data.operands[1], data.operands[2], data.results[0]);
        let a_shape = self.f.ty(a).shape().expect("dot takes tiles").clone();
        let b_shape = self.f.ty(b).shape().expect("dot takes tiles").clone();
        let dtype = self.f.ty(result).dtype();
        let (m, k, n) = (a_shape[0], a_shape[1], b_shape[1]);
        let a = self.in_accumulator_type(a, dtype, &a_shape)?;
        let along_n = self.gathers(b, &Pattern::from_slice(&[Some(0), Some(1)]), &Cell::new(MOST_OPS));
        let along_k = self.gathers(b, &Pattern::from_slice(&[Some(1), Some(0)]), &Cell::new(MOST_OPS));
        // On a tie the outer form, unless its vectors would be short and the inner form's are not.
        let inner = along_k < along_n || (along_k == along_n && n < self.width && k >= self.width);
        let b = if m <= DOT_FUSED_ROWS {
            Second::Fused(b)
        } else if inner {
            let buf = Buf { ptr: self.alloc(dtype, b_shape.elements()), dtype, shape: Shape::new(&[n, k]) };
            let from = self.f.ty(b).dtype();
            let shape = buf.shape.clone();
            self.elements(&shape, &mut |me, point, lanes| {
                let at: Point = [point[1], point[0]].into_iter().collect();
                let val = me.eval(b, &at, lanes)?;
                let val = me.cast(from, dtype, val)?;
                me.write(&buf, point, lanes, val);
                Ok(())
            })?;
            Second::Columns(buf)
        } else {
            Second::Rows(self.in_accumulator_type(b, dtype, &b_shape)?)
        };
        let out = self.alloc_for(result);
        let product = Product { a, b, acc, out: out.clone(), m, n, k, dtype };
        if inner {
            self.inner(&product)?
        } else {
            self.outer(&product)?
        }
        self.bufs[result] = Some(out);
        Ok(())
    }

    /// A tile in memory in the accumulator's type: as it is where it already lies so.
    fn in_accumulator_type(
        &mut self,
        value: Value,
        dtype: Dtype,
        shape: &Shape,
    ) -> Result<Buf, CodegenError> {
        let from = self.f.ty(value).dtype();
        if let Some(buf) = self.buffer_of(value)
            && scratch_elem(from) == scratch_elem(dtype)
        {
            return Ok(Buf { dtype, ..buf });
        }
        let buf = Buf { ptr: self.alloc(dtype, shape.elements()), dtype, shape: shape.clone() };
        self.elements(shape, &mut |me, point, lanes| {
            let val = me.eval(value, point, lanes)?;
            let val = me.cast(from, dtype, val)?;
            me.write(&buf, point, lanes, val);
            Ok(())
        })?;
        Ok(buf)
    }

    /// The number of accesses below a value that are neither uniform nor of neighbouring elements, among the first ops below it.
    fn gathers(&self, value: Value, pattern: &Pattern, left: &Cell<u32>) -> u32 {
        if left.get() == 0 || pattern.iter().all(|stride| *stride == Some(0)) {
            return 0;
        }
        left.set(left.get() - 1);
        if let Some(buf) = self.buffer_of(value) {
            let mut step = 1;
            let mut total = Some(0i64);
            for (i, stride) in pattern.iter().enumerate().rev() {
                total = total.zip(*stride).map(|(sum, stride)| sum + stride * step);
                step *= i64::from(buf.shape[i]);
            }
            return u32::from(!matches!(total, Some(0 | 1)));
        }
        let Def::Result(inst, _) = self.f.value(value).def else { return 0 };
        let data = self.f.inst(inst);
        let of = |i: usize, pattern: &Pattern| {
            let operand = data.operands[i];
            if self.f.ty(operand).is_ptr() || self.f.ty(operand).is_scalar() {
                0
            } else {
                self.gathers(operand, pattern, left)
            }
        };
        let all = |pattern: &Pattern| (0..data.operands.len()).map(|i| of(i, pattern)).sum::<u32>();
        match &data.op {
            Op::Constant(_) | Op::Iota | Op::Splat => 0,
            Op::ExpandDims { axis } => {
                let mut source = pattern.clone();
                source.remove(usize::from(*axis));
                of(0, &source)
            }
            Op::Broadcast => {
                let shape = self.f.ty(data.operands[0]).shape().expect("broadcast takes a tile");
                let mut source = pattern.clone();
                for (i, stride) in source.iter_mut().enumerate() {
                    if shape[i] == 1 {
                        *stride = Some(0);
                    }
                }
                of(0, &source)
            }
            Op::Transpose { perm } => {
                let mut source = pattern.clone();
                for (i, &p) in perm.iter().enumerate() {
                    source[usize::from(p)] = pattern[i];
                }
                of(0, &source)
            }
            Op::Load { .. } => {
                let opaque = |v: Value| self.bufs[v].is_some();
                let stride = lane_stride(self.f, &opaque, data.operands[1], pattern);
                let access = u32::from(!matches!(stride, Some(0 | 1)));
                access + (2..data.operands.len()).map(|i| of(i, pattern)).sum::<u32>()
            }
            Op::Reshape => {
                let source = self.f.ty(data.operands[0]).shape().expect("reshape takes a tile");
                let to = self.f.ty(value).shape().expect("reshape gives a tile");
                if let Some(source) = without_units(pattern, to.extents(), source.extents()) {
                    return of(0, &source);
                }
                let (last, rest) = pattern.split_last().expect("a scalar is uniform");
                let mut inner: Pattern = smallvec::smallvec![Some(0); source.rank()];
                let simple = *last == Some(1) && rest.iter().all(|stride| *stride == Some(0));
                if simple && source.rank() > 0 {
                    inner[source.rank() - 1] = Some(1);
                    of(0, &inner)
                } else {
                    4
                }
            }
            Op::Unpack | Op::Pack => {
                of(0, pattern) + u32::from(pattern[..pattern.len() - 1].iter().any(|s| *s != Some(0)))
            }
            Op::Join => {
                let mut source = pattern.clone();
                source.pop();
                all(&source)
            }
            Op::Split => {
                let mut source = pattern.clone();
                source.push(Some(0));
                of(0, &source)
            }
            Op::Gather { .. } => 1 + all(pattern),
            _ => all(pattern),
        }
    }

    /// Elements of the second operand in the accumulator's type.
    fn second(&mut self, p: &Product, k: Coord, n: Coord, lanes: u32) -> Result<V, CodegenError> {
        let val = match &p.b {
            Second::Fused(value) => {
                let from = self.f.ty(*value).dtype();
                let val = self.eval(*value, &[k, n].into_iter().collect(), lanes)?;
                self.cast(from, p.dtype, val)?
            }
            Second::Rows(buf) => self.read(buf, &[k, n].into_iter().collect(), lanes)?,
            Second::Columns(buf) => self.read(buf, &[n, k].into_iter().collect(), lanes)?,
        };
        Ok(self.widen(val, lanes))
    }

    /// `sum + a * b` in the accumulator's type.
    fn multiply_add(&mut self, p: &Product, a: V, b: V, sum: V) -> Result<V, CodegenError> {
        if p.dtype.is_float() {
            let ty = self.b.ty(sum);
            self.b.intrinsic("llvm.fma", &[ty], &[a, b, sum])
        } else {
            Ok(self.b.add(sum, self.b.mul(a, b)))
        }
    }

    fn plus(&self, p: &Product, a: V, b: V) -> V {
        if p.dtype.is_float() { self.b.fadd(a, b) } else { self.b.add(a, b) }
    }

    /// `base + by`.
    fn shifted(&self, base: V, by: u32, align: u32) -> Coord {
        Coord::at_aligned(self.b.add(base, self.b.index(by.into())), align, &self.b)
    }

    /// Neighbours from `base + by`, both multiples of `lanes`.
    fn shifted_lanes(&self, base: V, by: u32, lanes: u32) -> Coord {
        Coord::lanes(self.b.add(base, self.b.index(by.into())), lanes, &self.b)
    }

    /// Lanes of the accumulator's type in a vector register.
    fn product_width(&self, dtype: Dtype) -> u32 {
        if dtype.bits() == 64 { (self.width / 2).max(1) } else { self.width }
    }

    /// Blocks along an extent: a loop of whole blocks, then what is left.
    fn blocks(
        &mut self,
        extent: u32,
        block: u32,
        body: &mut dyn FnMut(&mut Self, V, u32) -> Result<(), CodegenError>,
    ) -> Result<(), CodegenError> {
        let whole = extent / block * block;
        if whole > 0 {
            self.repeat(0, whole.into(), block.into(), &[], |me, at, _| {
                body(me, at, block)?;
                Ok(Vec::new())
            })?;
        }
        if whole < extent {
            let at = self.b.index(whole.into());
            self.scoped(|me| body(me, at, extent - whole))?;
        }
        Ok(())
    }

    fn outer(&mut self, p: &Product) -> Result<(), CodegenError> {
        let width = self.product_width(p.dtype);
        let room = self.registers * 3 / 4;
        let rows = if p.m <= DOT_FUSED_ROWS { p.m } else { 6 };
        let most = (room / rows).clamp(1, 8);
        let chunks = (p.n / width).max(1);
        let count = chunks.div_ceil(chunks.div_ceil(most));
        let whole = p.n / width * width;
        self.blocks(whole, count * width, &mut |me, n, columns| {
            me.blocks(p.m, rows, &mut |me, m, rows| me.outer_block(p, m, rows, n, columns / width, width))
        })?;
        let (mut at, mut lanes) = (whole, width);
        while at < p.n {
            lanes /= 2;
            if at + lanes <= p.n {
                let n = self.b.index(at.into());
                self.blocks(p.m, rows, &mut |me, m, rows| me.outer_block(p, m, rows, n, 1, lanes))?;
                at += lanes;
            }
        }
        Ok(())
    }

    /// `rows` x `count` vectors of sums from row m and column n.
    fn outer_block(
        &mut self,
        p: &Product,
        m: V,
        rows: u32,
        n: V,
        count: u32,
        lanes: u32,
    ) -> Result<(), CodegenError> {
        let elem = register(p.dtype);
        let mut sums = Vec::new();
        for row in 0..rows {
            for chunk in 0..count {
                let at: Point = [self.shifted(m, row, 1), self.shifted_lanes(n, chunk * lanes, lanes)]
                    .into_iter()
                    .collect();
                let val = self.eval(p.acc, &at, lanes)?;
                sums.push(self.widen(val, lanes));
            }
        }
        let row_at: Vec<V> = (0..rows)
            .map(|row| {
                let from = self.b.mul(self.b.add(m, self.b.index(row.into())), self.b.index(p.k.into()));
                self.b.offset(p.a.ptr, elem, from)
            })
            .collect();
        let sums = self.repeat(0, p.k.into(), 1, &sums, |me, k, sums| {
            let mut out = sums.to_vec();
            let mut b = Vec::new();
            for chunk in 0..count {
                let k = Coord::at(k, &me.b);
                let n = me.shifted_lanes(n, chunk * lanes, lanes);
                b.push(me.second(p, k, n, lanes)?);
            }
            for (row, &from) in row_at.iter().enumerate() {
                let a = me.b.load(elem, 1, me.b.offset(from, elem, k), false);
                let a = me.b.splat(a, lanes);
                for (chunk, &b) in b.iter().enumerate() {
                    let i = row * count as usize + chunk;
                    out[i] = me.multiply_add(p, a, b, out[i])?;
                }
            }
            Ok(out)
        })?;
        for row in 0..rows {
            for chunk in 0..count {
                let at: Point = [self.shifted(m, row, 1), self.shifted_lanes(n, chunk * lanes, lanes)]
                    .into_iter()
                    .collect();
                let v = sums[(row * count + chunk) as usize];
                self.write(&p.out, &at, lanes, Val { v, lanes });
            }
        }
        Ok(())
    }

    fn inner(&mut self, p: &Product) -> Result<(), CodegenError> {
        let room = self.registers * 3 / 4;
        let rows = if p.m <= DOT_FUSED_ROWS { p.m } else { 4 };
        let most = (room / rows).clamp(1, 8);
        let columns = 1 << most.ilog2();
        let whole = p.n / columns * columns;
        if whole > 0 {
            self.blocks(whole, columns, &mut |me, n, _| {
                me.blocks(p.m, rows, &mut |me, m, rows| me.inner_block(p, m, rows, n, columns))
            })?;
        }
        let (mut at, mut left) = (whole, columns);
        while at < p.n {
            left /= 2;
            if at + left <= p.n {
                let n = self.b.index(at.into());
                self.blocks(p.m, rows, &mut |me, m, rows| me.inner_block(p, m, rows, n, left))?;
                at += left;
            }
        }
        Ok(())
    }

    /// `rows` x `columns` sums from row m and column n; columns are a power of two.
    fn inner_block(&mut self, p: &Product, m: V, rows: u32, n: V, columns: u32) -> Result<(), CodegenError> {
        let elem = register(p.dtype);
        let width = self.product_width(p.dtype).min(1 << p.k.ilog2()).max(columns);
        let zero = self.b.zero(self.b.elem(elem, width));
        let whole = p.k / width * width;
        let mut sums = vec![zero; (rows * columns) as usize];
        if whole > 0 {
            sums = self.repeat(0, whole.into(), width.into(), &sums, |me, k, sums| {
                me.inner_step(p, m, rows, n, columns, Coord::lanes(k, width, &me.b), width, width, sums)
            })?;
        }
        let (mut at, mut lanes) = (whole, width);
        while at < p.k {
            lanes /= 2;
            if at + lanes <= p.k {
                let k = Coord::lanes(self.b.index(at.into()), lanes, &self.b);
                let now = sums;
                sums = self.scoped(|me| me.inner_step(p, m, rows, n, columns, k, lanes, width, &now))?;
                at += lanes;
            }
        }
        // Sums of several rows are taken together, as many as a vector has lanes for: the fewer lanes stay empty, the fewer steps.
        let (mut first, most) = (0, (width / columns).max(1));
        while first < rows {
            let count = 1 << (rows - first).min(most).ilog2();
            let from = (first * columns) as usize;
            let together = self.lane_sums(p, &sums[from..from + (count * columns) as usize], width);
            for row in first..first + count {
                let v = match count {
                    1 => together,
                    _ => {
                        let picks: Vec<u32> = (0..columns).map(|i| (row - first) * columns + i).collect();
                        self.b.shuffle(together, together, &picks)
                    }
                };
                let at: Point =
                    [self.shifted(m, row, 1), self.shifted_lanes(n, 0, columns)].into_iter().collect();
                // Sums began with +0, so that adding +0 would not change them.
                let v = match self.f.constant(p.acc) {
                    Some(zero) if zero.as_f64().to_bits() == 0 => v,
                    _ => {
                        let acc = self.eval(p.acc, &at, columns)?;
                        self.plus(p, self.widen(acc, columns), v)
                    }
                };
                self.write(&p.out, &at, columns, Val { v, lanes: columns });
            }
            first += count;
        }
        Ok(())
    }

    /// One vector along k: `lanes` elements, in sums of `width` lanes.
    fn inner_step(
        &mut self,
        p: &Product,
        m: V,
        rows: u32,
        n: V,
        columns: u32,
        k: Coord,
        lanes: u32,
        width: u32,
        sums: &[V],
    ) -> Result<Vec<V>, CodegenError> {
        let mut out = sums.to_vec();
        let mut a = Vec::new();
        for row in 0..rows {
            let at: Point = [self.shifted(m, row, 1), k].into_iter().collect();
            let val = self.read(&p.a, &at, lanes)?;
            a.push(self.padded(val.v, lanes, width));
        }
        for column in 0..columns {
            let n = self.shifted(n, column, 1);
            let b = self.second(p, k, n, lanes)?;
            let b = self.padded(b, lanes, width);
            for (row, &a) in a.iter().enumerate() {
                let i = row * columns as usize + column as usize;
                out[i] = self.multiply_add(p, a, b, out[i])?;
            }
        }
        Ok(out)
    }

    /// A vector with zeros behind.
    fn padded(&self, v: V, lanes: u32, width: u32) -> V {
        if lanes == width {
            return v;
        }
        let v = if lanes == 1 { self.b.gather_lanes(&[v, self.b.zero(self.b.ty(v))]) } else { v };
        let have = lanes.max(2);
        if have == width {
            return v;
        }
        let zero = self.b.zero(self.b.ty(v));
        let picks: Vec<u32> = (0..width).map(|i| i.min(have)).collect();
        self.b.shuffle(v, zero, &picks)
    }

    /// The sums over lanes of several vectors (a power of two, at most as many as lanes), as one vector.
    ///
    /// Two vectors become one by adding the halves of each group of lanes that belongs to one sum: one half stays where it is, which no shuffle has to move.
    fn lane_sums(&self, p: &Product, vectors: &[V], lanes: u32) -> V {
        let mut vectors = vectors.to_vec();
        let mut group = lanes;
        while vectors.len() > 1 {
            let half = group / 2;
            // Each keeps the half of every group in which its sum will be, and takes what it adds there from the other half.
            let first = |i: u32| i % group < half;
            let kept: Vec<u32> = (0..lanes).map(|i| if first(i) { i } else { lanes + i }).collect();
            let moved: Vec<u32> =
                (0..lanes).map(|i| if first(i) { i + half } else { lanes + i - half }).collect();
            let (low, high) = vectors.split_at(vectors.len() / 2);
            vectors = low
                .iter()
                .zip(high)
                .map(|(&a, &b)| self.plus(p, self.b.shuffle(a, b, &kept), self.b.shuffle(a, b, &moved)))
                .collect();
            group = half;
        }
        let mut v = vectors[0];
        let count = lanes / group;
        let spacing = group;
        while group > 1 {
            let half = group / 2;
            let picks: Vec<u32> = (0..lanes).map(|lane| lane ^ half).collect();
            v = self.plus(p, v, self.b.shuffle(v, v, &picks));
            group = half;
        }
        if spacing == 1 {
            return v;
        }
        let firsts: Vec<u32> = (0..count).map(|i| i * spacing).collect();
        self.b.shuffle(v, v, &firsts)
    }
}
