#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    leankv_fuzz::ptx_parser(data);
});
