//! Users' codecs in the whole cache, against attention in f64 and against each other.

mod common;

use common::{
    BOTH, D, Kind, Model, OFFSET, ROTATED, STOCK, checking_devices, error_of, rope, small, two_tiers,
};
use leankv_model::variants::KeyOffsetTables;
use leankv_runtime::Device;
use leankv_runtime::kv::{KvError, Thresholds};

/// Thresholds with which tokens of this attention are kept high, demoted and dropped.
fn thresholds() -> Thresholds {
    Thresholds::new(1.1, 0.6)
}

fn check(kind: Kind, model: &Model) {
    let mut run = model.run(kind, &Device::host(), &two_tiers(), &thresholds(), 50);
    for _ in 0..8 {
        run.checked_step();
    }
    assert!(run.low() > 0, "tokens were demoted");

    for device in checking_devices() {
        let mut run = model.run(kind, &device, &small(), &Thresholds::new(1.2, 0.3), 20);
        for _ in 0..3 {
            run.checked_step();
        }
        assert!(run.low() > 0, "tokens were demoted");
    }
}

#[test]
fn a_key_offset_attends_as_f64_does_in_both_tiers() {
    check(OFFSET, &Model { bias: 40.0, outliers: 1.0 });
}

#[test]
fn a_rotation_attends_as_f64_does_in_both_tiers() {
    check(ROTATED, &Model { bias: 0.0, outliers: 1.0 });
}

#[test]
fn both_together_attend_as_f64_does_in_both_tiers() {
    check(BOTH, &Model { bias: 40.0, outliers: 1.0 });
}

#[test]
fn four_bit_keys_of_a_large_bias_are_lost_without_the_offset_and_found_with_it() {
    let model = Model { bias: 100.0, outliers: 1.0 };
    let (stock, offset) = (error_of(STOCK, &model, "K4V8"), error_of(OFFSET, &model, "K4V8"));
    assert!(stock > 0.5, "without: {stock}");
    assert!(offset < 0.1, "with: {offset}");
    // What is left costs what keys without a bias cost.
    let plain = error_of(STOCK, &Model { bias: 0.0, ..model }, "K4V8");
    assert!(offset < 2.0 * plain, "{offset} against {plain}");
}

#[test]
fn outliers_cost_four_bit_keys_less_when_they_are_rotated() {
    let model = Model { bias: 0.0, outliers: 12.0 };
    let (stock, rotated) = (error_of(STOCK, &model, "K4V8"), error_of(ROTATED, &model, "K4V8"));
    assert!(rotated < 0.7 * stock, "rotated {rotated}, as they are {stock}");
}

#[test]
fn a_codec_is_less_than_sixty_lines_of_code_in_one_file() {
    for text in
        [include_str!("../../src/variants/key_offset.rs"), include_str!("../../src/variants/hadamard.rs")]
    {
        let code = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//"));
        let lines = code.count();
        assert!(lines < 60, "{lines} lines");
    }
}

#[test]
fn tables_of_other_extents_are_refused_with_what_is_needed() {
    let device = Device::reference();
    let make =
        |bias: usize, extents| KeyOffsetTables::new(&device, vec![vec![0.0; bias]], extents, &rope(), 4);
    assert!(matches!(make(130, [2, 65]), Err(KvError::Shape { .. })));
    assert!(matches!(make(127, [2, 64]), Err(KvError::Length { expected: 128, got: 127, .. })));
    let tables = make(128, [2, 64]).unwrap();
    assert_eq!(tables.offset(0, 1, 3), vec![0.0; D]);
}
