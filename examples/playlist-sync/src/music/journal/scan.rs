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
    // A shorter one has met the end of the file. To read on would join it with what a server
    // appends at this moment.
    let mut too_long = !ended && line.len() >= MAX_RECORD_BYTES;
    while too_long {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let consumed = end.map_or(buffer.len(), |end| end + 1);
        ended = end.is_some();
        too_long = !ended;
        length = length.saturating_add(consumed);
        reader.consume(consumed);
    }
    Ok((u64::try_from(length).unwrap_or(u64::MAX), ended))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{BufReader, Read};

    use super::super::record::{StopReason, encode};
    use super::*;

    /// A file that grows between two reads.
    struct Growing(VecDeque<Vec<u8>>);

    impl Read for Growing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let next = self.0.pop_front().unwrap_or_default();
            buffer[..next.len()].copy_from_slice(&next);
            Ok(next.len())
        }
    }

    #[test]
    fn a_record_that_is_being_written_is_left_out() {
        let record = Record::Stop {
            pid: Some(7),
            at_ms: 1,
            reason: StopReason::Terminated,
        };
        let line = encode(&record).unwrap();
        let (half, rest) = line.split_at(20);
        let growing = [[&line[..], half].concat(), Vec::new(), rest.to_vec()];
        let mut seen = Vec::new();
        let mut reader = BufReader::new(Growing(growing.into()));
        let scan = scan(Path::new("memory"), &mut reader, |record| seen.push(record)).unwrap();
        assert_eq!(seen, [record]);
        let good_bytes = u64::try_from(line.len()).unwrap();
        assert_eq!(
            scan,
            Scan {
                good_bytes,
                torn_bytes: 20
            }
        );
    }
}
