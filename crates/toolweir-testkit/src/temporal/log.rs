//! The server's log file.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process,
    time::{Duration, SystemTime},
};

use super::Error;

/// Old logs go, so that the directory does not grow for ever.
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// How much of a log an error quotes.
const TAIL_BYTES: u64 = 2048;

/// Makes the log file for a server on `port`, and removes those that are a day old.
pub(super) fn create(directory: &Path, port: u16) -> Result<(PathBuf, File), Error> {
    fs::create_dir_all(directory).map_err(Error::io("create the directory", directory))?;
    remove_old(directory, SystemTime::now());
    let path = directory.join(format!("server-{}-{port}.log", process::id()));
    let file = File::create(&path).map_err(Error::io("create the log file", &path))?;
    Ok((path, file))
}

/// Best effort: another process may be doing the same.
fn remove_old(directory: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_log = name.starts_with("server-") && name.ends_with(".log");
        let is_old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > KEEP));
        if is_log && is_old {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// The end of the log, with control characters escaped.
pub(super) fn tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.take(TAIL_BYTES).read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        return format!("(cannot be read: {error})");
    }
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_end_on_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server-1-2.log");
        assert!(tail(&path).starts_with("(cannot be read"));

        fs::write(&path, "").unwrap();
        assert_eq!(tail(&path), "(empty)");

        fs::write(&path, format!("{}first\nlast\u{1b}[0m\n", "x".repeat(5000))).unwrap();
        let tail = tail(&path);
        assert!(tail.ends_with("xfirst last\u{fffd}[0m"), "{tail}");
        assert!(tail.len() <= 2100);
    }

    #[test]
    fn logs_of_yesterday_go_and_other_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        let old = directory.path().join("server-1-2.log");
        let other = directory.path().join("notes.txt");
        fs::write(&old, "").unwrap();
        fs::write(&other, "").unwrap();

        remove_old(directory.path(), SystemTime::now());
        assert!(old.exists(), "a log of now stays");

        remove_old(directory.path(), SystemTime::now() + KEEP * 2);
        assert!(!old.exists());
        assert!(other.exists());
    }
}
