use super::{Diagnostic, Diagnostics, Render};
use crate::ir::Loc;

const SOURCE: &str = "fn k() {\n    let y = x + wide;\n    y.store();\n}\n";

fn mismatch() -> Diagnostic {
    Diagnostic::error("K0101", Loc::new("virtual/k.rs", 2, 13), "`add`: element types `f16` and `f32` differ")
        .say("`f16` here")
        .label(Loc::new("virtual/k.rs", 3, 7), "stored here")
        .note("the kernel was specialised for bm=64")
        .help("nothing is converted implicitly; write a `cast`")
}

#[test]
fn an_error_is_rendered_with_the_source_lines_it_is_about() {
    let text = Render::plain().with_source("virtual/k.rs", SOURCE).diagnostic(&mismatch());
    insta::assert_snapshot!(text, @r"
    error[K0101]: `add`: element types `f16` and `f32` differ
     --> virtual/k.rs:2:13
      |
    2 |     let y = x + wide;
      |             ^ `f16` here
    3 |     y.store();
      |       ----- stored here
      |
      = note: the kernel was specialised for bm=64
      = help: nothing is converted implicitly; write a `cast`
    ");
}

#[test]
fn without_the_source_the_places_and_labels_are_still_named() {
    insta::assert_snapshot!(mismatch(), @r"
    error[K0101]: `add`: element types `f16` and `f32` differ
    --> virtual/k.rs:2:13
     = note: `f16` here
     = note: virtual/k.rs:3:7: stored here
     = note: the kernel was specialised for bm=64
     = help: nothing is converted implicitly; write a `cast`
    ");
}

#[test]
fn a_place_that_the_source_does_not_have_is_shown_without_an_excerpt() {
    let stale = Diagnostic::error("K0101", Loc::new("virtual/k.rs", 90, 1), "gone");
    insta::assert_snapshot!(Render::plain().with_source("virtual/k.rs", SOURCE).diagnostic(&stale), @r"
    error[K0101]: gone
    --> virtual/k.rs:90:1
    ");
    let beyond = Diagnostic::error("K0101", Loc::new("virtual/k.rs", 1, 80), "gone");
    insta::assert_snapshot!(Render::plain().with_source("virtual/k.rs", SOURCE).diagnostic(&beyond), @r"
    error[K0101]: gone
    --> virtual/k.rs:1:80
    ");
}

#[test]
fn an_unknown_place_is_left_out() {
    let nowhere = Diagnostic::warning("K0101", Loc::unknown(), "`x` is never read");
    insta::assert_snapshot!(nowhere, @r"
    warning[K0101]: `x` is never read
    ");
}

#[test]
fn colour_comes_only_when_asked_for() {
    assert!(!mismatch().to_string().contains('\u{1b}'));
    assert!(Render::colored().diagnostic(&mismatch()).contains('\u{1b}'));
}

#[test]
fn several_are_counted_and_a_warning_alone_is_no_failure() {
    let mut all = Diagnostics::from(mismatch());
    all.push(mismatch());
    assert!(all.to_string().ends_with("\n\n2 errors"), "{all}");
    assert!(format!("{all:?}").contains("error[K0101]: `add`"));
    let warning = Diagnostics::from(Diagnostic::warning("K0101", Loc::unknown(), "w"));
    assert_eq!(warning.into_result(3), Ok(3));
    assert!(all.into_result(3).is_err());
}

#[test]
fn any_column_of_any_line_renders() {
    let text = "é%0 = add %1, ü\n\n\tx\n";
    for line in 0..6 {
        for col in 0..20 {
            let d = Diagnostic::error("K0101", Loc::new("virtual/u.rs", line, col), "m");
            let shown = Render::plain().with_source("virtual/u.rs", text).diagnostic(&d);
            assert!(shown.starts_with("error[K0101]: m"), "{shown}");
        }
    }
}
