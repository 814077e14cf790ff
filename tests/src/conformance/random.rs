//! Random programs: well-typed, deterministic from a seed, and of ops alone whose results are exact.
//!
//! Left out are approximate functions, float sums and float `min`/`max` (where two zeros differ); what remains must be equal bit
//! for bit on every executor. Divisors are made odd, indices are brought into range, loops are short.

use leankv_dsl::ir::{BinaryOp, CmpOp, Combine, CombineKind, Const, Dtype, Op, Type, UnaryOp, Value};

use super::data::{Rng, random};
use super::number::Num;
use super::{Case, Check, K};

const TYPES: [Dtype; 12] = [
    Dtype::I8,
    Dtype::I16,
    Dtype::I32,
    Dtype::I64,
    Dtype::U8,
    Dtype::U16,
    Dtype::U32,
    Dtype::U64,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F32,
    Dtype::F64,
];

const SHAPES: [&[u32]; 9] = [&[], &[13], &[5, 13], &[16, 8], &[60], &[2, 3, 5], &[96], &[1, 80], &[32, 4]];

/// A kernel from a seed.
pub fn program(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let mut k = K::new(format!("random.{seed}"));
    k.warps([1, 2, 4][rng.below(3)]);
    let mut g = Generator { k, rng, pool: Vec::new(), depth: 0 };
    for i in 0..3 {
        let dtype = g.rng.pick(&TYPES);
        let extents = g.rng.pick(&SHAPES);
        let elements: Vec<Num> =
            (0..super::cases::count(extents)).map(|_| random(dtype, &mut g.rng)).collect();
        let ptr = g.k.input(&format!("x{i}"), dtype, &elements);
        let tile = g.k.load(ptr, extents);
        g.pool.push(tile);
    }
    let steps = 8 + g.rng.below(16);
    for _ in 0..steps {
        g.step();
    }
    let values = g.pool.split_off(3);
    for (i, value) in values.into_iter().rev().take(5).enumerate() {
        let ty = g.k.ty(value);
        let n = ty.shape().map_or(1, |s| s.elements()) as usize;
        let out = g.k.output(&format!("out{i}"), ty.dtype(), n, Check::Bits);
        g.k.store(out, value);
    }
    g.k.done()
}

struct Generator {
    k: K,
    rng: Rng,
    /// Values that are visible.
    pool: Vec<Value>,
    depth: u32,
}

impl Generator {
    /// Appends a random op on values of the pool and adds its result.
    fn step(&mut self) {
        let a = self.rng.pick(&self.pool.clone());
        let result = match self.rng.below(if self.depth < 2 { 17 } else { 14 }) {
            0 | 1 => self.unary(a),
            2..=5 => self.binary(a),
            6 => self.select(a),
            7 | 8 => {
                let to = self.rng.pick(&TYPES);
                self.k.cast(a, to)
            }
            9 => self.fma(a),
            10 => self.moved(a),
            11 | 12 => self.fold(a),
            13 => self.gathered(a),
            14 => self.looped(a),
            _ => self.branch(a),
        };
        self.pool.push(result);
    }

    fn dtype(&self, v: Value) -> Dtype {
        self.k.ty(v).dtype()
    }

    fn extents(&self, v: Value) -> Vec<u32> {
        self.k.ty(v).shape().map(|s| s.extents().to_vec()).unwrap_or_default()
    }

    fn number(&self, dtype: Dtype, x: i64) -> Const {
        if dtype.is_float() { Const::float(x as f64) } else { Const::Int(x.into()) }
    }

    fn filled(&mut self, like: Value, x: i64) -> Value {
        let ty = self.k.ty(like);
        let value = self.number(ty.dtype(), x);
        self.k.constant(value, &ty)
    }

    /// Another value of the type of `a`: from the pool, converted, or a constant.
    fn partner(&mut self, a: Value) -> Value {
        let ty = self.k.ty(a);
        let same: Vec<Value> = self.pool.iter().copied().filter(|&v| self.k.ty(v) == ty).collect();
        if !same.is_empty() && self.rng.below(4) > 0 {
            return self.rng.pick(&same);
        }
        let shape = ty.shape().cloned();
        let alike: Vec<Value> =
            self.pool.iter().copied().filter(|&v| self.k.ty(v).shape().cloned() == shape).collect();
        if self.rng.below(2) == 0 {
            let other = self.rng.pick(&alike);
            return self.k.cast(other, ty.dtype());
        }
        let x = self.rng.below(100) as i64;
        self.filled(a, x)
    }

    fn unary(&mut self, a: Value) -> Value {
        let ints = [UnaryOp::Neg, UnaryOp::Not, UnaryOp::Abs, UnaryOp::Popcount, UnaryOp::Clz];
        let floats = [
            UnaryOp::Neg,
            UnaryOp::Abs,
            UnaryOp::Sqrt,
            UnaryOp::Floor,
            UnaryOp::Ceil,
            UnaryOp::Round,
            UnaryOp::Trunc,
        ];
        let op = if self.dtype(a).is_float() { self.rng.pick(&floats) } else { self.rng.pick(&ints) };
        self.k.op(Op::Unary(op), &[a])
    }

    fn binary(&mut self, a: Value) -> Value {
        use BinaryOp::*;
        let dtype = self.dtype(a);
        let mut b = self.partner(a);
        let op = match dtype.is_float() {
            true => self.rng.pick(&[Add, Sub, Mul, Div]),
            false => self.rng.pick(&[Add, Sub, Mul, Div, Rem, Min, Max, And, Or, Xor, Shl, Shr]),
        };
        if matches!(op, Div | Rem) && !dtype.is_float() {
            let one = self.filled(b, 1);
            b = self.k.op(Op::Binary(Or), &[b, one]);
        }
        self.k.op(Op::Binary(op), &[a, b])
    }

    fn select(&mut self, a: Value) -> Value {
        let (b, c) = (self.partner(a), self.partner(a));
        let op = self.rng.pick(CmpOp::ALL);
        let cond = self.k.op(Op::Cmp(op), &[a, b]);
        self.k.op(Op::Select, &[cond, c, b])
    }

    fn fma(&mut self, a: Value) -> Value {
        let (b, c) = (self.partner(a), self.partner(a));
        if self.dtype(a).is_float() {
            return self.k.op(Op::Fma, &[a, b, c]);
        }
        let product = self.k.op(Op::Binary(BinaryOp::Mul), &[a, b]);
        self.k.op(Op::Binary(BinaryOp::Add), &[product, c])
    }

    /// The same elements elsewhere.
    fn moved(&mut self, a: Value) -> Value {
        let extents = self.extents(a);
        let dtype = self.dtype(a);
        if extents.is_empty() {
            let to = self.rng.pick(&SHAPES);
            return self.k.typed(Op::Splat, &[a], &Type::tile(dtype, to));
        }
        if extents.len() >= 2 && self.rng.below(2) == 0 {
            let mut perm: Vec<u8> = (0..extents.len() as u8).collect();
            for i in (1..perm.len()).rev() {
                perm.swap(i, self.rng.below(i + 1));
            }
            return self.k.op(Op::Transpose { perm: perm.into_iter().collect() }, &[a]);
        }
        if extents.last() == Some(&2) || self.rng.below(3) == 0 {
            let n = extents.iter().product();
            return self.k.typed(Op::Reshape, &[a], &Type::tile(dtype, &[n]));
        }
        let b = self.partner(a);
        let joined = self.k.op(Op::Join, &[a, b]);
        let halves = self.k.ops(Op::Split, &[joined], None);
        halves[self.rng.below(2)]
    }

    /// A reduction spread out again, or a scan; of integers.
    fn fold(&mut self, a: Value) -> Value {
        let extents = self.extents(a);
        if extents.is_empty() {
            return self.unary(a);
        }
        let a = match self.dtype(a).is_float() {
            true => self.k.cast(a, Dtype::I32),
            false => a,
        };
        let axis = self.rng.below(extents.len()) as u8;
        let combine = Combine::Kind(self.rng.pick(CombineKind::ALL));
        if self.rng.below(2) == 0 {
            let reverse = self.rng.below(2) == 0;
            return self.k.op(Op::Scan { axis, reverse, combine }, &[a]);
        }
        let reduced = self.k.op(Op::Reduce { axis, combine }, &[a]);
        if self.rng.below(2) == 0 {
            return reduced;
        }
        let ty = self.k.ty(a);
        let line = self.k.op(Op::ExpandDims { axis }, &[reduced]);
        self.k.typed(Op::Broadcast, &[line], &ty)
    }

    /// Elements along an axis, by an index computed from another value.
    fn gathered(&mut self, a: Value) -> Value {
        let extents = self.extents(a);
        if extents.is_empty() {
            return self.unary(a);
        }
        let axis = self.rng.below(extents.len());
        let other = self.partner(a);
        let index = self.k.cast(other, Dtype::U32);
        let limit = self.filled(index, extents[axis].into());
        let index = self.k.op(Op::Binary(BinaryOp::Rem), &[index, limit]);
        self.k.op(Op::Gather { axis: axis as u8 }, &[a, index])
    }

    /// A short loop over a carried value.
    fn looped(&mut self, a: Value) -> Value {
        let count = self.rng.below(4) as i32;
        let (zero, count, one) = (self.k.i32(0), self.k.i32(count), self.k.i32(1));
        let inst = self.k.begin(Op::For { stages: 1 }, &[zero, count, one, a]);
        let ty = self.k.ty(a);
        let params = self.k.open(inst, &[Type::scalar(Dtype::I32), ty.clone()]);
        let result = self.inside(&params, &ty);
        self.k.close(inst, &[result]);
        self.k.finish(inst, &[ty])[0]
    }

    /// Two ways to a value, by a comparison of scalars.
    fn branch(&mut self, a: Value) -> Value {
        let scalars: Vec<Value> = self.pool.iter().copied().filter(|&v| self.extents(v).is_empty()).collect();
        let flag = match scalars.is_empty() {
            true => self.k.i32(1),
            false => self.rng.pick(&scalars),
        };
        let zero = self.filled(flag, 0);
        let cond = self.k.op(Op::Cmp(CmpOp::Gt), &[flag, zero]);
        let ty = self.k.ty(a);
        let inst = self.k.begin(Op::If, &[cond]);
        for _ in 0..2 {
            self.k.open(inst, &[]);
            let result = self.inside(&[a], &ty);
            self.k.close(inst, &[result]);
        }
        self.k.finish(inst, &[ty])[0]
    }

    /// A few ops in a region; gives a value of type `ty`.
    fn inside(&mut self, params: &[Value], ty: &Type) -> Value {
        let outside = self.pool.len();
        self.pool.extend(params);
        self.depth += 1;
        for _ in 0..1 + self.rng.below(3) {
            self.step();
        }
        self.depth -= 1;
        let inner = self.pool.split_off(outside);
        let last = params[params.len() - 1];
        let found = inner.iter().rev().copied().find(|&v| self.k.ty(v) == *ty).unwrap_or(last);
        self.k.op(Op::Binary(BinaryOp::Add), &[found, last])
    }
}
