//! Faults, order of programs, counters. What the ops compute is the conformance suite's business.

use super::{Arg, Fault, FaultKind, LaunchError, Memory, Options, Order, Report, launch};
use crate::ir::{Func, parse};

fn kernel(text: &str) -> Func {
    parse("test.tile", text).unwrap_or_else(|e| panic!("{e}"))
}

fn i32s(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A launch over `programs` programs with one buffer a parameter; the first fault's kind.
fn fault_of(text: &str, programs: u32, buffers: &[Vec<u8>]) -> FaultKind {
    let mut mem = Memory::new();
    let args: Vec<Arg> = buffers.iter().map(|b| Arg::Buffer(mem.alloc_bytes(b), 0)).collect();
    let result = launch(&kernel(text), [programs, 1, 1], &args, &mut mem, &Options::default());
    match result {
        Err(LaunchError::Faults(faults)) => faults[0].kind.clone(),
        other => panic!("expected a fault, not {other:?}"),
    }
}

/// A launch that must go well; gives the report and the first buffer.
fn run(text: &str, programs: u32, buffers: &[Vec<u8>], options: &Options) -> (Report, Vec<i32>) {
    let mut mem = Memory::new();
    let ids: Vec<_> = buffers.iter().map(|b| mem.alloc_bytes(b)).collect();
    let args: Vec<Arg> = ids.iter().map(|&id| Arg::Buffer(id, 0)).collect();
    let report =
        launch(&kernel(text), [programs, 1, 1], &args, &mut mem, options).unwrap_or_else(|e| panic!("{e}"));
    let out = mem.bytes(ids[0]).chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
    (report, out)
}

#[test]
fn a_load_beyond_the_buffer_names_the_element_and_the_user_s_line() {
    let text = "kernel @k(%x x: ptr<i32> read) num_warps 1 {
  %i = iota : tile<4xi32>
  %v = load %x[%i] : tile<4xi32> loc(\"softmax.rs\":12:9)
  return
}";
    let mut mem = Memory::new();
    let x = mem.alloc_bytes(&[0; 12]);
    let error =
        launch(&kernel(text), [1, 1, 1], &[Arg::Buffer(x, 0)], &mut mem, &Options::default()).unwrap_err();
    let fault = &error.faults()[0];
    assert_eq!((fault.code(), fault.element.as_deref()), ("K0801", Some(&[3][..])));
    let text = error.to_string();
    for part in [
        "`i32` at byte 12 lies outside the buffer of 12 bytes",
        "softmax.rs:12:9",
        "parameter `x`",
        "element [3]",
        "mask",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn a_negative_offset_is_out_of_bounds() {
    let text = "kernel @k(%x x: ptr<i32> write) num_warps 1 {
  %i = constant -1 : i64
  %v = constant 7 : i32
  store %x[%i], %v
  return
}";
    assert!(matches!(fault_of(text, 1, &[i32s(&[0])]), FaultKind::OutOfBounds { byte: -4, .. }));
}

#[test]
fn masked_off_elements_are_not_accessed() {
    let text = "kernel @k(%x x: ptr<i32> read_write) num_warps 1 {
  %i = iota : tile<4xi32>
  %two = constant 2 : tile<4xi32>
  %m = cmp lt %i, %two : tile<4xi1>
  %o = constant 9 : tile<4xi32>
  %v = load %x[%i] mask %m other %o : tile<4xi32>
  %s = reduce add %v axis 0 : i32
  %z = constant 0 : i32
  store %x[%z], %s
  return
}";
    let (report, out) = run(text, 1, &[i32s(&[1, 2])], &Options::default());
    assert_eq!(out, [21, 2]);
    assert_eq!((report.traffic[0].loaded, report.traffic[0].stored), (8, 4));
}

#[test]
fn a_misaligned_access_is_a_fault() {
    let text = "kernel @k(%x x: ptr<u8> read) num_warps 1 {
  %one = constant 1 : i64
  %p = ptr_add %x, %one : ptr<u8>
  %q = ptr_cast %p : ptr<i32>
  %z = constant 0 : i32
  %v = load %q[%z] : i32
  return
}";
    assert!(matches!(fault_of(text, 1, &[vec![0; 8]]), FaultKind::Misaligned { byte: 1, .. }));
}

#[test]
fn bytes_must_be_written_before_they_are_read() {
    let text = "kernel @k(%x x: ptr<i32> read_write) num_warps 1 {
  %z = constant 0 : i32
  %one = constant 1 : i32
  store %x[%z], %one
  %v = load %x[%z] : i32
  %w = load %x[%one] : i32
  return
}";
    let mut mem = Memory::new();
    let x = mem.alloc_uninit(8);
    let run =
        |mem: &mut Memory| launch(&kernel(text), [1, 1, 1], &[Arg::Buffer(x, 0)], mem, &Options::default());
    let error = run(&mut mem).unwrap_err();
    assert_eq!(error.faults()[0].kind, FaultKind::Uninitialised { byte: Some(4) });
    assert_eq!(mem.unwritten(x), Some(4));
    assert!(mem.write(x, 4, &[0; 4]));
    run(&mut mem).unwrap();
}

#[test]
fn a_kernel_that_breaks_the_rules_is_refused() {
    let text = "kernel @k(%x x: ptr<i32> read) num_warps 1 {
  %z = constant 0 : i32
  store %x[%z], %z
  return
}";
    let mut mem = Memory::new();
    let x = mem.alloc_bytes(&[0; 4]);
    let result = launch(&kernel(text), [1, 1, 1], &[Arg::Buffer(x, 0)], &mut mem, &Options::default());
    match result {
        Err(LaunchError::Invalid(errors)) => assert_eq!(errors.iter().next().unwrap().code, "K0207"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn read_only_memory_must_not_be_written_through_another_parameter() {
    let text = "kernel @k(%x x: ptr<i32> read, %y y: ptr<i32> write) num_warps 1 {
  %z = constant 0 : i32
  store %y[%z], %z
  %v = load %x[%z] : i32
  return
}";
    let mut mem = Memory::new();
    let x = mem.alloc_bytes(&[0; 4]);
    let args = [Arg::Buffer(x, 0), Arg::Buffer(x, 0)];
    let error = launch(&kernel(text), [1, 1, 1], &args, &mut mem, &Options::default()).unwrap_err();
    assert_eq!(error.faults()[0].kind, FaultKind::ReadOnlyMemoryWritten { byte: 0 });
}

#[test]
fn programs_must_not_write_different_values_to_a_byte() {
    let text = "kernel @k(%x x: ptr<i32> write) num_warps 1 {
  %p = program_id x : i32
  %z = constant 0 : i32
  store %x[%z], %p
  return
}";
    assert_eq!(fault_of(text, 2, &[i32s(&[0])]), FaultKind::WriteRace { byte: 0, other: Some([0, 0, 0]) });
    let same = text.replace("store %x[%z], %p", "store %x[%z], %z");
    run(&same, 2, &[i32s(&[5])], &Options::default());
}

#[test]
fn a_read_of_what_another_program_writes_is_a_race_in_either_order() {
    let text = "kernel @k(%x x: ptr<i32> read_write) num_warps 1 {
  %p = program_id x : i32
  %z = constant 0 : i32
  %first = cmp eq %p, %z : i1
  if %first {
    store %x[%z], %z
    yield
  } else {
    %v = load %x[%z] : i32
    yield
  }
  return
}";
    let other = Some([0, 0, 0]);
    assert_eq!(fault_of(text, 2, &[i32s(&[0])]), FaultKind::ReadRace { byte: 0, other, on_write: false });
    let reversed = text.replace("cmp eq", "cmp ne");
    assert_eq!(fault_of(&reversed, 2, &[i32s(&[0])]), FaultKind::ReadRace { byte: 0, other, on_write: true });
}

/// The last program to arrive may read what the others wrote, when they say so by release and acquire.
const LAST_ONE_SUMS: &str =
    "kernel @k(%out out: ptr<i32> write, %x x: ptr<i32> read_write, %c c: ptr<i32> read_write) num_warps 1 {
  %p = program_id x : i32
  %n = num_programs x : i32
  store %x[%p], %p
  %one = constant 1 : i32
  %z = constant 0 : i32
  %old = atomic_rmw add acq_rel device %c[%z], %one : i32
  %arrived = add %old, %one : i32
  %last = cmp eq %arrived, %n : i1
  if %last {
    %i = iota : tile<4xi32>
    %v = load %x[%i] : tile<4xi32>
    %s = reduce add %v axis 0 : i32
    store %out[%z], %s
    yield
  } else {
    yield
  }
  return
}";

#[test]
fn release_and_acquire_order_programs() {
    let buffers = [i32s(&[0]), i32s(&[0; 4]), i32s(&[0])];
    for order in [Order::Sequential, Order::Shuffled(1), Order::Shuffled(2)] {
        let options = Options { order, ..Options::default() };
        assert_eq!(run(LAST_ONE_SUMS, 4, &buffers, &options).1, [6]);
    }
    let relaxed = LAST_ONE_SUMS.replace("acq_rel", "relaxed");
    assert!(matches!(fault_of(&relaxed, 4, &buffers), FaultKind::ReadRace { on_write: false, .. }));
    let block = LAST_ONE_SUMS.replace("device", "block");
    assert!(matches!(fault_of(&block, 4, &buffers), FaultKind::ReadRace { on_write: false, .. }));
}

#[test]
fn atomics_of_different_programs_do_not_race() {
    let text = "kernel @k(%x x: ptr<i32> read_write) num_warps 1 {
  %p = program_id x : i32
  %z = constant 0 : i32
  %old = atomic_rmw max relaxed device %x[%z], %p : i32
  return
}";
    assert_eq!(run(text, 5, &[i32s(&[-1])], &Options::default()).1, [4]);
}

#[test]
fn one_store_must_not_write_an_address_twice() {
    let text = "kernel @k(%x x: ptr<i32> write) num_warps 1 {
  %i = iota : tile<4xi32>
  %two = constant 2 : tile<4xi32>
  %at = rem %i, %two : tile<4xi32>
  store %x[%at], %i
  return
}";
    assert_eq!(fault_of(text, 1, &[i32s(&[0, 0])]), FaultKind::DuplicateStore { byte: 0, first: 0 });
    let same = text.replace("store %x[%at], %i", "store %x[%at], %at");
    assert_eq!(run(&same, 1, &[i32s(&[0, 0])], &Options::default()).1, [0, 1]);
}

#[test]
fn a_truth_value_is_0_or_1() {
    let text = "kernel @k(%x x: ptr<i1> read) num_warps 1 {
  %z = constant 0 : i32
  %v = load %x[%z] : i1
  return
}";
    assert_eq!(fault_of(text, 1, &[vec![2]]), FaultKind::NotABool { byte: 0, value: 2 });
}

#[test]
fn division_by_zero_is_a_fault_or_gives_0() {
    let text = "kernel @k(%x x: ptr<i32> read_write) num_warps 1 {
  %i = iota : tile<2xi32>
  %v = load %x[%i] : tile<2xi32>
  %q = div %v, %i : tile<2xi32>
  store %x[%i], %q
  return
}";
    assert_eq!(fault_of(text, 1, &[i32s(&[7, 8])]), FaultKind::DivisionByZero);
    let options = Options { check_division: false, ..Options::default() };
    assert_eq!(run(text, 1, &[i32s(&[7, 8])], &options).1, [0, 8]);
}

#[test]
fn a_gather_index_must_be_in_range() {
    let text = "kernel @k() num_warps 1 {
  %i = iota : tile<4xi32>
  %one = constant 1 : tile<4xi32>
  %at = add %i, %one : tile<4xi32>
  %v = gather %i, %at axis 0 : tile<4xi32>
  return
}";
    assert_eq!(fault_of(text, 1, &[]), FaultKind::GatherIndex { index: 4, extent: 4 });
}

#[test]
fn a_step_must_be_positive_and_loops_must_end() {
    let text = "kernel @k() num_warps 1 {
  %z = num_programs x : i32
  %p = program_id x : i32
  %n = constant 10 : i32
  for %z to %n step %p { |%i: i32|
    yield
  }
  return
}";
    assert_eq!(fault_of(text, 1, &[]), FaultKind::NonPositiveStep { step: 0 });
    let options = Options { check_steps: false, ..Options::default() };
    launch(&kernel(text), [1, 1, 1], &[], &mut Memory::new(), &options).expect("it runs no turn");
    let text = "kernel @k() num_warps 1 {
  %yes = constant true : i1
  while {
    yield %yes
  } do {
    yield
  }
  return
}";
    let options = Options { max_steps: 1000, ..Options::default() };
    let error = launch(&kernel(text), [1, 1, 1], &[], &mut Memory::new(), &options).unwrap_err();
    assert_eq!(error.faults()[0].kind, FaultKind::StepBudget { limit: 1000 });
}

#[test]
fn a_loop_up_to_the_largest_integer_ends() {
    let text = "kernel @k(%x x: ptr<i32> write) num_warps 1 {
  %z = constant 0 : i32
  %lower = constant 2147483640 : i32
  %upper = constant 2147483647 : i32
  %step = constant 5 : i32
  %one = constant 1 : i32
  %count = for %lower to %upper step %step carry %z : i32 { |%i: i32, %c: i32|
    %next = add %c, %one : i32
    yield %next
  }
  store %x[%z], %count
  return
}";
    assert_eq!(run(text, 1, &[i32s(&[0])], &Options::default()).1, [2]);
}

#[test]
fn a_false_assertion_is_a_fault_with_its_message() {
    let text = "kernel @k() num_warps 1 {
  %i = iota : tile<4xi32>
  %two = constant 2 : tile<4xi32>
  %ok = cmp lt %i, %two : tile<4xi1>
  assert %ok \"too large\"
  return
}";
    assert_eq!(fault_of(text, 1, &[]), FaultKind::AssertFailed { message: "too large".into() });
}

/// Copies x to shared memory and back; `{}` stand for synchronisation.
fn staged(wait: &str, barrier: &str) -> String {
    format!(
        "kernel @k(%x x: ptr<i32> read, %y y: ptr<i32> write) num_warps 1 {{
  %i = iota : tile<4xi32>
  %s = local_alloc : shared<2, 4xi32>
  %z = constant 0 : i32
  async_copy %s[%z], %x[%i]
  async_commit
  {wait}
  {barrier}
  %v = local_load %s[%z] : tile<4xi32>
  store %y[%i], %v
  return
}}"
    )
}

#[test]
fn a_stage_is_read_after_wait_and_barrier_only() {
    let buffers = [i32s(&[1, 2, 3, 4]), i32s(&[0; 4])];
    run(&staged("async_wait 0", "barrier"), 1, &buffers, &Options::default());
    assert_eq!(fault_of(&staged("", "barrier"), 1, &buffers), FaultKind::StagePending { stage: 0 });
    assert_eq!(
        fault_of(&staged("async_wait 1", "barrier"), 1, &buffers),
        FaultKind::StagePending { stage: 0 }
    );
    assert_eq!(fault_of(&staged("async_wait 0", ""), 1, &buffers), FaultKind::MissingBarrier { stage: 0 });
    let other = staged("async_wait 0", "barrier").replace("local_load %s[%z]", "local_load %s[%one]");
    let other = other.replace("%z = constant", "%one = constant 1 : i32\n  %z = constant");
    assert_eq!(fault_of(&other, 1, &buffers), FaultKind::Uninitialised { byte: None });
}

#[test]
fn a_stage_is_not_overwritten_while_others_may_read_it() {
    let again = |between: &str| {
        staged("async_wait 0", "barrier")
            .replace("  store %y", &format!("  {between}\n  local_store %s[%z], %i\n  store %y"))
    };
    let buffers = [i32s(&[1, 2, 3, 4]), i32s(&[0; 4])];
    assert_eq!(fault_of(&again(""), 1, &buffers), FaultKind::MissingBarrier { stage: 0 });
    run(&again("barrier"), 1, &buffers, &Options::default());
}

#[test]
fn prints_are_collected_and_ops_counted() {
    let text = "kernel @k() num_warps 1 {
  %p = program_id x : i32
  %i = iota : tile<4xi32>
  %m = reshape %i : tile<2x2xi32>
  print \"at\" %p, %m
  return
}";
    let report = launch(&kernel(text), [2, 1, 1], &[], &mut Memory::new(), &Options::default()).unwrap();
    let texts: Vec<&str> = report.printed.iter().map(|p| p.text.as_str()).collect();
    assert_eq!(texts, ["at 0 [[0, 1], [2, 3]]", "at 1 [[0, 1], [2, 3]]"]);
    assert_eq!((report.programs, report.ops["print"], report.steps), (2, 2, 10));
}

#[test]
fn arguments_must_fit() {
    let func = kernel(
        "kernel @k(%x x: ptr<i32> read multiple_of 16, %n n: i32 multiple_of 4) num_warps 1 {\n  return\n}",
    );
    let mut mem = Memory::new();
    let x = mem.alloc_bytes(&[0; 64]);
    let mut error = |args: &[Arg]| match launch(&func, [1, 1, 1], args, &mut mem, &Options::default()) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert_eq!(error(&[Arg::Buffer(x, 16), 8i32.into()]), "");
    assert_eq!(error(&[Arg::Buffer(x, 16)]), "kernel `k` takes 2 arguments, not 1");
    assert_eq!(
        error(&[8i32.into(), 8i64.into()]),
        "argument `x` must be a buffer, not a scalar of type `i32`\nargument `n` must be a scalar of type `i32`, not a scalar of type `i64`"
    );
    assert_eq!(
        error(&[Arg::Buffer(x, 65), 8i32.into()]),
        "argument `x` starts at byte 65 of a buffer of 64 bytes"
    );
    assert_eq!(
        error(&[Arg::Buffer(x, 8), 6i32.into()]),
        "argument `x` is 8, but the kernel was specialised for multiples of 16\nargument `n` is 6, but the kernel was specialised for multiples of 4"
    );
}

#[test]
fn a_grid_too_large_is_refused_and_an_empty_one_runs_nothing() {
    let func = kernel("kernel @k() num_warps 1 {\n  return\n}");
    let run = |grid| launch(&func, grid, &[], &mut Memory::new(), &Options::default());
    assert_eq!(run([u32::MAX, u32::MAX, u32::MAX]), Err(LaunchError::Grid([u32::MAX; 3])));
    assert_eq!(run([u32::MAX, u32::MAX, 0]).unwrap().programs, 0);
    assert_eq!(run([2, 3, 4]).unwrap().programs, 24);
}

#[test]
fn a_shuffled_order_is_a_permutation_that_the_seed_decides() {
    let order = |seed| super::order(100, Order::Shuffled(seed));
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    let mut sorted = order(1);
    sorted.sort();
    assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
}

/// Runs an example of a page of `explain` over two programs. Each pointer gets 64 bytes: zeros, fresh ones for a parameter
/// whose name starts with `fresh`, those of `x` for `same_as_x`.
fn codes_of_example(text: &str) -> Vec<&'static str> {
    let func = kernel(text);
    let mut mem = Memory::new();
    let x = mem.alloc_bytes(&[0; 64]);
    let args: Vec<Arg> = func
        .params
        .iter()
        .map(|param| match param.name.as_str() {
            "x" | "same_as_x" => Arg::Buffer(x, 0),
            name if name.starts_with("fresh") => Arg::Buffer(mem.alloc_uninit(64), 0),
            _ => Arg::Buffer(mem.alloc_bytes(&[0; 64]), 0),
        })
        .collect();
    let options = Options { max_steps: 1000, max_faults: 1, ..Options::default() };
    match launch(&func, [2, 1, 1], &args, &mut mem, &options) {
        Ok(_) => Vec::new(),
        Err(LaunchError::Faults(faults)) => faults.iter().map(Fault::code).collect(),
        Err(other) => panic!("{other}\n{text}"),
    }
}

#[test]
fn the_examples_of_the_pages_on_faults_give_their_codes_and_nothing() {
    let mut checked = 0;
    for code in crate::diag::CODES {
        let mut examples =
            code.page.split("```tile run\n").skip(1).filter_map(|rest| rest.split("```").next());
        if let (Some(wrong), Some(right)) = (examples.next(), examples.next()) {
            assert_eq!(codes_of_example(wrong), [code.code], "the wrong example");
            assert_eq!(codes_of_example(right), [""; 0], "{}: the right example", code.code);
            checked += 1;
        }
    }
    assert_eq!(checked, 17);
}
