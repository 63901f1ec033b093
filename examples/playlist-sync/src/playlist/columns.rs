//! Finds the columns of a CSV export by the names people's tools give them.

use super::Unreadable;

/// A column that matters to a playlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// The name of the track.
    Title,
    /// Who plays it.
    Artist,
    /// Where it came out.
    Album,
    /// Its International Standard Recording Code.
    Isrc,
}

/// The names a column may have, in lower case and without spaces and punctuation. Where a header
/// has several of them, the earlier one counts.
pub const COLUMN_NAMES: [(Column, &[&str]); 4] = [
    (
        Column::Title,
        &[
            "title",
            "trackname",
            "tracktitle",
            "songname",
            "songtitle",
            "song",
            "track",
            "name",
        ],
    ),
    (
        Column::Artist,
        &[
            "artist",
            "artists",
            "artistname",
            "artistnames",
            "trackartist",
            "performer",
        ],
    ),
    (Column::Album, &["album", "albumname", "albumtitle"]),
    (Column::Isrc, &["isrc", "isrccode", "trackisrc"]),
];

/// Where a header has the columns.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) title: usize,
    pub(super) artist: usize,
    pub(super) album: Option<usize>,
    pub(super) isrc: Option<usize>,
    /// How many fields the header has, and so every row.
    pub(super) width: usize,
}

impl Columns {
    pub(super) fn find(header: &csv::StringRecord) -> Result<Self, Unreadable> {
        let names: Vec<String> = header.iter().map(plain).collect();
        let [title, artist, album, isrc] = COLUMN_NAMES.map(|(_, synonyms)| {
            synonyms
                .iter()
                .find_map(|synonym| names.iter().position(|name| name == synonym))
        });
        let title = title.ok_or(Unreadable::NoTitleColumn)?;
        let artist = artist.ok_or(Unreadable::NoArtistColumn)?;
        Ok(Self {
            title,
            artist,
            album,
            isrc,
            width: names.len(),
        })
    }
}

/// A name as the table has it. `#` stays, so that "Track #" is not a title.
fn plain(name: &str) -> String {
    let ignored = |c: char| c.is_whitespace() || "_-.:()".contains(c);
    name.chars()
        .filter(|&c| !ignored(c))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(header: &[&str]) -> Result<Columns, Unreadable> {
        Columns::find(&csv::StringRecord::from(header.to_vec()))
    }

    #[test]
    fn every_name_of_the_table_is_found() {
        for (column, names) in COLUMN_NAMES {
            for name in names {
                let header = match column {
                    Column::Title => vec!["artist", name],
                    Column::Artist => vec!["title", name],
                    Column::Album | Column::Isrc => vec!["title", name, "artist"],
                };
                let found = find(&header).unwrap();
                let at = match column {
                    Column::Title => Some(found.title),
                    Column::Artist => Some(found.artist),
                    Column::Album => found.album,
                    Column::Isrc => found.isrc,
                };
                assert_eq!(at, Some(1), "{name}");
            }
        }
    }

    #[test]
    fn case_spaces_and_punctuation_do_not_matter() {
        let found = find(&["ISRC", " Artist Name(s) ", "ALBUM_NAME", "Track Name"]).unwrap();
        assert_eq!((found.title, found.artist), (3, 1));
        assert_eq!((found.album, found.isrc), (Some(2), Some(0)));
    }

    #[test]
    fn the_earlier_name_of_the_table_counts() {
        let found = find(&["Name", "Track", "Title", "Artist"]).unwrap();
        assert_eq!(found.title, 2);
        let found = find(&["Track #", "Name", "Artist"]).unwrap();
        assert_eq!(found.title, 1);
    }

    #[test]
    fn a_header_without_title_or_artist_is_refused() {
        assert!(matches!(
            find(&["artist", "year"]),
            Err(Unreadable::NoTitleColumn)
        ));
        assert!(matches!(
            find(&["title", "year"]),
            Err(Unreadable::NoArtistColumn)
        ));
    }
}
