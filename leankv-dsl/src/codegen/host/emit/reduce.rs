//! `reduce` and `scan`.

use super::super::build::V;
use super::{Buf, CodegenError, Coord, Emit, Point, Val};
use crate::ir::{BinaryOp, Block, Combine, CombineKind, Dtype, Inst, Op, Shape, Value};

impl Emit<'_, '_> {
    /// Combines two elements by a built-in, without rounding to a 16-bit type: sums are kept in `f32`.
    fn combined(&mut self, kind: CombineKind, dtype: Dtype, x: Val, y: Val) -> Result<Val, CodegenError> {
        let wide = if dtype.is_float() && dtype != Dtype::F64 { Dtype::F32 } else { dtype };
        match (kind, dtype) {
            (CombineKind::Add, Dtype::I1) => self.binary(BinaryOp::Xor, dtype, x, y),
            _ => self.binary(kind.binary(), wide, x, y),
        }
    }

    /// A vector's lanes combined to one scalar.
    fn fold(&mut self, kind: CombineKind, dtype: Dtype, val: Val) -> Result<Val, CodegenError> {
        let mut val = val;
        while val.lanes > 1 {
            let half = val.lanes / 2;
            let low: Vec<u32> = (0..half).collect();
            let high: Vec<u32> = (half..val.lanes).collect();
            let low = Val { v: self.b.shuffle(val.v, val.v, &low), lanes: half };
            let high = Val { v: self.b.shuffle(val.v, val.v, &high), lanes: half };
            val = self.combined(kind, dtype, low, high)?;
        }
        Ok(val)
    }

    pub(super) fn emit_reduce(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let Op::Reduce { axis, combine } = &data.op else {
            return Err(CodegenError::Malformed("not a reduction".to_owned()));
        };
        let axis = usize::from(*axis);
        let shape = self.f.ty(data.operands[0]).shape().expect("reduce takes tiles").clone();
        let bufs: Vec<Option<Buf>> = data
            .results
            .iter()
            .map(|&result| (!self.f.ty(result).is_scalar()).then(|| self.alloc_for(result)))
            .collect();
        let out_shape = shape.without_axis(axis);
        match combine {
            Combine::Kind(kind) => {
                let (kind, source) = (*kind, data.operands[0]);
                if out_shape.rank() == 0 {
                    let val = self.reduce_all(source, kind)?;
                    self.put(inst, 0, &bufs[0], &Point::new(), 1, val);
                } else if axis + 1 == shape.rank() {
                    self.nest(out_shape.extents(), &mut Point::new(), &mut |me, point| {
                        let val = me.reduce_rows(source, kind, &shape.extents()[axis..], point)?;
                        me.put(inst, 0, &bufs[0], point, 1, val);
                        Ok(())
                    })?;
                } else {
                    self.elements(&out_shape, &mut |me, point, lanes| {
                        let val = me.reduce_column(inst, kind, &shape, axis, point, lanes)?;
                        me.put(inst, 0, &bufs[0], point, lanes, val);
                        Ok(())
                    })?;
                }
            }
            Combine::Region => {
                let region = data.regions[0];
                self.nest(out_shape.extents(), &mut Point::new(), &mut |me, point| {
                    let finals = me.reduce_region(inst, region, &shape, axis, point)?;
                    for (i, &v) in finals.iter().enumerate() {
                        me.put(inst, i, &bufs[i], point, 1, Val::scalar(v));
                    }
                    Ok(())
                })?;
            }
        }
        for (&result, buf) in data.results.iter().zip(bufs) {
            self.bufs[result] = buf;
        }
        Ok(())
    }

    /// Stores a result's element, or defines the scalar.
    fn put(&mut self, inst: Inst, index: usize, buf: &Option<Buf>, point: &Point, lanes: u32, val: Val) {
        let result = self.f.inst(inst).results[index];
        let dtype = self.f.ty(result).dtype();
        let val = Val { v: self.rounded(dtype, val.v, val.lanes), lanes: val.lanes };
        match buf {
            Some(buf) => self.write(buf, point, lanes, val),
            None => self.env[result] = Some(val),
        }
    }

    /// All elements of a tile, in the order in which they lie in the tile of which it is another shape: so no lanes are rearranged.
    fn reduce_all(&mut self, tile: Value, kind: CombineKind) -> Result<Val, CodegenError> {
        let mut source = tile;
        while let Some(inst) = self.f.def_inst(source)
            && matches!(self.f.inst(inst).op, Op::Reshape)
            && self.buffer_of(source).is_none()
            && self.f.ty(self.f.inst(inst).operands[0]).shape().is_some_and(|from| from.rank() > 0)
        {
            source = self.f.inst(inst).operands[0];
        }
        let shape = self.f.ty(source).shape().expect("reduce takes tiles").clone();
        self.reduce_rows(source, kind, shape.extents(), &Point::new())
    }

    /// The elements of a tile from a point on, whose further coordinates have these extents: a vector of partial results and what is left of
    /// rows, then the vector's lanes.
    fn reduce_rows(
        &mut self,
        source: Value,
        kind: CombineKind,
        extents: &[u32],
        point: &Point,
    ) -> Result<Val, CodegenError> {
        let dtype = self.f.ty(source).dtype();
        let extent = *extents.last().expect("reduce takes a dimension");
        let lanes = self.width.min(1 << extent.ilog2());
        let identity = self.constant(kind.identity(dtype), dtype);
        let start = [self.b.splat(identity, lanes), identity];
        let sums = self.add_rows(source, kind, extents, point, lanes, &start)?;
        let total = self.fold(kind, dtype, Val { v: sums[0], lanes })?;
        if extent.is_multiple_of(lanes) {
            return Ok(total);
        }
        self.combined(kind, dtype, total, Val::scalar(sums[1]))
    }

    fn add_rows(
        &mut self,
        source: Value,
        kind: CombineKind,
        extents: &[u32],
        point: &Point,
        width: u32,
        sums: &[V],
    ) -> Result<Vec<V>, CodegenError> {
        let dtype = self.f.ty(source).dtype();
        let at = |coord: Coord| -> Point { point.iter().copied().chain([coord]).collect() };
        let (&extent, inner) = extents.split_first().expect("reduce takes a dimension");
        if !inner.is_empty() {
            return self.repeat(0, extent.into(), 1, sums, |me, index, sums| {
                me.add_rows(source, kind, inner, &at(Coord::at(index, &me.b)), width, sums)
            });
        }
        let whole = extent / width * width;
        let mut out = self.repeat(0, whole.into(), width.into(), &sums[..1], |me, base, sums| {
            let val = me.eval(source, &at(Coord::lanes(base, width, &me.b)), width)?;
            let wide = Val { v: me.widen(val, width), lanes: width };
            Ok(vec![me.combined(kind, dtype, Val { v: sums[0], lanes: width }, wide)?.v])
        })?;
        out.push(sums[1]);
        let (mut from, mut lanes) = (whole, width);
        while from < extent {
            lanes /= 2;
            if from + lanes > extent {
                continue;
            }
            let coord = Coord::lanes(self.b.index(from.into()), lanes, &self.b);
            out[1] = self.scoped(|me| {
                let val = me.eval(source, &at(coord), lanes)?;
                let wide = Val { v: me.widen(val, lanes), lanes };
                let part = me.fold(kind, dtype, wide)?;
                Ok::<_, CodegenError>(me.combined(kind, dtype, Val::scalar(out[1]), part)?.v)
            })?;
            from += lanes;
        }
        Ok(out)
    }

    /// Along another dimension: one vector of results.
    fn reduce_column(
        &mut self,
        inst: Inst,
        kind: CombineKind,
        shape: &Shape,
        axis: usize,
        point: &Point,
        lanes: u32,
    ) -> Result<Val, CodegenError> {
        let source = self.f.inst(inst).operands[0];
        let dtype = self.f.ty(source).dtype();
        let start = self.b.splat(self.constant(kind.identity(dtype), dtype), lanes);
        let sums = self.repeat(0, shape[axis].into(), 1, &[start], |me, index, sums| {
            let mut at = point.clone();
            at.insert(axis, Coord::at(index, &me.b));
            let val = me.eval(source, &at, lanes)?;
            let wide = Val { v: me.widen(val, lanes), lanes };
            Ok(vec![me.combined(kind, dtype, Val { v: sums[0], lanes }, wide)?.v])
        })?;
        Ok(Val { v: sums[0], lanes })
    }

    /// By a region, element after element.
    fn reduce_region(
        &mut self,
        inst: Inst,
        region: Block,
        shape: &Shape,
        axis: usize,
        point: &Point,
    ) -> Result<Vec<V>, CodegenError> {
        let first = self.elements_at(inst, axis, point, self.b.index(0))?;
        if shape[axis] == 1 {
            return Ok(first);
        }
        self.repeat(1, shape[axis].into(), 1, &first, |me, index, sums| {
            let next = me.elements_at(inst, axis, point, index)?;
            let args: Vec<Val> = sums.iter().chain(&next).map(|&v| Val::scalar(v)).collect();
            Ok(me.region(region, &args)?.into_iter().map(|val| val.v).collect())
        })
    }

    /// The scalars of all operands at one index along an axis.
    fn elements_at(
        &mut self,
        inst: Inst,
        axis: usize,
        point: &Point,
        index: V,
    ) -> Result<Vec<V>, CodegenError> {
        let mut at = point.clone();
        at.insert(axis, Coord::at(index, &self.b));
        let operands = self.f.inst(inst).operands.clone();
        operands.iter().map(|&operand| Ok(self.eval(operand, &at, 1)?.v)).collect()
    }

    pub(super) fn emit_scan(&mut self, inst: Inst) -> Result<(), CodegenError> {
        let data = self.f.inst(inst);
        let Op::Scan { axis, reverse, combine } = data.op else {
            return Err(CodegenError::Malformed("not a scan".to_owned()));
        };
        let axis = usize::from(axis);
        let shape = self.f.ty(data.operands[0]).shape().expect("scan takes tiles").clone();
        let bufs: Vec<Buf> = data.results.iter().map(|&result| self.alloc_for(result)).collect();
        let extent = shape[axis];
        let dtype = self.f.ty(data.operands[0]).dtype();
        let region = data.regions.first().copied();
        let rows = shape.without_axis(axis);
        let along = |me: &mut Self, index: V| {
            if reverse { me.b.sub(me.b.index(u64::from(extent) - 1), index) } else { index }
        };
        if let (Combine::Kind(kind), false, true) =
            (combine, reverse, dtype.is_int() && axis + 1 == shape.rank())
        {
            self.nest(rows.extents(), &mut Point::new(), &mut |me, point| {
                me.scan_row(data.operands[0], kind, extent, &bufs[0], point)
            })?;
            self.bufs[data.results[0]] = bufs.into_iter().next();
            return Ok(());
        }
        self.nest(rows.extents(), &mut Point::new(), &mut |me, point| {
            let at = along(me, me.b.index(0));
            let first = me.elements_at(inst, axis, point, at)?;
            me.put_row(&bufs, axis, point, at, &first);
            if extent == 1 {
                return Ok(());
            }
            me.repeat(1, extent.into(), 1, &first, |me, index, sums| {
                let at = along(me, index);
                let next = me.elements_at(inst, axis, point, at)?;
                // The left operand stands for the lower indices.
                let (low, high) = if reverse { (&next[..], sums) } else { (sums, &next[..]) };
                let out: Vec<V> = match (combine, region) {
                    (Combine::Kind(kind), _) => {
                        let (x, y) = (Val::scalar(low[0]), Val::scalar(high[0]));
                        vec![me.combined(kind, dtype, x, y)?.v]
                    }
                    (Combine::Region, Some(region)) => {
                        let args: Vec<Val> = low.iter().chain(high).map(|&v| Val::scalar(v)).collect();
                        me.region(region, &args)?.into_iter().map(|val| val.v).collect()
                    }
                    (Combine::Region, None) => {
                        return Err(CodegenError::Malformed("a scan without its region".to_owned()));
                    }
                };
                me.put_row(&bufs, axis, point, at, &out);
                Ok(out)
            })?;
            Ok(())
        })?;
        for (&result, buf) in data.results.iter().zip(bufs) {
            self.bufs[result] = Some(buf);
        }
        Ok(())
    }

    /// Integers along the last dimension, whose order of combination does not matter: within vectors in steps of 1, 2, 4 .. lanes, and from vector to
    /// vector what came before.
    fn scan_row(
        &mut self,
        source: Value,
        kind: CombineKind,
        extent: u32,
        buf: &Buf,
        point: &Point,
    ) -> Result<(), CodegenError> {
        let dtype = buf.dtype;
        let identity = self.constant(kind.identity(dtype), dtype);
        let (mut from, mut lanes, mut before) = (0, self.width, identity);
        while from < extent {
            let end = from + (extent - from) / lanes * lanes;
            if from < end {
                let sums =
                    self.repeat(from.into(), end.into(), lanes.into(), &[before], |me, base, sums| {
                        let at: Point =
                            point.iter().copied().chain([Coord::lanes(base, lanes, &me.b)]).collect();
                        let val = me.eval(source, &at, lanes)?;
                        let mut val = Val { v: me.widen(val, lanes), lanes };
                        let none = me.b.splat(identity, lanes);
                        for step in (0..lanes.ilog2()).map(|i| 1 << i) {
                            let picks: Vec<u32> =
                                (0..lanes).map(|i| if i < step { lanes } else { i - step }).collect();
                            let earlier = Val { v: me.b.shuffle(val.v, none, &picks), lanes };
                            val = me.combined(kind, dtype, earlier, val)?;
                        }
                        let val = me.combined(kind, dtype, Val::scalar(sums[0]), val)?;
                        me.write(buf, &at, lanes, val);
                        Ok(vec![if lanes == 1 { val.v } else { me.b.lane(val.v, lanes - 1) }])
                    })?;
                (from, before) = (end, sums[0]);
            }
            lanes /= 2;
        }
        Ok(())
    }

    /// Writes one element of each scanned tile.
    fn put_row(&mut self, bufs: &[Buf], axis: usize, point: &Point, index: V, values: &[V]) {
        let mut at = point.clone();
        at.insert(axis, Coord::at(index, &self.b));
        for (buf, &v) in bufs.iter().zip(values) {
            let v = self.rounded(buf.dtype, v, 1);
            self.write(buf, &at, 1, Val::scalar(v));
        }
    }
}
