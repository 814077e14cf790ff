//! Every kernel records at every declared specialisation.

use leankv_kernels::KERNELS;

#[test]
fn every_declared_specialisation_records() {
    for kernel in KERNELS {
        let space = kernel.space();
        assert!(!space.is_empty(), "`{}` declares no specialisation", kernel.name());
        for settings in space {
            let func = kernel.build(&settings).unwrap_or_else(|found| panic!("{found}"));
            assert_eq!(func.name, kernel.name());
            assert_eq!(func.spec, kernel.specialisation(&settings).expect("declared settings are valid"));
        }
    }
}

#[test]
fn kernels_are_sorted_and_documented() {
    let names: Vec<&str> = KERNELS.iter().map(|k| k.name()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(names, sorted);
    for kernel in KERNELS {
        assert!(kernel.doc().contains("Grid"), "`{}` does not say how it is launched", kernel.name());
    }
}
