//! The `leankv` command.

fn main() -> std::process::ExitCode {
    leankv_cli::main()
}
