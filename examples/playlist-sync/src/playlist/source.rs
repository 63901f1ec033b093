//! The bytes of an export: loaded within bounds, decoded, cut into lines.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use encoding_rs::{UTF_8, WINDOWS_1252};

use super::{MAX_FILE_BYTES, Unreadable};

/// Reads a file into memory, without its byte order mark. UTF-16 with a mark becomes UTF-8; other
/// bytes stay as they are, so that a broken line can be told from the rest.
pub(super) fn load(path: &Path) -> Result<Vec<u8>, Unreadable> {
    // Before the file is opened: opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(Unreadable::Io)?;
    if metadata.is_dir() {
        return Err(Unreadable::Directory);
    }
    if !metadata.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Unreadable::Io)?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(Unreadable::Io)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(Unreadable::TooLarge);
    }
    text(bytes)
}

fn text(bytes: Vec<u8>) -> Result<Vec<u8>, Unreadable> {
    let bytes = match encoding_rs::Encoding::for_bom(&bytes) {
        Some((encoding, length)) if encoding == UTF_8 => bytes[length..].to_vec(),
        Some((utf_16, _)) => utf_16.decode(&bytes).0.into_owned().into_bytes(),
        None => bytes,
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Unreadable::Empty);
    }
    if bytes.contains(&0) {
        return Err(Unreadable::Binary);
    }
    Ok(bytes)
}

/// What an `.m3u` means: UTF-8 if it is, else the Windows code page such files were written in.
pub(super) fn decode_legacy(bytes: Vec<u8>) -> Vec<u8> {
    if std::str::from_utf8(&bytes).is_ok() {
        return bytes;
    }
    WINDOWS_1252
        .decode_without_bom_handling(&bytes)
        .0
        .into_owned()
        .into_bytes()
}

/// The lines of a file, numbered from 1, without their line ends.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    next: usize,
    end: u8,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) number: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> Lines<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        // A file without any line feed ends its lines with carriage returns.
        let end = if bytes.contains(&b'\n') { b'\n' } else { b'\r' };
        Self {
            rest: bytes,
            next: 1,
            end,
        }
    }

    /// How many bytes the lines to come have, line ends included.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|&byte| byte == self.end);
        let (line, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        let number = self.next;
        self.next += 1;
        self.rest = rest;
        Some(Line {
            number,
            bytes: line.strip_suffix(b"\r").unwrap_or(line),
        })
    }
}

impl<'a> Line<'a> {
    pub(super) fn is_blank(&self) -> bool {
        self.bytes.iter().all(u8::is_ascii_whitespace)
    }

    pub(super) fn text(&self) -> Result<&'a str, String> {
        utf8(self.bytes)
    }
}

pub(super) fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes)
        .map_err(|_| "is not UTF-8 text; save the export as UTF-8 to keep it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(usize, &str)> {
        Lines::of(text.as_bytes())
            .map(|line| (line.number, line.text().unwrap()))
            .collect()
    }

    #[test]
    fn every_kind_of_line_end_is_known() {
        let expected = vec![(1, "a"), (2, ""), (3, "b")];
        assert_eq!(lines("a\n\nb\n"), expected);
        assert_eq!(lines("a\r\n\r\nb"), expected);
        assert_eq!(lines("a\r\rb\r"), expected);
    }

    #[test]
    fn utf_16_with_a_mark_is_decoded() {
        let little: Vec<u8> = "\u{feff}Jóga"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(text(little).unwrap(), "Jóga".as_bytes());
    }

    #[test]
    fn binary_and_empty_files_are_told_apart() {
        assert!(matches!(
            text(b"PK\x03\x04\0".to_vec()),
            Err(Unreadable::Binary)
        ));
        assert!(matches!(
            text(b"\xef\xbb\xbf \r\n".to_vec()),
            Err(Unreadable::Empty)
        ));
        assert!(matches!(text(Vec::new()), Err(Unreadable::Empty)));
    }
}
