//! Where things are, and how to run cargo there.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::{Context as _, Result};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo builds to.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs this command, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Runs a command to its end.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))
}

/// A command's exit status as one's own. Killed by a signal counts as a failure.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A program takes this process's place, so that Ctrl-C reaches it alone and the terminal waits until
/// it has cleaned up.
#[cfg(unix)]
pub(crate) fn become_the(program: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt as _;
    let failed = program.exec();
    let program = program.get_program().display();
    Err(anyhow::Error::new(failed).context(format!("cannot run {program}")))
}

#[cfg(not(unix))]
pub(crate) fn become_the(program: &mut Command) -> Result<ExitCode> {
    status(program).map(exit_code)
}
