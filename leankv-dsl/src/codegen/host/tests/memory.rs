//! Loads, stores, atomics: masks, strides, and the order of reads and writes.

use super::{bytes, check, random, run_host};
use crate::codegen::host::LaunchError;
use crate::ir::{Dtype, parse};

#[test]
fn masks_that_are_one_for_a_whole_row() {
    let text = "kernel @k(%px x: ptr<u8> read, %pm m: ptr<i1> read, %po o: ptr<u8> read_write) num_warps 4 {
  %r = iota : tile<6xi32>
  %rm = load %pm[%r] : tile<6xi1>
  %re = expand_dims %rm axis 1 : tile<6x1xi1>
  %m = broadcast %re : tile<6x20xi1>
  %r1 = expand_dims %r axis 1 : tile<6x1xi32>
  %w = constant 20 : tile<6x1xi32>
  %ro = mul %r1, %w : tile<6x1xi32>
  %rb = broadcast %ro : tile<6x20xi32>
  %c = iota : tile<20xi32>
  %c1 = expand_dims %c axis 0 : tile<1x20xi32>
  %cb = broadcast %c1 : tile<6x20xi32>
  %at = add %rb, %cb : tile<6x20xi32>
  %nine = constant 9 : tile<6x20xu8>
  %x = load %px[%at] mask %m other %nine : tile<6x20xu8>
  %y = load %px[%at] mask %m : tile<6x20xu8>
  %s = add %x, %y : tile<6x20xu8>
  %t = add %s, %nine : tile<6x20xu8>
  store %po[%at], %t mask %m
  return
}";
    let mask = bytes(Dtype::I1, [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    // The last rows are masked off and not there.
    check(text, [1, 1, 1], &[random(Dtype::U8, 80, 3), mask, vec![1; 120]], 0.0);
}

#[test]
fn strided_reversed_and_scattered_accesses() {
    let text = "kernel @k(%px x: ptr<f32> read, %pj j: ptr<i64> read, %pa a: ptr<f32> write, %pb b: ptr<f32> read_write, %pc c: ptr<f32> read_write) num_warps 4 {
  %i = iota : tile<37xi32>
  %3 = constant 3 : tile<37xi32>
  %s = mul %i, %3 : tile<37xi32>
  %x = load %px[%s] : tile<37xf32>
  %36 = constant 36 : tile<37xi32>
  %back = sub %36, %i : tile<37xi32>
  store %pa[%back], %x
  %j = load %pj[%i] : tile<37xi64>
  %y = load %px[%j] : tile<37xf32>
  store %pb[%s], %y
  store %pc[%j], %y
  return
}";
    let index: Vec<f64> = (0..37).map(|i| f64::from(i * 5 % 37)).collect();
    let data = [
        random(Dtype::F32, 120, 3),
        bytes(Dtype::I64, index),
        vec![0; 37 * 4],
        vec![0; 120 * 4],
        vec![0; 37 * 4],
    ];
    check(text, [1, 1, 1], &data, 0.0);
}

/// Small strides are loaded as whole vectors; the buffers end with the last element that is wanted.
#[test]
fn small_strides_read_nothing_else() {
    for d in [Dtype::U8, Dtype::U16, Dtype::F16, Dtype::F32, Dtype::I64] {
        for stride in [2, 4, 8] {
            for (limit, first) in [(37, 0), (37, 1), (5, 1)] {
                let text = format!(
                    "kernel @k(%px x: ptr<{d}> read, %pa a: ptr<{d}> write, %pb b: ptr<{d}> write) num_warps 4 {{
  %i = iota : tile<37xi32>
  %s = constant {stride} : tile<37xi32>
  %t = mul %i, %s : tile<37xi32>
  %f = constant {first} : tile<37xi32>
  %at = add %t, %f : tile<37xi32>
  %n = constant {limit} : tile<37xi32>
  %m = cmp lt %i, %n : tile<37xi1>
  %x = load %px[%at] mask %m : tile<37x{d}>
  store %pa[%i], %x
  %cs = constant {limit} : i32
  %all = constant 37 : i32
  %whole = cmp eq %cs, %all : i1
  %y = if %whole : tile<37x{d}> {{
    %z = load %px[%at] : tile<37x{d}>
    yield %z
  }} else {{
    yield %x
  }}
  store %pb[%i], %y
  return
}}"
                );
                let size = 37 * d.bytes().unwrap() as usize;
                let input = random(d, (limit - 1) * stride + first + 1, 1);
                check(&text, [1, 1, 1], &[input, vec![0; size], vec![0; size]], 0.0);
            }
        }
    }
}

/// An unsigned count that wraps below zero within one vector is not taken for neighbouring addresses.
#[test]
fn unsigned_offsets_that_wrap_stay_right() {
    let text = "kernel @k(%px x: ptr<f32> read, %po o: ptr<f32> write) num_warps 4 {
  %i = iota : tile<32xu32>
  %1 = constant 1 : tile<32xu32>
  %d = sub %i, %1 : tile<32xu32>
  %at = cast %d : tile<32xi64>
  %z = constant 0 : tile<32xu32>
  %m = cmp gt %i, %z : tile<32xi1>
  %x = load %px[%at] mask %m : tile<32xf32>
  %oi = iota : tile<32xi32>
  store %po[%oi], %x
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F32, 31, 3), vec![0; 128]], 0.0);
}

/// A load stands before a store to the same memory and is used after it.
#[test]
fn a_load_reads_what_was_there_before_a_later_store() {
    let text = "kernel @k(%px x: ptr<f32> read_write, %po o: ptr<f32> write) num_warps 4 {
  %i = iota : tile<40xi32>
  %1 = constant 1 : tile<40xi32>
  %n = add %i, %1 : tile<40xi32>
  %x = load %px[%i] : tile<40xf32>
  store %px[%n], %x
  %y = add %x, %x : tile<40xf32>
  store %po[%i], %y
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F32, 41, 3), vec![0; 160]], 0.0);
}

/// The same, where the load is used in a loop that writes.
#[test]
fn a_load_before_a_loop_that_writes_is_not_repeated() {
    let text = "kernel @k(%px x: ptr<f32> read_write) num_warps 4 {
  %i = iota : tile<24xi32>
  %x = load %px[%i] : tile<24xf32>
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %4 = constant 4 : i32
  for %0 to %4 step %1 { |%k: i32|
    %c = load %px[%i] : tile<24xf32>
    %s = add %c, %x : tile<24xf32>
    store %px[%i], %s
    yield
  }
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F32, 24, 3)], 1e-6);
}

#[test]
fn many_programs_add_to_one_counter() {
    let text = "kernel @k(%px x: ptr<i32> read_write, %po o: ptr<i32> write) num_warps 4 {
  %p = program_id x : i32
  %q = program_id y : i32
  %n = num_programs x : i32
  %0 = constant 0 : i32
  %1 = constant 1 : i32
  %old = atomic_rmw add relaxed device %px[%0], %1 : i32
  %r = mul %q, %n : i32
  %at = add %r, %p : i32
  store %po[%at], %at
  %seen = atomic_cas relaxed device %px[%1], %0, %1 : i32
  return
}";
    check(text, [50, 7, 1], &[vec![0; 8], vec![0; 1400]], 0.0);
}

#[test]
fn a_failed_assertion_ends_the_launch_with_its_place() {
    let text = "kernel @k(%px x: ptr<i32> read, %po o: ptr<i32> write) num_warps 4 {
  %i = iota : tile<20xi32>
  %x = load %px[%i] : tile<20xi32>
  %5 = constant 5 : tile<20xi32>
  %ok = cmp lt %x, %5 : tile<20xi1>
  assert %ok \"codes are below 5\" loc(\"kernel.rs\":3:9)
  store %po[%i], %x
  return
}";
    let func = parse("t", text).unwrap();
    let mut buffers = vec![bytes(Dtype::I32, (0..20).map(|i| f64::from(i % 6))), vec![0; 80]];
    let error = run_host(&func, [1, 1, 1], &mut buffers, None, 1).unwrap_err();
    let want =
        LaunchError::Assertion { message: "codes are below 5".to_owned(), loc: "kernel.rs:3:9".to_owned() };
    assert_eq!(error, want);
    assert_eq!(buffers[1], vec![0; 80], "nothing after the assertion runs");
    buffers[0] = vec![0; 80];
    run_host(&func, [1, 1, 1], &mut buffers, None, 1).unwrap();
}

#[test]
fn printing_does_not_disturb() {
    let text = "kernel @k(%px x: ptr<f16> read, %po o: ptr<f16> write) num_warps 4 {
  %i = iota : tile<5xi32>
  %x = load %px[%i] : tile<5xf16>
  %s = reduce add %x axis 0 : f16
  print \"x, sum =\" %x, %s
  store %po[%i], %x
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F16, 5, 1), vec![0; 10]], 0.0);
}

/// Offsets and masks built through `reshape` to and from extents of 1, as views make them.
#[test]
fn accesses_through_reshapes_with_extents_of_one() {
    let text = "kernel @k(%px x: ptr<f16> read, %po o: ptr<f32> write) num_warps 4 {
  %r = iota : tile<3xi32>
  %w = constant 37 : tile<3xi32>
  %rw = mul %r, %w : tile<3xi32>
  %r1 = reshape %rw : tile<1x3x1xi32>
  %rb = broadcast %r1 : tile<1x3x37xi32>
  %c = iota : tile<37xi32>
  %c1 = reshape %c : tile<1x1x37xi32>
  %cb = broadcast %c1 : tile<1x3x37xi32>
  %at = add %rb, %cb : tile<1x3x37xi32>
  %n = constant 33 : tile<37xi32>
  %m = cmp lt %c, %n : tile<37xi1>
  %m1 = reshape %m : tile<1x1x37xi1>
  %mb = broadcast %m1 : tile<1x3x37xi1>
  %x = load %px[%at] mask %mb : tile<1x3x37xf16>
  %x2 = reshape %x : tile<3x37xf16>
  %f = cast %x2 : tile<3x37xf32>
  %e = exp2 %f : tile<3x37xf32>
  %sum = reduce add %e axis 1 : tile<3xf32>
  %s1 = expand_dims %sum axis 1 : tile<3x1xf32>
  %sb = broadcast %s1 : tile<3x37xf32>
  %p = div %e, %sb : tile<3x37xf32>
  %po3 = reshape %p : tile<1x3x37xf32>
  store %po[%at], %po3 mask %mb
  return
}";
    check(text, [1, 1, 1], &[random(Dtype::F16, 111, 1), vec![0; 444]], 1e-5);
}
