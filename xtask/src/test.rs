//! Runs every test of the workspace.

use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;

use crate::workspace;

pub(crate) fn run(options: &[String]) -> Result<ExitCode> {
    // The demo's programs are tested as they are run: built with the same features.
    let mut build = workspace::cargo();
    build.args(["build", "--package", "playlist-sync", "--bins"]);
    for step in [&mut build, &mut tests(options)] {
        let status = workspace::status(step)?;
        if !status.success() {
            return Ok(workspace::exit_code(status));
        }
    }
    let mut doctests = workspace::cargo();
    doctests.args(["test", "--workspace", "--all-features", "--doc"]);
    workspace::status(&mut doctests).map(workspace::exit_code)
}

/// nextest where it is installed, which runs the tests of all crates side by side; else what cargo
/// has, which runs the same tests, crate by crate.
fn tests(options: &[String]) -> Command {
    let mut tests = workspace::cargo();
    if has_nextest() {
        tests.args(["nextest", "run", "--workspace", "--all-features"]);
    } else {
        // Not the benches.
        tests.args(["test", "--workspace", "--all-features"]);
        tests.args(["--lib", "--bins", "--tests", "--examples"]);
    }
    tests.args(options);
    tests
}

fn has_nextest() -> bool {
    workspace::cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
