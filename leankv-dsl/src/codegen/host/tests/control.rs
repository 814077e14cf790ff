//! Loops and branches, with scalars and tiles carried.

use super::{bytes, check, random};
use crate::ir::Dtype;

#[test]
fn a_loop_carries_tiles_and_scalars() {
    let text = "kernel @k(%px x: ptr<f32> read, %po o: ptr<f32> write, %ps s: ptr<i32> write) num_warps 4 {
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %7 = constant 7 : i32
  %i = iota : tile<21xi32>
  %a0 = constant 0.0 : tile<21xf32>
  %b0 = constant 1.0 : tile<21xf32>
  %a, %n, %b = for %0 to %7 step %1 carry %a0, %0, %b0 : tile<21xf32>, i32, tile<21xf32> { |%k: i32, %ac: tile<21xf32>, %nc: i32, %bc: tile<21xf32>|
    %ks = splat %k : tile<21xi32>
    %at = add %i, %ks : tile<21xi32>
    %x = load %px[%at] : tile<21xf32>
    %an = add %ac, %x : tile<21xf32>
    %bn = add %bc, %ac : tile<21xf32>
    %nn = add %nc, %k : i32
    yield %an, %nn, %bn
  }
  %r = mul %a, %b : tile<21xf32>
  store %po[%i], %r
  store %ps[%0], %n
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F32, 28, 1), vec![0; 84], vec![0; 4]], 1e-5);
}

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
fn branches_give_tiles_scalars_and_pointers() {
    let text = "kernel @k(%px x: ptr<f32> read, %py y: ptr<f32> read, %po o: ptr<f32> write) num_warps 4 {
  %p = program_id x : i32
  %1 = constant 1 : i32
  %odd = and %p, %1 : i32
  %c = cmp eq %odd, %1 : i1
  %i = iota : tile<19xi32>
  %x = load %px[%i] : tile<19xf32>
  %t, %k, %q = if %c : tile<19xf32>, i32, ptr<f32> {
    %d = exp2 %x : tile<19xf32>
    %5 = constant 5 : i32
    yield %d, %5, %px
  } else {
    %d2 = neg %x : tile<19xf32>
    yield %d2, %p, %py
  }
  %y = load %q[%i] : tile<19xf32>
  %ks = cast %k : f32
  %kf = splat %ks : tile<19xf32>
  %s = add %t, %kf : tile<19xf32>
  %r = mul %s, %y : tile<19xf32>
  %19 = constant 19 : i32
  %base = mul %p, %19 : i32
  %bs = splat %base : tile<19xi32>
  %at = add %bs, %i : tile<19xi32>
  store %po[%at], %r
  return
}";
    let data = [random(Dtype::F32, 19, 1), random(Dtype::F32, 19, 2), vec![0; 4 * 76]];
    check(text, [4, 1, 1], &data, 1e-5);
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

/// A step that is not positive would never end.
#[test]
fn a_loop_without_progress_does_not_run() {
    let text = "kernel @k(%ps s: ptr<i32> read, %po o: ptr<i32> write) num_warps 4 {
  %0 = constant 0 : i32
  %9 = constant 9 : i32
  %s = load %ps[%0] : i32
  %n = for %0 to %9 step %s carry %0 : i32 { |%k: i32, %c: i32|
    %d = add %c, %9 : i32
    yield %d
  }
  store %po[%0], %n
  return
}";
    let func = crate::ir::parse("t", text).unwrap();
    for step in [0.0, -1.0] {
        let mut buffers = vec![bytes(Dtype::I32, [step]), vec![7; 4]];
        super::run_host(&func, [1, 1, 1], &mut buffers, None, 1).unwrap();
        assert_eq!(buffers[1], vec![0; 4]);
    }
}
