//! `cargo xtask bench layers`: our limits beside their peers; see `--help`.

#[path = "mod.rs"]
mod layers;

use std::process::ExitCode;

use clap::Parser as _;
use toolweir_benches::report;

fn main() -> ExitCode {
    report::verdict(layers::run(&layers::Arguments::parse()))
}
