use super::*;
use crate::ir::Print;
use proptest::prelude::*;

/// Every op once, in its plainest and its fullest form.
const EVERYTHING: &str = r#"kernel @everything(
    %0 x: ptr<f32> read multiple_of 16,
    %1 out: ptr<f32> write,
    %2 counts: ptr<u32> read_write,
    %3 n: i32,
    %4 x.shape0: i64 multiple_of 8,
) num_warps 8 spec "block=8, name=\"q\"" {
  %5 = program_id y : i32
  %6 = num_programs x : i32
  %7 = constant -8 : i32
  %8 = constant 0.1 : tile<8xf32>
  %9 = constant true : i1
  %10 = constant -inf : f16
  %11 = iota : tile<8xi32>
  %12 = splat %3 : tile<8xi32>
  %13 = add %11, %12 : tile<8xi32>
  %14 = exp2 %8 : tile<8xf32>
  %15 = fma %8, %14, %8 : tile<8xf32>
  %16 = cmp lt %11, %12 : tile<8xi1>
  %17 = select %16, %8, %14 : tile<8xf32>
  %18 = cast %17 : tile<8xf16>
  %19 = bitcast %17 : tile<8xu32>
  %20 = reshape %17 : tile<4x2xf32>
  %21 = transpose %20 perm [1, 0] : tile<2x4xf32>
  %22 = expand_dims %17 axis 1 : tile<8x1xf32>
  %23 = broadcast %22 : tile<8x16xf32>
  %24 = join %17, %14 : tile<8x2xf32>
  %25, %26 = split %24 : tile<8xf32>, tile<8xf32>
  %27 = reduce add %23 axis 1 : tile<8xf32>
  %28, %29 = reduce %17, %11 axis 0 : f32, i32 { |%30: f32, %31: i32, %32: f32, %33: i32|
    %34 = cmp gt %32, %30 : i1
    %35 = select %34, %32, %30 : f32
    %36 = select %34, %33, %31 : i32
    yield %35, %36
  }
  %37 = scan max %17 axis 0 reverse : tile<8xf32>
  %38 = scan %11 axis 0 : tile<8xi32> { |%39: i32, %40: i32|
    yield %40
  }
  %41 = dot %20, %21, %42 : tile<4x4xf32>
  %42 = constant 0.0 : tile<4x4xf32>
  %43 = gather %17, %11 axis 0 : tile<8xf32>
  %44 = ptr_cast %0 : ptr<u8>
  %45 = ptr_add %0, %4 : ptr<f32>
  %46 = load %0[%11] : tile<8xf32>
  %47 = load %45[%11] mask %16 other %17 cache streaming : tile<8xf32>
  store %1[%11], %47 mask %16 cache keep
  store %1[%11], %47
  %48 = atomic_rmw add relaxed device %2[%11], %19 mask %16 : tile<8xu32>
  %49 = atomic_cas acq_rel system %2[%11], %19, %19 : tile<8xu32>
  %50 = constant 0 : tile<8xcode4>
  %51 = pack %50 : tile<1xu32>
  %52 = unpack %51 : tile<8xcode4>
  %53 = quantize %17, %8, %8 : tile<8xcode4>
  %54 = dequantize %53, %8, %8 : tile<8xf32>
  assert %16 "the offsets are \\ in \u{7}range"
  print "x = " %17, %3
  print "done"
  %55 = inline_ptx "ex2.approx.f32 $0, $1;" "=f,f" %17 : tile<8xf32> { |%56: f32|
    %57 = exp2 %56 : f32
    yield %57
  }
  %58, %59 = for %3 to %7 step %5 carry %17, %9 stages 3 : tile<8xf32>, i1 { |%60: i32, %61: tile<8xf32>, %62: i1|
    yield %61, %62
  }
  for %3 to %7 step %5 { |%63: i32|
    yield
  }
  %64 = while carry %3 : i32 { |%65: i32|
    %66 = cmp lt %65, %7 : i1
    yield %66, %65
  } do { |%67: i32|
    yield %67
  }
  %68 = if %9 : f32 {
    %69 = constant 1.5 : f32
    yield %69
  } else {
    %70 = constant 0x7ff8000000000001 : f32
    yield %70
  }
  %71 = convert_layout %17 : tile<8xf32>
  %72 = local_alloc : shared<2, 8xf32>
  async_copy %72[%3], %0[%11] mask %16
  async_copy %72[%3], %0[%11]
  async_commit
  async_wait 1
  barrier
  %73 = local_load %72[%3] : tile<8xf32>
  local_store %72[%3], %73
  return
}
"#;

#[test]
fn every_op_round_trips() {
    let func = parse("everything.tile", EVERYTHING).unwrap();
    assert_eq!(func.to_string(), EVERYTHING);
}

#[test]
fn locations_round_trip() {
    let print = Print { locs: true, ..Print::default() };
    let func = parse("everything.tile", EVERYTHING).unwrap();
    let text = print.func(&func);
    assert!(text.contains("%5 = program_id y : i32 loc(\"everything.tile\":8:3)\n"), "{text}");
    assert_eq!(print.func(&parse("other.tile", &text).unwrap()), text);
    let unknown = text.replace("loc(\"everything.tile\":8:3)", "loc(?)");
    assert_eq!(print.func(&parse("other.tile", &unknown).unwrap()), unknown);
}

#[test]
fn ops_with_a_wrong_number_of_operands_have_a_text() {
    let text = "kernel @\"odd name\"(%0 \"a b\": i32) num_warps 4 {
  %1 = load masked with_other (%0) cache keep : f32
  store (%0)
  %2 = atomic_rmw max acquire block masked () : i32
  async_copy (%0, %0)
  %3 = local_load () : f32
  for (%0) stages 2
  yield %9
}
";
    let with_missing = text.replace("%9", "%0");
    assert_eq!(parse("t", &with_missing).unwrap().to_string(), with_missing);
    assert!(parse("t", text).unwrap_err().message.contains("there is no value `%9`"));
}

#[test]
fn numbers_do_not_depend_on_names_or_comments() {
    let named =
        "kernel @k(%n n: i32) { ; a comment\n %one = constant 1 : i32\n%sum = add %n, %one : i32 return }";
    assert_eq!(
        parse("t", named).unwrap().to_string(),
        "kernel @k(%0 n: i32) num_warps 4 {\n  %1 = constant 1 : i32\n  %2 = add %0, %1 : i32\n  return\n}\n"
    );
}

#[test]
fn an_annotation_stands_behind_its_op() {
    let func = parse("t", "kernel @k() { %0 = constant 1 : i32 return }").unwrap();
    let name = |func: &Func, inst: Inst| Some(format!("it is {}", func.inst(inst).op.name()));
    let print = Print { annotate: Some(&name), raw: true, locs: false };
    let text = print.func(&func);
    assert!(text.contains("  %0 = constant 1 : i32 ; it is constant\n  return ; it is return\n"), "{text}");
    assert_eq!(parse("t", &text).unwrap().to_string(), func.to_string());
}

/// The place and message of the first mistake.
#[track_caller]
fn check(text: &str, expected: &str) {
    let error = parse("t", text).unwrap_err();
    assert_eq!(format!("{}: {}", error.loc(), error.message), expected);
}

#[test]
fn mistakes_are_named_with_line_and_column() {
    check("", "t:1:1: expected one kernel in the text, found 0");
    check("fn", "t:1:1: expected `kernel`, found `fn`");
    check("kernel @k(", "t:1:11: expected a value such as `%3`, found the end of the text");
    check("kernel @k() {\n  frobnicate\n}", "t:2:3: there is no op `frobnicate`");
    check("kernel @k() {\n  %0 = iota\n}", "t:2:12: `iota` names 1 results but 0 result types");
    check(
        "kernel @k() {\n  %0 = iota : tile<8>\n}",
        "t:2:20: a tile has extents: `tile<16x8>`; a scalar is just `8`",
    );
    check("kernel @k() {\n  %0 = iota : tile<axi32>\n}", "t:2:20: `axi32` is no shape; write `16x128xf32`");
    check(
        "kernel @k() {\n  %0 = iota : tile<8xq4>\n}",
        "t:2:20: `q4` is not an element type; write one of i1, i8..i64, u8..u64, f16, bf16, f32, f64, code1..code8",
    );
    check("kernel @k() {\n  %0 = iota : tile<8xi32\n}", "t:2:20: a type without its closing `>`");
    check("kernel @k() {\n  %0 = constant 1.5 : i32\n}", "t:2:17: `1.5` is no constant of `i32`");
    check(
        "kernel @k() {\n  %a = iota : i32 %a = iota : i32\n}",
        "t:2:19: the value `%a` is defined a second time",
    );
    check("kernel @k() {\n  assert %a \"x\n", "t:2:13: a string without its closing quote");
    check("kernel @k() {\n  print \"\\q\"\n", "t:2:10: a bad escape; there are \\n \\t \\\" \\\\ \\u{..}");
    check(
        "kernel @k() num_warps 99999999999 {}",
        "t:1:23: 99999999999 is out of range for the number of warps",
    );
    check(
        "kernel @k() { %0 = cmp less %1, %2 : i1 }",
        "t:1:24: expected a comparison (eq, ne, lt, le, gt, ge), found `less`",
    );
    check("kernel @k() { % = iota : i32 }", "t:1:15: `%` without a name; values are written `%3` or `%name`");
}

#[test]
fn nesting_is_bounded() {
    let nested = |n: usize| format!("kernel @k() {{ {} {} }}", "if {".repeat(n), "}".repeat(n));
    assert!(parse("t", &nested(MAX_DEPTH)).is_ok());
    assert!(parse("t", &nested(MAX_DEPTH + 1)).unwrap_err().message.contains("nest more than"));
    assert!(parse("t", &nested(100_000)).is_err());
}

/// Whatever parses prints to a text that parses to the same text.
fn holds(text: &str) {
    if let Ok(func) = parse("t", text) {
        let printed = func.to_string();
        let again = parse("t", &printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_string(), printed);
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in ".*") {
        holds(&text);
    }

    #[test]
    fn any_sequence_of_words_is_parsed_or_refused(words in prop::collection::vec(word(), 0..60)) {
        holds(&words.join(" "));
        holds(&format!("kernel @k(%0 x: ptr<f32> read) {{ {} }}", words.join(" ")));
    }

    #[test]
    fn a_damaged_text_is_parsed_or_refused(at in 0..EVERYTHING.len(), len in 0..20usize, put in "[ -~]{0,6}") {
        let mut text = EVERYTHING.to_owned();
        text.replace_range(at..(at + len).min(EVERYTHING.len()), &put);
        holds(&text);
    }
}

fn word() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(EVERYTHING.split_whitespace().collect::<Vec<_>>());
    prop_oneof![fixed.prop_map(str::to_owned), "[%@(){}\\[\\]:,|;\"<>=0-9a-z]{1,4}"]
}
