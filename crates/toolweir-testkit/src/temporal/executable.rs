//! Finding a `temporal` that runs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{Error, Options, install};
use crate::install::{on_path, target_directory};

/// Asking for the version takes a tenth of a second.
const VERSION_WITHIN: Duration = Duration::from_secs(30);

/// The `temporal` to start: the one the caller names, one on the `PATH`, or an installed one.
pub(super) async fn locate(options: &Options) -> Result<PathBuf, Error> {
    if let Some(path) = &options.executable {
        return Ok(path.clone());
    }
    if let Some(path) = on_path("temporal") {
        match check(&path).await {
            Ok(()) => return Ok(path),
            // Something else may bear that name.
            Err(reason) => tracing::warn!(path = %path.display(), reason, "not a Temporal CLI"),
        }
    }
    let directory = directory(options).join("tools");
    install::installed(&directory, options.install_within).await
}

/// Where we keep files: the caller's directory, or the target directory.
pub(super) fn directory(options: &Options) -> PathBuf {
    options.directory.clone().unwrap_or_else(target_directory)
}

/// Whether `path` is a Temporal CLI that runs on this machine.
pub(super) async fn check(path: &Path) -> Result<(), String> {
    let output = Command::new(path)
        .arg("--version")
        .kill_on_drop(true)
        .output();
    let output = timeout(VERSION_WITHIN, output)
        .await
        .map_err(|_| format!("`--version` took longer than {VERSION_WITHIN:?}"))?
        .map_err(|error| format!("it cannot be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.starts_with("temporal version") {
        Ok(())
    } else {
        let said: String = said.chars().take(100).collect();
        Err(format!(
            "`--version` ended with {} and said {said:?}",
            output.status
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namesake_is_not_taken_for_a_temporal_cli() {
        // A system command, since a file written a moment ago may still be open in a process that
        // another test forks, and then can't be executed.
        let reason = check(Path::new("/bin/echo")).await.unwrap_err();
        assert!(reason.contains("--version"), "{reason}");

        let reason = check(Path::new("/nowhere/temporal")).await.unwrap_err();
        assert!(reason.contains("cannot be run"), "{reason}");
    }
}
