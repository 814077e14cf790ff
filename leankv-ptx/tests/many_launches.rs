//! Launches of one machine are ordered, however many there are.

use leankv_ptx::{Arg, Config, LaunchConfig, Machine, Module};

/// The block whose number is `which` writes.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry one(.param .u64 out, .param .u32 which)
{
    .reg .pred %p;
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [which];
    mov.u32 %r2, %ctaid.x;
    setp.ne.u32 %p, %r1, %r2;
    @%p ret;
    st.global.u32 [%rd1], %r2;
    ret;
}
";

#[test]
fn blocks_of_launches_far_apart_do_not_race() {
    let module = Module::parse(PTX).unwrap();
    let mut machine = Machine::new(Config::default());
    let out = machine.alloc(4, 256).unwrap();
    let shape = LaunchConfig { grid: [2, 1, 1], block: [1, 1, 1], dynamic_shared_bytes: 0 };
    // Other blocks write at distances at which a mark of 12 bits would say the same launch.
    for number in 0..3 * 4096 {
        let which: u32 = match number % 4096 {
            7 => (number / 4096) % 2,
            _ => 9,
        };
        let args = [Arg::U64(out), Arg::Bytes(which.to_le_bytes().to_vec())];
        let report = machine.launch(&module, "one", shape, &args).unwrap();
        assert!(report.is_clean(), "launch {number}: {:?}", report.errors().collect::<Vec<_>>());
    }
}
