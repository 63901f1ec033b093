//! One installation, which test processes share.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::sleep;

/// How often a process looks whether another one has finished installing.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// A file or directory could not be made or used.
#[derive(Debug)]
pub(crate) struct IoError {
    /// What was to be done.
    pub(crate) action: &'static str,
    /// With which file.
    pub(crate) path: PathBuf,
    /// What the system said.
    pub(crate) source: io::Error,
}

impl IoError {
    fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Makes `destination`, a file or a directory, unless it is there. The caller bounds the time.
///
/// `make` works in a scratch directory, which it is given, and says what of it is to be put in place.
/// That is done by a rename: nobody ever sees half of it.
pub(crate) async fn once<E: From<IoError>>(
    destination: &Path,
    is_there: impl Fn(&Path) -> bool,
    make: impl AsyncFnOnce(PathBuf) -> Result<PathBuf, E>,
) -> Result<(), E> {
    if is_there(destination) {
        return Ok(());
    }
    let directory = destination.parent().unwrap_or(destination);
    fs::create_dir_all(directory).map_err(IoError::of("create the directory", directory))?;
    // The lock goes with the file handle, also when this future is dropped or the process dies.
    let _lock = lock(&beside(destination, "lock")).await?;
    if is_there(destination) {
        return Ok(());
    }
    let scratch = beside(destination, "part");
    clear(&scratch)?;
    fs::create_dir(&scratch).map_err(IoError::of("create the directory", &scratch))?;
    let made = make(scratch.clone()).await;
    let placed = made.and_then(|made| {
        clear(destination)?;
        fs::rename(made, destination).map_err(IoError::of("put in place", destination))?;
        Ok(())
    });
    // If it stays, the next installation clears it.
    let _ = clear(&scratch);
    placed
}

/// Removes what an installation has left behind that was not finished, or is of no more use.
fn clear(path: &Path) -> Result<(), IoError> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(IoError::of("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// `name.suffix` beside `name`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Waits for the file's lock without holding up the runtime.
async fn lock(path: &Path) -> Result<File, IoError> {
    let file = File::create(path).map_err(IoError::of("create the lock file", path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(LOCK_POLL).await,
            Err(TryLockError::Error(source)) => return Err(IoError::of("lock", path)(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::Notify, time::timeout};

    use super::*;

    async fn install(destination: &Path, words: &str) -> Result<(), IoError> {
        let is_there = |path: &Path| path.is_file();
        once(destination, is_there, async |scratch: PathBuf| {
            let made = scratch.join("made");
            fs::write(&made, words).unwrap();
            Ok(made)
        })
        .await
    }

    #[tokio::test]
    async fn what_is_there_is_used_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("program-1.2.3");
        fs::write(&there, "first").unwrap();
        install(&there, "second").await.unwrap();
        assert_eq!(fs::read_to_string(there).unwrap(), "first");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_installer_waits_for_the_first_but_not_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("deep/program-1.2.3");
        let goes_on = Notify::new();
        let first = once(&there, Path::is_file, async |scratch: PathBuf| {
            goes_on.notified().await;
            let made = scratch.join("made");
            fs::write(&made, "first").unwrap();
            Ok::<_, IoError>(made)
        });
        tokio::pin!(first);
        tokio::select! {
            biased;
            _ = &mut first => panic!("it waits"),
            waited = timeout(Duration::from_secs(5), install(&there, "second")) => {
                waited.unwrap_err();
            }
        }
        goes_on.notify_one();
        let (first, second) = tokio::join!(first, install(&there, "second"));
        first.unwrap();
        second.unwrap();
        assert_eq!(fs::read_to_string(&there).unwrap(), "first");
    }

    #[tokio::test]
    async fn what_an_abandoned_installation_left_is_cleared() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("program-1.2.3");
        let abandoned = once(&there, Path::is_file, async |scratch: PathBuf| {
            fs::write(scratch.join("half"), "").unwrap();
            std::future::pending::<Result<PathBuf, IoError>>().await
        });
        tokio::select! {
            biased;
            _ = abandoned => panic!("it does not end"),
            () = tokio::task::yield_now() => {}
        }
        assert!(beside(&there, "part").join("half").is_file());
        // And what is there is not what was wanted.
        fs::create_dir(&there).unwrap();
        install(&there, "whole").await.unwrap();
        assert_eq!(fs::read_to_string(&there).unwrap(), "whole");
        assert!(!beside(&there, "part").exists());
    }

    #[tokio::test]
    async fn a_failed_installation_leaves_nothing_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("program-1.2.3");
        let error = once(&there, Path::is_file, async |scratch: PathBuf| {
            Ok::<_, IoError>(scratch.join("nothing"))
        });
        let error = error.await.unwrap_err();
        assert_eq!((error.action, &error.path), ("put in place", &there));
        assert!(!there.exists());
    }
}
