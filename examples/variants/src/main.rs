//! The `leankv` command with the variants and policies of this crate: `cargo run -p leankv-variants -- run --kv k4v4+nf4 ..`.

fn main() -> std::process::ExitCode {
    leankv_cli::main_with(leankv_variants::registry().expect("these names are free"))
}
