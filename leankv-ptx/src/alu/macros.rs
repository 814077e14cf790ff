//! Macros that turn a scalar expression into an [`AluFn`](crate::vm::regs::AluFn) over 32 lanes.

/// `lanes!(r32 <- a: r32, b: r64; expr)`: the expression for every lane, merged under the active mask.
macro_rules! lanes {
    ($dc:ident <- $($v:ident : $c:ident),+ ; $e:expr) => {{
        #[allow(unused_assignments)]
        fn f(r: &mut $crate::vm::regs::Regs, x: &$crate::vm::regs::Args, m: u32) {
            let mut i = 0usize;
            $( let $v = r.$c[x.s[i] as usize]; i += 1; )+
            let mut o = [Default::default(); 32];
            for l in 0..32 {
                $( let $v = $v[l]; )+
                o[l] = $e;
            }
            $crate::alu::macros::put!(r, $dc, x.d, m, &o);
        }
        f as $crate::vm::regs::AluFn
    }};
}

macro_rules! put {
    ($r:ident, r32, $d:expr, $m:expr, $o:expr) => {
        $r.put32($d, $m, $o)
    };
    ($r:ident, r64, $d:expr, $m:expr, $o:expr) => {
        $r.put64($d, $m, $o)
    };
}

/// Like [`lanes!`] for single precision: operands and result are `f32`.
macro_rules! lanes_f32 {
    ($($v:ident),+ ; $e:expr) => {
        $crate::alu::macros::lanes!(r32 <- $($v: r32),+ ; { $( let $v = f32::from_bits($v); )+ let o: f32 = $e; o.to_bits() })
    };
}

/// Like [`lanes_f32!`] with subnormal operands and results flushed to a zero of the same sign.
macro_rules! lanes_f32_ftz {
    ($($v:ident),+ ; $e:expr) => {
        $crate::alu::macros::lanes!(r32 <- $($v: r32),+ ; {
            $( let $v = f32::from_bits($crate::soft::ftz32($v)); )+
            let o: f32 = $e;
            $crate::soft::ftz32(o.to_bits())
        })
    };
}

/// Like [`lanes!`] for double precision.
macro_rules! lanes_f64 {
    ($($v:ident),+ ; $e:expr) => {
        $crate::alu::macros::lanes!(r64 <- $($v: r64),+ ; {
            $( let $v = f64::from_bits($v); )+
            let o: f64 = $e;
            // On bits: a choice between NaNs as floats may be folded away.
            if o.is_nan() { 0x7ff8_0000_0000_0000u64 } else { o.to_bits() }
        })
    };
}

/// A comparison: the expression per lane gives a bit, combined and stored by `setp` rules.
macro_rules! compare {
    ($a:ident, $b:ident : $c:ident ; $e:expr) => {{
        fn f(r: &mut $crate::vm::regs::Regs, x: &$crate::vm::regs::Args, m: u32) {
            let va = r.$c[x.s[0] as usize];
            let vb = r.$c[x.s[1] as usize];
            let mut t = 0u32;
            for l in 0..32 {
                let ($a, $b) = (va[l], vb[l]);
                let bit: bool = $e;
                t |= u32::from(bit) << l;
            }
            $crate::alu::compare::store(r, x, m, t);
        }
        f as $crate::vm::regs::AluFn
    }};
}

pub(crate) use {compare, lanes, lanes_f32, lanes_f32_ftz, lanes_f64, put};
