//! Reads CSV exports, row by row, so that a broken row costs itself alone.

use std::io::Cursor;

use super::Unreadable;
use super::columns::Columns;
use super::export::Builder;
use super::source::{Lines, utf8};
use super::track::Fields;

/// How many lines one row may span. A quoted field that is not closed by then never will be.
const MAX_LINES_OF_A_ROW: usize = 16;

/// What may stand between fields; the header says which one does.
const DELIMITERS: [u8; 3] = *b",;\t";

pub(super) fn parse(bytes: &[u8], export: &mut Builder) -> Result<(), Unreadable> {
    let mut lines = Lines::of(bytes);
    let header = lines
        .find(|line| !line.is_blank())
        .ok_or(Unreadable::Empty)?;
    let (delimiter, columns) = header_columns(header.bytes)?;
    let mut table = Table {
        bytes,
        delimiter,
        columns,
        reader: reader(bytes, delimiter),
    };
    loop {
        let at_row = lines.clone();
        let Some(first) = lines.next() else {
            return Ok(());
        };
        if first.is_blank() {
            continue;
        }
        let Some(row) = table.row(at_row) else {
            export.row(first.number, Err("a quoted field is not closed".to_owned()))?;
            continue;
        };
        match table.record(&row) {
            Ok(record) => {
                export.row(first.number, Ok(table.fields(&record)))?;
                lines = row.after;
            }
            // A row over several lines that does not fit the header may have swallowed good ones
            // by a stray quote: only its first line is given up.
            Err(reason) => export.row(first.number, Err(reason))?,
        }
    }
}

/// Finds the delimiter under which the line is a header, and the columns it has then.
fn header_columns(line: &[u8]) -> Result<(u8, Columns), Unreadable> {
    let line = utf8(line).map_err(|_| Unreadable::NoTitleColumn)?;
    let mut closest = Unreadable::NoTitleColumn;
    for delimiter in DELIMITERS {
        let mut header = csv::StringRecord::new();
        // A header is one line; reading from memory meets no other error.
        if reader(line.as_bytes(), delimiter)
            .read_record(&mut header)
            .is_err()
        {
            continue;
        }
        match Columns::find(&header) {
            Ok(columns) => return Ok((delimiter, columns)),
            Err(why @ Unreadable::NoArtistColumn) => closest = why,
            Err(_) => {}
        }
    }
    Err(closest)
}

type Reader<'a> = csv::Reader<Cursor<&'a [u8]>>;

fn reader(bytes: &[u8], delimiter: u8) -> Reader<'_> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(Cursor::new(bytes))
}

struct Table<'a> {
    bytes: &'a [u8],
    delimiter: u8,
    columns: Columns,
    /// Reads a row where it is told to; making one for each row would cost far more.
    reader: Reader<'a>,
}

/// Where a row is, and the lines that follow it.
struct Row<'a> {
    start: usize,
    end: usize,
    after: Lines<'a>,
}

impl<'a> Table<'a> {
    /// The row that begins at `lines`: more than one line while a quoted field is open. `None` if
    /// the field stays open, or is closed further down in the middle of a text, by a quote that
    /// was meant for another field.
    fn row(&self, mut lines: Lines<'a>) -> Option<Row<'a>> {
        let start = self.bytes.len() - lines.remaining();
        let mut quotes = Quotes::FieldStart;
        for further in 0..MAX_LINES_OF_A_ROW {
            let line = lines.next()?;
            for &byte in line.bytes {
                let next = quotes.after(byte, self.delimiter);
                if further > 0 && quotes == Quotes::MaybeClosed && next == Quotes::Plain {
                    return None;
                }
                quotes = next;
            }
            if quotes != Quotes::Inside {
                let end = self.bytes.len() - lines.remaining();
                return Some(Row {
                    start,
                    end,
                    after: lines,
                });
            }
        }
        None
    }

    fn record(&mut self, row: &Row<'_>) -> Result<csv::StringRecord, String> {
        utf8(&self.bytes[row.start..row.end])?;
        let mut record = csv::ByteRecord::new();
        let end = self
            .read_at(row.start, &mut record)
            .map_err(|error| format!("is not CSV: {error}"))?;
        // The reader may leave the last byte of the line end for the next row.
        if end + 1 < row.end || end > row.end {
            return Err("holds a stray line break".to_owned());
        }
        let record = csv::StringRecord::from_byte_record_lossy(record);
        let (fields, width) = (record.len(), self.columns.width);
        let surplus_is_blank = record
            .iter()
            .skip(width)
            .all(|field| field.trim().is_empty());
        if fields < width || !surplus_is_blank {
            return Err(format!("has {fields} fields where the header has {width}"));
        }
        Ok(record)
    }

    /// Reads the record that begins at a byte, and says at which byte it ends.
    fn read_at(&mut self, start: usize, into: &mut csv::ByteRecord) -> csv::Result<usize> {
        let mut position = csv::Position::new();
        position.set_byte(u64::try_from(start).unwrap_or(u64::MAX));
        self.reader.seek(position)?;
        self.reader.read_byte_record(into)?;
        Ok(usize::try_from(self.reader.position().byte()).unwrap_or(usize::MAX))
    }

    fn fields<'r>(&self, record: &'r csv::StringRecord) -> Fields<'r> {
        let field = |at: usize| record.get(at).unwrap_or_default();
        Fields {
            title: field(self.columns.title),
            artist: field(self.columns.artist),
            album: self.columns.album.map_or("", field),
            isrc: self.columns.isrc.map_or("", field),
        }
    }
}

/// Where in a row the reading stands, by the rules the `csv` crate reads by: a quote means
/// something at the start of a field and inside a quoted one, and is a character elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    FieldStart,
    Plain,
    Inside,
    /// Behind a quote inside a quoted field: the end of it, or the first of two.
    MaybeClosed,
}

impl Quotes {
    fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::FieldStart | Self::MaybeClosed, b'"') => Self::Inside,
            (Self::Inside, b'"') => Self::MaybeClosed,
            (Self::Inside, _) => Self::Inside,
            (_, byte) if byte == delimiter => Self::FieldStart,
            _ => Self::Plain,
        }
    }
}
