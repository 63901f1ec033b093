//! Servers from npm.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Error, Program, install, name};
use crate::install::{IoError, on_path, run};

const WHAT: &str = "npm";
/// What is installed, and the exact version and digest of all that it brings.
const FILES: [(&str, &str); 2] = [
    ("package.json", include_str!("npm/package.json")),
    ("package-lock.json", include_str!("npm/package-lock.json")),
];

/// The server of the package `@modelcontextprotocol/{package}`.
pub(super) async fn installed(directory: &Path, package: &str) -> Result<Program, Error> {
    let node = on_path("node").ok_or_else(|| missing("node"))?;
    let destination = directory.join(name(WHAT, FILES));
    install(WHAT, &destination, &script("server-everything"), ci).await?;
    Ok(Program {
        program: node,
        args: vec![destination.join(script(package)).into()],
    })
}

/// The same by the name of its command, through `npx`.
pub(super) async fn behind_npx(
    directory: &Path,
    package: &str,
    command: &str,
) -> Result<Program, Error> {
    installed(directory, package).await?;
    let destination = directory.join(name(WHAT, FILES));
    Ok(Program {
        program: on_path("npx").ok_or_else(|| missing("npx"))?,
        args: vec![
            "--prefix".into(),
            destination.into(),
            "--no-install".into(),
            command.into(),
        ],
    })
}

fn script(package: &str) -> String {
    format!("node_modules/@modelcontextprotocol/{package}/dist/index.js")
}

async fn ci(scratch: PathBuf) -> Result<PathBuf, Error> {
    let npm = on_path("npm").ok_or_else(|| missing("npm"))?;
    for (file, content) in FILES {
        let path = scratch.join(file);
        fs::write(&path, content).map_err(|source| IoError {
            action: "write",
            path,
            source,
        })?;
    }
    let arguments = [
        "ci".as_ref(),
        "--prefix".as_ref(),
        scratch.as_os_str(),
        "--no-audit".as_ref(),
        "--no-fund".as_ref(),
        "--ignore-scripts".as_ref(),
        "--loglevel=error".as_ref(),
        // Without a network the default waits for minutes before it says so.
        "--fetch-retries=1".as_ref(),
    ];
    run(&npm, arguments).await.map_err(|failed| {
        // First come codes, then a sentence, then advice.
        let mut lines = failed
            .lines()
            .filter_map(|line| line.strip_prefix("npm error "));
        let is_code = |line: &&str| {
            ["code ", "syscall ", "errno "]
                .iter()
                .any(|c| line.starts_with(c))
        };
        let sentence = lines.find(|line| !is_code(line));
        Error::Install {
            what: WHAT,
            reason: sentence.map_or_else(|| failed.to_string(), |line| failed.showing(line)),
        }
    })?;
    Ok(scratch)
}

const fn missing(program: &'static str) -> Error {
    Error::Missing {
        what: WHAT,
        program,
        remedy: "Node.js 20 or later, with npm",
    }
}
