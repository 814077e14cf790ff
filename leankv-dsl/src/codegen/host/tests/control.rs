//! Loops and branches, with scalars and tiles carried.

use super::{bytes, check, random};
use crate::ir::Dtype;

/// Yielded values are all computed from the old ones.
#[test]
fn carried_tiles_can_change_places() {
    for trips in [0, 1, 2, 5] {
        let text = format!(
            "kernel @k(%px x: ptr<f32> read, %po o: ptr<f32> write) num_warps 4 {{
  %0 = constant 0 : i64
  %1 = constant 1 : i64
  %n = constant {trips} : i64
  %i = iota : tile<19xi32>
  %x = load %px[%i] : tile<19xf32>
  %y = neg %x : tile<19xf32>
  %a, %b = for %0 to %n step %1 carry %x, %y : tile<19xf32>, tile<19xf32> {{ |%k: i64, %ac: tile<19xf32>, %bc: tile<19xf32>|
    %s = add %ac, %ac : tile<19xf32>
    yield %bc, %s
  }}
  %r = sub %a, %b : tile<19xf32>
  store %po[%i], %r
  return
}}"
        );
        check(&text, [1, 1, 1], &[random(Dtype::F32, 19, 1), vec![0; 76]], 1e-6);
    }
}

#[test]
fn nested_loops_and_reductions_inside() {
    let text = "kernel @k(%px x: ptr<f32> read, %po o: ptr<f32> write) num_warps 4 {
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %2 = constant 2 : i32
  %3 = constant 3 : i32
  %i = iota : tile<18xi32>
  %x = load %px[%i] : tile<18xf32>
  %m0 = constant 0.0 : tile<18xf32>
  %m = for %0 to %3 step %1 carry %m0 : tile<18xf32> { |%k: i32, %mc: tile<18xf32>|
    %inner = for %k to %3 step %2 carry %mc : tile<18xf32> { |%j: i32, %ic: tile<18xf32>|
      %e = exp2 %x : tile<18xf32>
      %t = add %ic, %e : tile<18xf32>
      %s = reduce max %t axis 0 : f32
      %sb = splat %s : tile<18xf32>
      %u = sub %t, %sb : tile<18xf32>
      %c = exp2 %u : tile<18xf32>
      yield %c
    }
    %w = add %inner, %mc : tile<18xf32>
    yield %w
  }
  store %po[%i], %m
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F32, 18, 1), vec![0; 72]], 1e-4);
}

#[test]
fn a_while_loop_ends_when_its_test_says() {
    let text = "kernel @k(%px x: ptr<f32> read, %po o: ptr<f32> write, %ps s: ptr<i32> write) num_warps 4 {
  %0 = constant 0 : i32
  %i = iota : tile<19xi32>
  %x = load %px[%i] : tile<19xf32>
  %t, %n = while carry %x, %0 : tile<19xf32>, i32 { |%tc: tile<19xf32>, %nc: i32|
    %a = abs %tc : tile<19xf32>
    %m = reduce add %a axis 0 : f32
    %lim = constant 500.0 : f32
    %go = cmp lt %m, %lim : i1
    %h = constant 0.25 : tile<19xf32>
    %tn = add %tc, %h : tile<19xf32>
    yield %go, %tn, %nc
  } do { |%td: tile<19xf32>, %nd: i32|
    %d = add %td, %td : tile<19xf32>
    %1 = constant 1 : i32
    %nn = add %nd, %1 : i32
    yield %d, %nn
  }
  store %po[%i], %t
  store %ps[%0], %n
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F32, 19, 1), vec![0; 76], vec![0; 4]], 1e-5);
}

#[test]
fn a_branch_in_a_loop_carries_its_tile() {
    let text = "kernel @k(%px x: ptr<f32> read, %pn n: ptr<i32> read, %po o: ptr<f32> write) num_warps 4 {
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %2 = constant 2 : i32
  %n = load %pn[%0] : i32
  %i = iota : tile<20xi32>
  %x = load %px[%i] : tile<20xf32>
  %r = for %0 to %n step %1 carry %x : tile<20xf32> { |%k: i32, %c: tile<20xf32>|
    %b = and %k, %1 : i32
    %odd = cmp eq %b, %1 : i1
    %t = if %odd : tile<20xf32> {
      %s = add %c, %x : tile<20xf32>
      yield %s
    } else {
      yield %c
    }
    %h = constant 0.5 : tile<20xf32>
    %u = mul %t, %h : tile<20xf32>
    %v = add %u, %t : tile<20xf32>
    yield %v
  }
  store %po[%i], %r
  return
}";
    let data = [random(Dtype::F32, 20, 1), bytes(Dtype::I32, [6.0]), vec![0; 80]];
    check(text, [1, 1, 1], &data, 1e-5);
}
