//! Finding programs, and running them to their end.

use std::{
    env,
    ffi::OsStr,
    fmt,
    fs::Metadata,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

/// How much of a line is quoted.
const LONGEST_LINE: usize = 300;

/// The first executable file of this name on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    on(env::var_os("PATH").as_deref(), name)
}

/// The first executable file of this name in the directories of `path`.
fn on(path: Option<&OsStr>, name: &str) -> Option<PathBuf> {
    env::split_paths(path?)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.metadata().is_ok_and(|m| is_executable(&m)))
}

fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

/// A program that did not do what it was run for. It shows the last line that it said.
#[derive(Debug)]
pub(crate) struct Failed {
    /// How it ended, or why it did not start.
    end: String,
    /// What it said on stderr.
    said: String,
}

impl Failed {
    /// The lines it said, from the first. What it was shown may be the better of them.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        let lines = self.said.lines().map(str::trim);
        lines.filter(|line| !line.is_empty())
    }

    /// Shows `line` in place of the last.
    pub(crate) fn showing(&self, line: &str) -> String {
        let line: String = line.chars().take(LONGEST_LINE).collect();
        format!("{} ({})", line.escape_debug(), self.end)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.lines().last().unwrap_or("nothing said");
        f.write_str(&self.showing(last))
    }
}

/// Runs a program to its end.
pub(crate) async fn run(
    program: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<(), Failed> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| Failed {
            end: error.to_string(),
            said: format!("{} cannot be run", program.display()),
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failed {
        end: output.status.to_string(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
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
        script(first.path(), "node", 0o644);
        let wanted = script(second.path(), "node", 0o755);
        let path = env::join_paths([first.path(), second.path()]).unwrap();

        assert_eq!(on(Some(&path), "node"), Some(wanted));
        assert_eq!(on(Some(&path), "elsewhere"), None);
        assert_eq!(on(None, "node"), None);
    }

    #[tokio::test]
    async fn a_failed_command_says_its_last_line() {
        let arguments = [
            "-c",
            "echo early >&2; echo the reason >&2; echo >&2; exit 3",
        ];
        let failed = run(Path::new("/bin/sh"), arguments).await.unwrap_err();
        let said = failed.to_string();
        assert!(said.starts_with("the reason"), "{said}");
        assert!(said.contains('3'), "{said}");
        assert_eq!(failed.lines().next(), Some("early"));
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_named() {
        let failed = run(Path::new("/nowhere/npm"), ["install"]).await;
        let said = failed.unwrap_err().to_string();
        assert!(said.starts_with("/nowhere/npm cannot be run ("), "{said}");
    }
}
