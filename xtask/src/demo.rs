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
    become_the(&mut demo)
}

/// The demo takes this process's place, so that Ctrl-C reaches it alone and the terminal waits until
/// it has cleaned up.
#[cfg(unix)]
fn become_the(demo: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    let failed = demo.exec();
    Err(anyhow::Error::new(failed).context(format!("cannot run {}", demo.get_program().display())))
}

#[cfg(not(unix))]
fn become_the(demo: &mut Command) -> Result<ExitCode> {
    workspace::status(demo).map(workspace::exit_code)
}
