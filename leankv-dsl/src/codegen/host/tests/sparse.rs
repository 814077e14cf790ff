//! What costs nothing where nothing happens: states that a branch keeps, masks that hold for few lanes; and rows that are clamped.

use super::{bytes, check, random};
use crate::ir::Dtype;

/// Results of a branch are made in the memory of what it keeps, when all of them have been computed from the old ones.
#[test]
fn a_branch_changes_kept_tiles_at_once() {
    let text = "kernel @k(%px x: ptr<f32> read, %po o: ptr<f32> write, %pn n: ptr<f32> write) num_warps 4 {
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %2 = constant 2 : i32
  %5 = constant 5 : i32
  %i = iota : tile<37xi32>
  %x = load %px[%i] : tile<37xf32>
  %y = neg %x : tile<37xf32>
  %a, %b = for %0 to %5 step %1 carry %x, %y : tile<37xf32>, tile<37xf32> { |%k: i32, %ac: tile<37xf32>, %bc: tile<37xf32>|
    %odd = rem %k, %2 : i32
    %c = cmp eq %odd, %1 : i1
    %p, %q = if %c : tile<37xf32>, tile<37xf32> {
      %s = add %ac, %bc : tile<37xf32>
      %t = sub %ac, %bc : tile<37xf32>
      yield %t, %s
    } else {
      yield %ac, %bc
    }
    %e = cmp eq %k, %2 : i1
    %u, %v = if %e : tile<37xf32>, tile<37xf32> {
      yield %q, %p
    } else {
      yield %p, %q
    }
    %f = constant 0.5 : tile<37xf32>
    %w = mul %u, %f : tile<37xf32>
    yield %w, %v
  }
  store %po[%i], %a
  store %pn[%i], %b
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F32, 37, 1), vec![0; 148], vec![0; 148]], 1e-6);
}

/// A tile that is read after the branch keeps what it holds.
#[test]
fn a_branch_leaves_tiles_alone_that_are_read_later() {
    let text = "kernel @k(%px x: ptr<f32> read, %pc c: ptr<i1> read, %po o: ptr<f32> write) num_warps 4 {
  %i = iota : tile<37xi32>
  %x = load %px[%i] : tile<37xf32>
  %x0 = exp2 %x : tile<37xf32>
  %s = reduce add %x0 axis 0 : f32
  %sb = splat %s : tile<37xf32>
  %0 = constant 0 : i32
  %z = iota : tile<1xi32>
  %cs = load %pc[%z] : tile<1xi1>
  %c = reduce or %cs axis 0 : i1
  %later = add %x0, %sb : tile<37xf32>
  %r = if %c : tile<37xf32> {
    %t = mul %x0, %x0 : tile<37xf32>
    yield %t
  } else {
    yield %x0
  }
  %d = sub %later, %r : tile<37xf32>
  store %po[%i], %d
  return
}";
    for on in [0.0, 1.0] {
        let data = [random(Dtype::F32, 37, 1), bytes(Dtype::I1, [on]), vec![0; 148]];
        check(text, [1, 1, 1], &data, 1e-5);
    }
}

/// The buffer ends with the last element, which stands for all behind it; there may be none before it.
#[test]
fn clamped_rows_read_nothing_else() {
    for d in [Dtype::U8, Dtype::U16, Dtype::F32, Dtype::I64] {
        for last in [0, 1, 15, 16, 20, 36, 90] {
            let text = format!(
                "kernel @k(%px x: ptr<{d}> read, %po o: ptr<{d}> write) num_warps 4 {{
  %i = iota : tile<37xi32>
  %last = constant {last} : i32
  %l = splat %last : tile<37xi32>
  %at = min %i, %l : tile<37xi32>
  %x = load %px[%at] : tile<37x{d}>
  store %po[%i], %x
  return
}}"
            );
            let size = d.bytes().unwrap() as usize;
            let data = [random(d, 37.min(last + 1), 3), vec![0; 37 * size]];
            check(&text, [1, 1, 1], &data, 0.0);
        }
    }
}

#[test]
fn few_lanes_of_scattered_and_strided_accesses() {
    for d in [Dtype::U8, Dtype::F16, Dtype::F32, Dtype::I64] {
        for stride in [2, 3, 4] {
            let text = format!(
                "kernel @k(%px x: ptr<{d}> read, %pm m: ptr<i1> read, %pa a: ptr<{d}> read_write, %pb b: ptr<{d}> read_write) num_warps 4 {{
  %i = iota : tile<37xi32>
  %m = load %pm[%i] : tile<37xi1>
  %s = constant {stride} : tile<37xi32>
  %at = mul %i, %s : tile<37xi32>
  %x = load %px[%at] mask %m : tile<37x{d}>
  store %pa[%at], %x mask %m
  store %pb[%at], %x
  return
}}"
            );
            let size = d.bytes().unwrap() as usize;
            for every in [1, 5, 16, 40] {
                let mask = bytes(Dtype::I1, (0..37).map(|i| f64::from(u8::from(i % every == every / 2))));
                let most = 36 * stride + 1;
                let data = [random(d, most, 3), mask, random(d, most, 4), random(d, most, 5)];
                assert_eq!(data[0].len(), most * size);
                check(&text, [1, 1, 1], &data, 0.0);
            }
        }
    }
}

#[test]
fn integers_are_summed_up_by_vectors() {
    for d in ["i32", "i64", "u32"] {
        for n in [1, 5, 16, 31, 67] {
            let text = format!(
                "kernel @k(%px x: ptr<{d}> read, %pa a: ptr<{d}> write, %pb b: ptr<{d}> write) num_warps 4 {{
  %i = iota : tile<{n}xi32>
  %x = load %px[%i] : tile<{n}x{d}>
  %s = scan add %x axis 0 : tile<{n}x{d}>
  %m = scan max %x axis 0 : tile<{n}x{d}>
  store %pa[%i], %s
  store %pb[%i], %m
  return
}}"
            );
            let dtype = match d {
                "i32" => Dtype::I32,
                "i64" => Dtype::I64,
                _ => Dtype::U32,
            };
            let size = dtype.bytes().unwrap() as usize;
            let data = [random(dtype, n, 3), vec![0; n * size], vec![0; n * size]];
            check(&text, [1, 1, 1], &data, 0.0);
        }
    }
}

/// What a turn looks up for the next one is nothing that this turn writes: before, it may be any number.
#[test]
fn lookups_that_a_turn_writes_are_not_read_ahead() {
    let text = "kernel @k(%pn next: ptr<i32> read_write, %pt table: ptr<i64> read, %px x: ptr<f32> read, %po o: ptr<f32> write) num_warps 4 {
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %3 = constant 3 : i32
  %4 = constant 4 : i32
  %i = iota : tile<32xi32>
  %rows = constant 32 : i64
  for %0 to %4 step %1 { |%k: i32|
    %j = load %pn[%k] : i32
    %row = load %pt[%j] : i64
    %at = mul %row, %rows : i64
    %p = ptr_add %px, %at : ptr<f32>
    %v = load %p[%i] : tile<32xf32>
    store %po[%i], %v
    %then = add %k, %1 : i32
    %more = add %j, %1 : i32
    %within = and %more, %3 : i32
    store %pn[%then], %within
    yield
  }
  return
}";
    let far = [2, i32::MAX / 2, i32::MAX / 2, i32::MAX / 2, i32::MAX / 2];
    let next = far.iter().flat_map(|n| n.to_le_bytes()).collect();
    check(text, [1, 1, 1], &[next, table(), random(Dtype::F32, 128, 1), vec![0; 128]], 0.0);
}

/// An address that follows from the counter and from what a turn carries on is not known a turn ahead.
#[test]
fn addresses_that_follow_from_carried_numbers_are_not_read_ahead() {
    let text =
        "kernel @k(%pt table: ptr<i64> read, %px x: ptr<f32> read, %po o: ptr<f32> write) num_warps 4 {
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %4 = constant 4 : i32
  %far = constant 500000000 : i32
  %i = iota : tile<32xi32>
  %rows = constant 32 : i64
  %end = for %0 to %4 step %1 carry %0 : i32 { |%k: i32, %c: i32|
    %at = mul %k, %far : i32
    %near = sub %at, %c : i32
    %row = load %pt[%near] : i64
    %begin = mul %row, %rows : i64
    %p = ptr_add %px, %begin : ptr<f32>
    %v = load %p[%i] : tile<32xf32>
    store %po[%i], %v
    %next = add %c, %far : i32
    yield %next
  }
  return
}";
    check(text, [1, 1, 1], &[table(), random(Dtype::F32, 128, 1), vec![0; 128]], 0.0);
}

/// Four rows, the last one first.
fn table() -> Vec<u8> {
    [3i64, 2, 1, 0].iter().flat_map(|n| n.to_le_bytes()).collect()
}
