//! Reads playlist exports as people have them: CSV with a header row, and M3U.
//!
//! A file that cannot be read at all is a [`ReadExportError`] and concerns its owner alone. A row
//! that cannot be used is listed in [`Export::malformed`] by file and line, and the rest of the
//! file is read. What was set aside without losing the row is in [`Export::warnings`].
//!
//! # CSV
//!
//! `.csv` and `.tsv`, UTF-8 with or without a byte order mark (UTF-16 with one). The first line
//! that is not blank names the columns, in any order and case; spaces, underscores and
//! punctuation in a name do not matter. Columns of other names are ignored. [`COLUMN_NAMES`] is
//! the table of names:
//!
//! | column | names | needed |
//! |---|---|---|
//! | title | `title`, `track name`, `track title`, `song name`, `song title`, `song`, `track`, `name` | yes |
//! | artist | `artist`, `artists`, `artist name`, `artist names`, `artist name(s)`, `track artist`, `performer` | yes |
//! | album | `album`, `album name`, `album title` | no |
//! | ISRC | `isrc`, `isrc code`, `track isrc` | no |
//!
//! Fields are separated by commas, or by semicolons or tabs where the header is. A row has as
//! many fields as the header. A quoted field that is never closed costs its own line, not the
//! rest of the file.
//!
//! # M3U
//!
//! `.m3u8` is UTF-8; `.m3u` is UTF-8 if it can be, else Windows-1252. An entry is a line with a
//! path, told by the `#EXTINF:seconds,Artist - Title` before it, or else by the path's file stem
//! (`Artist - Title`, with or without a track number before it). `#EXTALB` and `#EXTART` give
//! album and artist.
//!
//! # Bounds
//!
//! [`MAX_FILE_BYTES`], [`MAX_ROWS`], [`MAX_FIELD_BYTES`].

mod columns;
mod error;
mod export;
mod m3u;
mod source;
mod table;
mod track;

use std::path::Path;

pub use columns::{COLUMN_NAMES, Column};
pub use error::{ReadExportError, Unreadable};
pub use export::{Export, MalformedRow, RowWarning};
pub(crate) use track::fold;
pub use track::{Track, normalise_isrc};

/// The largest export that is read: 16 MiB.
pub const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// The most rows (or entries) an export may have.
pub const MAX_ROWS: usize = 100_000;
/// The longest title, artist, album or ISRC field, in bytes of UTF-8.
pub const MAX_FIELD_BYTES: usize = 1024;

/// Reads one export; its name's extension says which format it has.
///
/// # Errors
///
/// When nothing can be read from the file: it is missing, no regular file, empty, too large, not
/// text, of an unknown kind, has no usable header, or has more than [`MAX_ROWS`] rows. The
/// message is one sentence that names the file. Rows that cannot be used are no error.
pub fn read(path: &Path) -> Result<Export, ReadExportError> {
    read_export(path).map_err(|why| ReadExportError::new(path, why))
}

fn read_export(path: &Path) -> Result<Export, Unreadable> {
    let format = Format::of(path)?;
    let bytes = source::load(path)?;
    let mut builder = export::Builder::new(path);
    match format {
        Format::Table => table::parse(&bytes, &mut builder)?,
        Format::M3u => m3u::parse(&source::decode_legacy(bytes), &mut builder)?,
        Format::M3u8 => m3u::parse(&bytes, &mut builder)?,
    }
    Ok(builder.finish())
}

/// What an export is, as its file name says.
#[derive(Debug, Clone, Copy)]
enum Format {
    Table,
    M3u,
    M3u8,
}

impl Format {
    fn of(path: &Path) -> Result<Self, Unreadable> {
        let extension = path
            .extension()
            .map(|it| it.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("csv" | "tsv") => Ok(Self::Table),
            Some("m3u") => Ok(Self::M3u),
            Some("m3u8") => Ok(Self::M3u8),
            _ => Err(Unreadable::UnknownFormat),
        }
    }
}
