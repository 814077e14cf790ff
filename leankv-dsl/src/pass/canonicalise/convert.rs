//! Casts of casts.

use super::*;

impl Walk<'_> {
    pub(super) fn cast(&mut self, inst: Inst, data: &InstData) -> Rewrite {
        let x = data.operands[0];
        let (from, to) = (self.dtype(x), self.dtype(data.results[0]));
        if from == to {
            return Rewrite::value(x);
        }
        let Some(inner) = self.def(x).filter(|d| matches!(d.op, Op::Cast)) else { return Rewrite::Keep };
        let source = inner.operands[0];
        if !through(self.dtype(source), from, to) {
            return Rewrite::Keep;
        }
        if self.dtype(source) == to {
            return Rewrite::value(source);
        }
        self.become_op(inst, Op::Cast, &[source])
    }

    pub(super) fn bitcast(&mut self, inst: Inst, data: &InstData) -> Rewrite {
        let x = data.operands[0];
        let to = self.dtype(data.results[0]);
        if self.dtype(x) == to {
            return Rewrite::value(x);
        }
        let Some(inner) = self.def(x).filter(|d| matches!(d.op, Op::Bitcast)) else { return Rewrite::Keep };
        let source = inner.operands[0];
        if self.dtype(source) == to {
            return Rewrite::value(source);
        }
        self.become_op(inst, Op::Bitcast, &[source])
    }
}

/// Whether casting `a` to `b` and then to `c` is casting `a` to `c` for every value.
fn through(a: Dtype, b: Dtype, c: Dtype) -> bool {
    if c == Dtype::I1 {
        // Nothing but zero becomes zero on the way.
        return holds_all(a, b);
    }
    if b.is_float() && !a.is_float() && !c.is_float() {
        // Casting a float saturates, casting an integer wraps.
        return holds_all(a, b) && holds_all(a, c);
    }
    if holds_all(a, b) {
        return true;
    }
    // Low bits of low bits.
    let whole = |d: Dtype| d.is_int() || d.is_code();
    whole(a) && whole(b) && whole(c) && c.bits() <= b.bits()
}

/// Whether every value of `a` is a value of `b`, so that the cast loses nothing.
fn holds_all(a: Dtype, b: Dtype) -> bool {
    let unsigned = |d: Dtype| d.is_unsigned_int() || d.is_code() || d == Dtype::I1;
    // Bits of magnitude.
    let magnitude = |d: Dtype| if d.is_signed_int() { d.bits() - 1 } else { d.bits() };
    if b == Dtype::I1 {
        return a == Dtype::I1;
    }
    if b.is_float() {
        let exact = match b {
            Dtype::F16 => 11,
            Dtype::BF16 => 8,
            Dtype::F32 => 24,
            _ => 53,
        };
        return match a {
            Dtype::F16 => matches!(b, Dtype::F16 | Dtype::F32 | Dtype::F64),
            Dtype::BF16 => matches!(b, Dtype::BF16 | Dtype::F32 | Dtype::F64),
            Dtype::F32 => matches!(b, Dtype::F32 | Dtype::F64),
            Dtype::F64 => b == Dtype::F64,
            whole => magnitude(whole) <= exact,
        };
    }
    !a.is_float() && (unsigned(a) || b.is_signed_int()) && magnitude(a) <= magnitude(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::fold_constant;

    /// Values that sit at the edges of all types.
    fn samples(dtype: Dtype) -> Vec<Const> {
        let mut out = Vec::new();
        if dtype.is_float() {
            for x in
                [0.0, -0.0, 0.3, -0.3, 1.5, -2.0, 255.5, 300.0, -1e5, 7e4, 1e10, -1e20, 1e-30, f64::INFINITY]
            {
                out.push(Const::float(x).rounded(dtype));
            }
            out.push(Const::float(f64::NAN));
        } else {
            for shift in [0, 1, 4, 7, 8, 15, 16, 24, 31, 32, 53, 63] {
                for offset in [-1, 0, 1] {
                    out.push(Const::Int((1i128 << shift) + offset).rounded(dtype));
                    out.push(Const::Int(-(1i128 << shift) + offset).rounded(dtype));
                }
            }
        }
        out
    }

    #[test]
    fn skipping_the_middle_of_two_casts_gives_what_both_give() {
        let mut all = Dtype::PLAIN.to_vec();
        all.extend([Dtype::Code(3), Dtype::Code(8)]);
        let mut skipped = 0;
        for &a in &all {
            for &b in &all {
                for &c in &all {
                    let exists = |from: Dtype, to: Dtype| !(from.is_float() && to.is_code());
                    if !exists(a, b) || !exists(b, c) || !through(a, b, c) {
                        continue;
                    }
                    assert!(exists(a, c), "{a} to {c}");
                    skipped += 1;
                    for x in samples(a) {
                        let cast = |x: Const, from, to| fold_constant(&Op::Cast, &[(x, from)], to).unwrap();
                        let step = cast(cast(x, a, b), b, c);
                        assert_eq!(step, cast(x, a, c), "{x:?}: {a} to {b} to {c}");
                    }
                }
            }
        }
        assert!(skipped > 500, "{skipped}");
    }
}
