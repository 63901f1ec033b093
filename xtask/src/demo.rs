//! Builds the example and runs its demo.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::workspace;

/// The programs that the demo starts, and itself.
const PACKAGE: &str = "playlist-sync";

pub(crate) fn run(options: &[String]) -> Result<ExitCode> {
    let mut build = workspace::cargo();
    build.args(["build", "--package", PACKAGE, "--bins"]);
    let built = workspace::status(&mut build)?;
    if !built.success() {
        return Ok(workspace::exit_code(built));
    }
    let mut demo = Command::new(workspace::target().join("debug").join("demo"));
    demo.args(options);
    workspace::become_the(&mut demo)
}
