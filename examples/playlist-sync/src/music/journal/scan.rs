//! Reads the lines of a journal and finds out where the good ones end.

use std::io::{self, BufRead, Read};
use std::path::Path;

use super::JournalError;
use super::record::{FORMAT, Flaw, MAX_RECORD_BYTES, Record, decode};

/// How far a journal is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scan {
    pub(super) good_bytes: u64,
    /// What follows: a last record that was not finished.
    pub(super) torn_bytes: u64,
}

/// Hands every good record to `each`, in order.
///
/// A last line without its end is torn. Any other bad line is an error.
pub(super) fn scan(
    path: &Path,
    reader: &mut impl BufRead,
    mut each: impl FnMut(Record),
) -> Result<Scan, JournalError> {
    let io = |error| JournalError::io(path, "read", error);
    let mut scan = Scan::default();
    let mut line = Vec::new();
    for number in 1_u64.. {
        let (length, ended) = read_line(reader, &mut line).map_err(io)?;
        if !ended {
            scan.torn_bytes = length;
            break;
        }
        let damaged = |why: String| JournalError::Damaged {
            path: path.to_owned(),
            line: number,
            offset: scan.good_bytes,
            why,
        };
        let record = match decode(line.strip_suffix(b"\n").unwrap_or(&line)) {
            Ok(record) => record,
            Err(Flaw::Unknown(error)) => return Err(damaged(format!("unknown record ({error})"))),
            Err(Flaw::Checksum) => return Err(damaged("its checksum does not match".to_owned())),
        };
        if let Record::Start { format, .. } = record
            && format != FORMAT
        {
            return Err(JournalError::Format {
                path: path.to_owned(),
                found: format,
            });
        }
        scan.good_bytes += length;
        each(record);
    }
    Ok(scan)
}

/// Reads up to and with the next line feed into `line`. Says how many bytes that were, and
/// whether there was a line feed. Of a line that is too long it keeps the beginning only, which
/// is then no good.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<(u64, bool)> {
    line.clear();
    let limit = u64::try_from(MAX_RECORD_BYTES).unwrap_or(u64::MAX);
    reader.by_ref().take(limit).read_until(b'\n', line)?;
    let mut length = line.len();
    let mut ended = line.ends_with(b"\n");
    while !ended {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let consumed = end.map_or(buffer.len(), |end| end + 1);
        ended = end.is_some();
        length = length.saturating_add(consumed);
        reader.consume(consumed);
    }
    Ok((u64::try_from(length).unwrap_or(u64::MAX), ended))
}
