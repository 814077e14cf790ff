//! Ops that move elements.

use leankv_dsl::ir::{Const, Dtype, Op, Type};

use super::count;
use crate::conformance::data::{Rng, values};
use crate::conformance::number::{Num, wrap};
use crate::conformance::{Case, Check, Group, K};

pub(super) fn groups() -> Vec<Group> {
    vec![
        Group { name: "iota", cases: iota, exchanges: true },
        Group { name: "splat", cases: splat, exchanges: true },
        Group { name: "reshape", cases: || moved("reshape", reshape), exchanges: true },
        Group { name: "transpose", cases: || moved("transpose", transpose), exchanges: true },
        Group { name: "expand_dims", cases: || moved("expand_dims", expand_dims), exchanges: true },
        Group { name: "broadcast", cases: || moved("broadcast", broadcast), exchanges: true },
        Group { name: "join", cases: || moved("join", join), exchanges: true },
        Group { name: "split", cases: || moved("split", split), exchanges: true },
        Group { name: "gather", cases: gather, exchanges: true },
        Group { name: "convert_layout", cases: || moved("convert_layout", convert_layout), exchanges: true },
    ]
}

/// One element type of each width and kind.
const TYPES: [Dtype; 9] = [
    Dtype::I1,
    Dtype::U8,
    Dtype::I16,
    Dtype::F16,
    Dtype::I32,
    Dtype::F32,
    Dtype::I64,
    Dtype::F64,
    Dtype::Code(4),
];

/// A kernel under construction with the element type it is for.
struct Mover {
    k: K,
    dtype: Dtype,
    rng: Rng,
    outputs: usize,
}

impl Mover {
    fn memory(&self) -> Dtype {
        if self.dtype.is_code() { Dtype::U8 } else { self.dtype }
    }

    /// A tile of these extents from memory, with its elements.
    fn tile(&mut self, extents: &[u32]) -> (leankv_dsl::ir::Value, Vec<Num>) {
        let mut elements = values(self.memory(), count(extents), &mut self.rng);
        if self.dtype.is_code() {
            elements = elements.into_iter().map(|x| Num::Int(wrap(self.dtype, x.int()))).collect();
        }
        let name = format!("x{}", self.k.func_params());
        let ptr = self.k.input(&name, self.memory(), &elements);
        (self.k.load_as(ptr, self.dtype, extents), elements)
    }

    /// Stores a tile whose elements must be these.
    fn expect(&mut self, tile: leankv_dsl::ir::Value, elements: &[Num]) {
        let name = format!("out{}", self.outputs);
        self.outputs += 1;
        let ptr = self.k.expected(&name, self.memory(), elements, Check::Bits);
        self.k.store_as(ptr, tile);
    }
}

fn moved(name: &str, build: fn(&mut Mover)) -> Vec<Case> {
    TYPES
        .into_iter()
        .map(|dtype| {
            let name = format!("{name}.{dtype}");
            let rng = Rng::named(&name);
            let mut mover = Mover { k: K::new(name), dtype, rng, outputs: 0 };
            build(&mut mover);
            mover.k.done()
        })
        .collect()
}

/// All indices of a shape, row-major.
fn indices(extents: &[u32]) -> Vec<Vec<usize>> {
    let mut out = vec![Vec::new()];
    for &extent in extents {
        out = out
            .iter()
            .flat_map(|at| (0..extent as usize).map(move |i| [at.as_slice(), &[i]].concat()))
            .collect();
    }
    out
}

/// The row-major place of an index.
fn place(index: &[usize], extents: &[u32]) -> usize {
    index.iter().zip(extents).fold(0, |at, (&i, &extent)| at * extent as usize + i)
}

fn iota() -> Vec<Case> {
    let case = |dtype: Dtype| {
        let mut k = K::new(format!("iota.{dtype}"));
        for n in [1, 3, 13, 60, 96, 128] {
            let expect: Vec<Num> = (0..n).map(Num::Int).collect();
            let out = k.expected(&format!("out{n}"), dtype, &expect, Check::Bits);
            let tile = k.typed(Op::Iota, &[], &Type::tile(dtype, &[n as u32]));
            k.store(out, tile);
        }
        k.done()
    };
    Dtype::PLAIN.into_iter().filter(|d| d.is_int()).map(case).collect()
}

fn splat() -> Vec<Case> {
    moved("splat", |m| {
        let (scalar, elements) = m.tile(&[]);
        for extents in [&[1][..], &[5, 13], &[96], &[2, 3, 4, 5]] {
            let tile = m.k.typed(Op::Splat, &[scalar], &Type::tile(m.dtype, extents));
            m.expect(tile, &vec![elements[0]; count(extents)]);
        }
    })
}

fn reshape(m: &mut Mover) {
    for (from, to) in [
        (&[60][..], &[5, 12][..]),
        (&[5, 12], &[60]),
        (&[4, 15], &[3, 20]),
        (&[2, 3, 4, 5], &[10, 12]),
        (&[96], &[3, 32]),
        (&[1], &[]),
        (&[], &[1, 1]),
        (&[16, 8], &[8, 16]),
        (&[80], &[1, 80, 1]),
        (&[4, 32], &[4, 2, 16]),
        (&[4, 2, 16], &[8, 16]),
    ] {
        let (tile, elements) = m.tile(from);
        let ty = Type::tile(m.dtype, to);
        let tile = m.k.typed(Op::Reshape, &[tile], &ty);
        m.expect(tile, &elements);
    }
}

fn transpose(m: &mut Mover) {
    for (from, perm) in [
        (&[5, 13][..], &[1, 0][..]),
        (&[16, 32], &[1, 0]),
        (&[13], &[0]),
        (&[2, 3, 5], &[0, 2, 1]),
        (&[2, 3, 5], &[1, 0, 2]),
        (&[2, 3, 5], &[1, 2, 0]),
        (&[2, 3, 5], &[2, 0, 1]),
        (&[2, 3, 5], &[2, 1, 0]),
        (&[2, 3, 4, 5], &[3, 1, 0, 2]),
        (&[1, 80], &[1, 0]),
    ] {
        let (tile, elements) = m.tile(from);
        let to: Vec<u32> = perm.iter().map(|&p| from[p as usize]).collect();
        let moved: Vec<Num> = indices(&to)
            .iter()
            .map(|index| {
                let mut source = vec![0; from.len()];
                for (i, &p) in perm.iter().enumerate() {
                    source[p as usize] = index[i];
                }
                elements[place(&source, from)]
            })
            .collect();
        let perm = perm.iter().copied().collect();
        let tile = m.k.op(Op::Transpose { perm }, &[tile]);
        m.expect(tile, &moved);
    }
}

fn expand_dims(m: &mut Mover) {
    for (from, axis) in [(&[13][..], 0), (&[13], 1), (&[5, 13], 1), (&[2, 3, 5], 3), (&[], 0)] {
        let (tile, elements) = m.tile(from);
        let tile = m.k.op(Op::ExpandDims { axis }, &[tile]);
        m.expect(tile, &elements);
    }
}

fn broadcast(m: &mut Mover) {
    for (from, to) in [
        (&[1][..], &[13][..]),
        (&[1, 13], &[5, 13]),
        (&[5, 1], &[5, 13]),
        (&[1, 1], &[16, 60]),
        (&[2, 1, 5], &[2, 3, 5]),
        (&[1, 3, 1, 5], &[2, 3, 4, 5]),
        (&[96], &[96]),
    ] {
        let (tile, elements) = m.tile(from);
        let source = |index: &Vec<usize>| {
            let index: Vec<usize> =
                index.iter().zip(from).map(|(&i, &e)| if e == 1 { 0 } else { i }).collect();
            elements[place(&index, from)]
        };
        let moved: Vec<Num> = indices(to).iter().map(source).collect();
        let ty = Type::tile(m.dtype, to);
        let tile = m.k.typed(Op::Broadcast, &[tile], &ty);
        m.expect(tile, &moved);
    }
}

fn join(m: &mut Mover) {
    for extents in [&[][..], &[13], &[5, 13], &[32], &[2, 3, 5]] {
        let (a, a_elements) = m.tile(extents);
        let (b, b_elements) = m.tile(extents);
        let tile = m.k.op(Op::Join, &[a, b]);
        let woven: Vec<Num> = a_elements.iter().zip(&b_elements).flat_map(|(&a, &b)| [a, b]).collect();
        m.expect(tile, &woven);
    }
}

fn split(m: &mut Mover) {
    for extents in [&[2][..], &[13, 2], &[5, 13, 2], &[32, 2]] {
        let (tile, elements) = m.tile(extents);
        let halves = m.k.ops(Op::Split, &[tile], None);
        for (i, &half) in halves.iter().enumerate() {
            let half_elements: Vec<Num> = elements.iter().skip(i).step_by(2).copied().collect();
            m.expect(half, &half_elements);
        }
    }
}

fn convert_layout(m: &mut Mover) {
    for extents in [&[13][..], &[5, 13]] {
        let (tile, elements) = m.tile(extents);
        let tile = m.k.op(Op::ConvertLayout, &[tile]);
        m.expect(tile, &elements);
    }
}

fn gather() -> Vec<Case> {
    let index_types = [Dtype::I32, Dtype::I64, Dtype::U8, Dtype::I16, Dtype::U32];
    let mut out = moved("gather", |m| gathers(m, Dtype::I32));
    for index in index_types {
        let name = format!("gather.f32.by_{index}");
        let rng = Rng::named(&name);
        let mut m = Mover { k: K::new(name), dtype: Dtype::F32, rng, outputs: 0 };
        gathers(&mut m, index);
        out.push(m.k.done());
    }
    out
}

fn gathers(m: &mut Mover, index_dtype: Dtype) {
    for (from, axis, extent) in [
        (&[13][..], 0, 60),
        (&[60], 0, 13),
        (&[5, 13], 1, 7),
        (&[5, 13], 0, 16),
        (&[2, 3, 5], 1, 4),
        (&[32], 0, 32),
    ] {
        let (tile, elements) = m.tile(from);
        let mut to = from.to_vec();
        to[axis] = extent;
        let picks: Vec<Num> =
            (0..count(&to)).map(|_| Num::Int(m.rng.below(from[axis] as usize) as i128)).collect();
        let name = format!("index{}", m.outputs);
        let index = m.k.input(&name, index_dtype, &picks);
        let index = m.k.load(index, &to);
        let moved: Vec<Num> = indices(&to)
            .iter()
            .map(|at| {
                let mut source = at.clone();
                source[axis] = picks[place(at, &to)].int() as usize;
                elements[place(&source, from)]
            })
            .collect();
        let tile = m.k.op(Op::Gather { axis: axis as u8 }, &[tile, index]);
        m.expect(tile, &moved);
    }
    // A constant index: the whole axis from one place.
    let (tile, elements) = m.tile(&[16]);
    let index = m.k.constant(Const::Int(3), &Type::tile(index_dtype, &[5]));
    let tile = m.k.op(Op::Gather { axis: 0 }, &[tile, index]);
    m.expect(tile, &[elements[3]; 5]);
}
