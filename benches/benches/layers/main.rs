//! `cargo xtask bench layers`: our limits beside their peers; see `--help`.

#[path = "mod.rs"]
mod layers;

fn main() -> std::process::ExitCode {
    layers::main()
}
