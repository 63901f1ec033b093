//! Finding a `temporal` that runs.

use std::{
    env,
    ffi::OsStr,
    fs::Metadata,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use super::{Error, Options, install, target};

/// Asking for the version takes a tenth of a second.
const VERSION_WITHIN: Duration = Duration::from_secs(30);

/// The `temporal` to start: the one the caller names, one on the `PATH`, or an installed one.
pub(super) async fn locate(options: &Options) -> Result<PathBuf, Error> {
    if let Some(path) = &options.executable {
        return Ok(path.clone());
    }
    if let Some(path) = on_path("temporal", env::var_os("PATH").as_deref()) {
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
    options.directory.clone().unwrap_or_else(target::directory)
}

/// The first executable file of this name on `path`.
pub(super) fn on_path(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    env::split_paths(path?)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.metadata().is_ok_and(|m| is_executable(&m)))
}

fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
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
    use std::fs;

    use super::*;

    fn script(directory: &Path, name: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, "#!/bin/sh\necho something else\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn only_an_executable_file_counts() {
        let first = tempfile::tempdir().unwrap();
        let second = tempfile::tempdir().unwrap();
        script(first.path(), "temporal", 0o644);
        let wanted = script(second.path(), "temporal", 0o755);
        let path = env::join_paths([first.path(), second.path()]).unwrap();

        assert_eq!(on_path("temporal", Some(&path)), Some(wanted));
        assert_eq!(on_path("elsewhere", Some(&path)), None);
        assert_eq!(on_path("temporal", None), None);
    }

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
