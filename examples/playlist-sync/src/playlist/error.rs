//! Why an export could not be read at all.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{MAX_FILE_BYTES, MAX_ROWS};

/// An export from which nothing can be read.
#[derive(Debug)]
pub struct ReadExportError {
    path: PathBuf,
    why: Unreadable,
}

/// Why an export cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unreadable {
    /// The operating system refused: missing, no permission, a broken disk.
    Io(io::Error),
    /// The path is a directory.
    Directory,
    /// The path is a device, a pipe or a socket.
    NotAFile,
    /// The name ends in none of the known extensions.
    UnknownFormat,
    /// Larger than [`MAX_FILE_BYTES`].
    TooLarge,
    /// Nothing in it but white space.
    Empty,
    /// Not text.
    Binary,
    /// No header names a title column.
    NoTitleColumn,
    /// The header names a title column and no artist column.
    NoArtistColumn,
    /// More than [`MAX_ROWS`] rows.
    TooManyRows,
}

impl ReadExportError {
    pub(super) fn new(path: &Path, why: Unreadable) -> Self {
        Self {
            path: path.to_owned(),
            why,
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with it.
    #[must_use]
    pub fn why(&self) -> &Unreadable {
        &self.why
    }
}

impl fmt::Display for ReadExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl Error for ReadExportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.why {
            Unreadable::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                f.write_str("there is no such file")
            }
            Self::Io(error) => write!(f, "the file cannot be read: {error}"),
            Self::Directory => f.write_str("is a directory, name the export inside it"),
            Self::NotAFile => f.write_str("is not a regular file"),
            Self::UnknownFormat => f.write_str(
                "is of an unknown kind: the name of an export ends in .csv, .tsv, .m3u or .m3u8",
            ),
            Self::TooLarge => {
                write!(f, "is larger than {} MiB", MAX_FILE_BYTES / (1024 * 1024))
            }
            Self::Empty => f.write_str("is empty"),
            Self::Binary => f.write_str("is not a text file"),
            Self::NoTitleColumn => f.write_str(
                "has no header row with a title column (title, track name, song, name, ...)",
            ),
            Self::NoArtistColumn => f.write_str(
                "has no artist column in its header row (artist, artist name, performer, ...)",
            ),
            Self::TooManyRows => write!(f, "has more than {MAX_ROWS} rows"),
        }
    }
}
