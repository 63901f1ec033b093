//! `cargo xtask bench layers`: our limits beside their peers; see `--help`.

#[path = "mod.rs"]
mod layers;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let complaints = match layers::run(&layers::Arguments::parse()) {
        Ok(complaints) => complaints,
        Err(error) => vec![format!("{error:#}")],
    };
    for complaint in &complaints {
        complain(complaint);
    }
    if complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[expect(
    clippy::print_stderr,
    reason = "what went wrong is for the person at the terminal"
)]
fn complain(what: &str) {
    eprintln!("error: {what}");
}
