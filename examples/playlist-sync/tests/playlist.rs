//! Reading exports: the files of the example, files of every other kind, and any bytes at all.

use std::path::{Path, PathBuf};

use playlist_sync::playlist::{
    self, Export, MAX_FIELD_BYTES, MAX_FILE_BYTES, MAX_ROWS, ReadExportError, Track, Unreadable,
};
use proptest::prelude::*;
use tempfile::TempDir;

fn example(name: &str) -> Export {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../data")
        .join(name);
    playlist::read(&path).expect("the example reads")
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).expect("room on the disk");
        path
    }

    fn read(&self, name: &str, bytes: impl AsRef<[u8]>) -> Export {
        playlist::read(&self.file(name, bytes)).expect("an export")
    }

    fn refuse(&self, name: &str, bytes: impl AsRef<[u8]>) -> ReadExportError {
        let path = self.file(name, bytes);
        let error = playlist::read(&path).expect_err("no export");
        let text = error.to_string();
        assert!(text.starts_with(&path.display().to_string()), "{text}");
        assert!(!text.contains('\n'), "{text}");
        error
    }
}

fn names(export: &Export) -> Vec<(&str, &str)> {
    export
        .tracks
        .iter()
        .map(|track| (track.artist.as_str(), track.title.as_str()))
        .collect()
}

fn rows(export: &Export) -> Vec<(usize, &str)> {
    export
        .malformed
        .iter()
        .map(|row| (row.line, row.reason.as_str()))
        .collect()
}

#[test]
fn the_example_has_twenty_four_tracks_in_three_exports() {
    let exports = ["anna.csv", "ben.csv", "chloe.m3u8"].map(example);
    let names = exports.each_ref().map(|export| export.name.as_str());
    assert_eq!(names, ["anna", "ben", "chloe"]);
    let mut keys: Vec<String> = Vec::new();
    for export in &exports {
        assert_eq!(export.tracks.len(), 8, "{}", export.name);
        assert_eq!((&export.malformed, &export.warnings), (&vec![], &vec![]));
        keys.extend(export.tracks.iter().map(Track::key));
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 24);
}

#[test]
fn names_with_commas_and_beyond_ascii_come_through() {
    let ben = example("ben.csv");
    assert_eq!(
        ben.tracks[0],
        Track {
            title: "Get Lucky".to_owned(),
            artist: "Daft Punk, Pharrell Williams, Nile Rodgers".to_owned(),
            album: Some("Random Access Memories".to_owned()),
            isrc: Some("USQX91300108".to_owned()),
        }
    );
    assert!(names(&ben).contains(&("Édith Piaf", "Non, je ne regrette rien")));
    let chloe = example("chloe.m3u8");
    assert_eq!(
        names(&chloe)[..2],
        [("Björk", "Jóga"), ("Sigur Rós", "Hoppípolla")]
    );
    assert_eq!(chloe.tracks[1].album.as_deref(), Some("Takk..."));
    assert_eq!(names(&chloe)[7], ("Kraftwerk", "Autobahn"));
}

#[test]
fn a_malformed_row_is_reported_and_the_rest_is_read() {
    let folder = Folder::new();
    let long = "x".repeat(MAX_FIELD_BYTES + 1);
    let text = format!(
        "title,artist,album\nJóga,Björk,Homogenic\n,Björk,\nHunter\nA,B,C,D\n\n{long},B,C\n\
         \"Line\nbreak\",B,C\nHyperballad,Björk,Post,,\n"
    );
    let export = folder.read("anna.csv", text);
    assert_eq!(
        names(&export),
        [("Björk", "Jóga"), ("Björk", "Hyperballad")]
    );
    assert_eq!(
        rows(&export),
        [
            (3, "the title is empty"),
            (4, "has 1 fields where the header has 3"),
            (5, "has 4 fields where the header has 3"),
            (7, "the title has 1025 bytes, at most 1024 may be"),
            (
                8,
                "the title holds a line break or another control character"
            ),
        ]
    );
    let shown = export.malformed[0].to_string();
    assert!(shown.ends_with("anna.csv:3: the title is empty"), "{shown}");
}

#[test]
fn an_open_quote_costs_one_line() {
    let folder = Folder::new();
    let far = format!(
        "title,artist\n\"Jóga,Björk\n{}",
        "Hunter,Björk\n".repeat(40)
    );
    let export = folder.read("far.csv", far);
    assert_eq!(names(&export), [("Björk", "Hunter")]);
    assert_eq!(rows(&export), [(2, "a quoted field is not closed")]);

    // The next quote in the file seems to close it.
    let near = "title,artist\n\"Jóga,Björk\nHunter,Björk\n\"Cover Me\",Björk\nYoga,Björk\n";
    let export = folder.read("near.csv", near);
    let expected = [
        ("Björk", "Hunter"),
        ("Björk", "Cover Me"),
        ("Björk", "Yoga"),
    ];
    assert_eq!(names(&export), expected);
    assert_eq!(export.malformed.len(), 1);
    assert_eq!(export.malformed[0].line, 2);
}

#[test]
fn a_note_over_several_lines_is_part_of_its_row() {
    let folder = Folder::new();
    let text = "notes,title,artist\r\n\"two\r\nlines, and \"\"quotes\"\"\",Jóga,Björk\r\n,Hunter,Björk\r\n";
    let export = folder.read("a.csv", text);
    assert_eq!(names(&export), [("Björk", "Jóga"), ("Björk", "Hunter")]);
    assert!(export.malformed.is_empty());
}

#[test]
fn quotes_inside_a_field_are_characters() {
    let folder = Folder::new();
    let export = folder.read(
        "a.csv",
        "title,artist\nThe 7\" Single,Björk\nHunter,Björk\n",
    );
    assert_eq!(
        names(&export),
        [("Björk", "The 7\" Single"), ("Björk", "Hunter")]
    );
}

#[test]
fn other_separators_and_encodings_are_known_by_the_header() {
    let folder = Folder::new();
    let expected = [("Björk", "Jóga")];
    assert_eq!(
        names(&folder.read("a.csv", "Title;Artist\nJóga;Björk\n")),
        expected
    );
    assert_eq!(
        names(&folder.read("b.tsv", "Title\tArtist\rJóga\tBjörk\r")),
        expected
    );
    let utf_16 = "\u{feff}Title,Artist\r\nJóga,Björk\r\n".encode_utf16();
    let utf_16: Vec<u8> = utf_16.flat_map(u16::to_le_bytes).collect();
    assert_eq!(names(&folder.read("c.csv", utf_16)), expected);
}

#[test]
fn a_row_that_is_not_utf_8_is_malformed() {
    let folder = Folder::new();
    let export = folder.read(
        "a.csv",
        b"title,artist\nJ\xf3ga,Bj\xf6rk\nHunter,Bj\xc3\xb6rk\n",
    );
    assert_eq!(names(&export), [("Björk", "Hunter")]);
    assert_eq!(export.malformed[0].line, 2);
    assert!(export.malformed[0].reason.contains("not UTF-8"));
}

#[test]
fn an_old_m3u_is_windows_1252() {
    let folder = Folder::new();
    let old = b"#EXTM3U\r\n#EXTINF:305,Bj\xf6rk - J\xf3ga\r\nC:\\a.mp3\r\n#EXTINF:1,a\x80 - \x93b\x94\r\nb.mp3\r\n";
    let export = folder.read("old.m3u", old);
    assert_eq!(names(&export), [("Björk", "Jóga"), ("a€", "“b”")]);
    let new = folder.read("new.m3u", "#EXTINF:305,Björk - Jóga\na.mp3\n");
    assert_eq!(names(&new), [("Björk", "Jóga")]);
    let strict = folder.read("old.m3u8", old);
    assert_eq!(strict.tracks, []);
    assert!(strict.malformed[0].reason.contains("not UTF-8"));
}

#[test]
fn m3u_entries_without_names_are_reported() {
    let folder = Folder::new();
    let text = "#EXTM3U\n#EXTINF:1,A - B\n#EXTINF:2,C - D\nc.mp3\ntrack01.mp3\n# a remark\n\
                #EXTART:E\n#EXTINF:3,F\nf.mp3\n#EXTINF:4,\nG - H.mp3\n#EXTINF:5,I - J\n";
    let export = folder.read("a.m3u8", text);
    assert_eq!(names(&export), [("C", "D"), ("E", "F"), ("G", "H")]);
    assert_eq!(
        rows(&export),
        [
            (2, "#EXTINF is not followed by a path"),
            (5, "\"track01\" does not read \"Artist - Title\""),
            (12, "#EXTINF is not followed by a path"),
        ]
    );
}

#[test]
fn an_invalid_isrc_keeps_the_row_with_a_warning() {
    let folder = Folder::new();
    let text = "title,artist,isrc\nJóga,Björk,GBAYE97\nHunter,Björk,gb-aye-97-00123\n";
    let export = folder.read("a.csv", text);
    assert_eq!(export.tracks[0].isrc, None);
    assert_eq!(export.tracks[1].isrc.as_deref(), Some("GBAYE9700123"));
    assert!(export.malformed.is_empty());
    let shown = export.warnings[0].to_string();
    assert!(
        shown.contains("a.csv:2: \"GBAYE97\" is not an ISRC"),
        "{shown}"
    );
}

#[test]
fn two_rows_of_one_track_are_one_track() {
    let folder = Folder::new();
    let text =
        "title,artist,isrc\nJóga,Björk,\nJÓGA , björk,\nA,B,USQX91300108\nC,D,US-QX9-13-00108\n";
    let export = folder.read("a.csv", text);
    assert_eq!(names(&export), [("Björk", "Jóga"), ("B", "A")]);
    let lines: Vec<usize> = export.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [3, 5]);
    assert!(
        export.warnings[0].reason.contains("line 2"),
        "{}",
        export.warnings[0]
    );
}

#[test]
fn what_is_no_export_is_refused_in_one_sentence() {
    let folder = Folder::new();
    let why = |name: &str, bytes: &[u8]| format!("{:?}", folder.refuse(name, bytes).why());
    assert_eq!(why("a.csv", b""), "Empty");
    assert_eq!(why("b.m3u", b"\xef\xbb\xbf\r\n \n"), "Empty");
    assert_eq!(why("c.csv", b"PK\x03\x04\0\0"), "Binary");
    assert_eq!(why("d.csv", b"J\xf3ga,Bj\xf6rk\nx,y\n"), "NoTitleColumn");
    assert_eq!(why("e.csv", b"Hunter,Bj\nx,y\n"), "NoTitleColumn");
    assert_eq!(why("f.csv", b"title,year\nx,1997\n"), "NoArtistColumn");
    assert_eq!(why("g.txt", b"title,artist\n"), "UnknownFormat");
    assert_eq!(why("h", b"title,artist\n"), "UnknownFormat");

    let missing = playlist::read(&folder.0.path().join("none.csv")).unwrap_err();
    assert!(
        missing
            .to_string()
            .ends_with("none.csv: there is no such file"),
        "{missing}"
    );
    assert!(std::error::Error::source(&missing).is_some());
    let directory = folder.0.path().join("folder.csv");
    std::fs::create_dir(&directory).unwrap();
    assert!(matches!(
        playlist::read(&directory).unwrap_err().why(),
        Unreadable::Directory
    ));
}

#[cfg(unix)]
#[test]
fn a_device_is_not_waited_for() {
    let folder = Folder::new();
    let link = folder.0.path().join("zero.csv");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    assert!(matches!(
        playlist::read(&link).unwrap_err().why(),
        Unreadable::NotAFile
    ));
}

#[test]
fn bounds_are_held() {
    let folder = Folder::new();
    let header = "title,artist\n";
    let full = format!("{header}{}", "\"\",\n".repeat(MAX_ROWS));
    assert_eq!(folder.read("full.csv", &full).malformed.len(), MAX_ROWS);
    let over = folder.refuse("over.csv", full + ",\n");
    assert!(matches!(over.why(), Unreadable::TooManyRows));

    let size = usize::try_from(MAX_FILE_BYTES).unwrap();
    let mut large = b"title,artist\nA,B\n".to_vec();
    large.resize(size, b' ');
    assert_eq!(names(&folder.read("large.csv", &large)), [("B", "A")]);
    large.push(b' ');
    assert!(matches!(
        folder.refuse("larger.csv", large).why(),
        Unreadable::TooLarge
    ));
}

/// How a table is written: by `csv` in its own way, in columns of some order and names.
#[derive(Debug, Clone)]
struct Layout {
    order: Vec<usize>,
    header: [&'static str; 5],
    quotes: u8,
    delimiter: u8,
    crlf: bool,
    bom: bool,
}

fn layout() -> impl Strategy<Value = Layout> {
    let headers = prop::sample::select(vec![
        ["title", "artist", "album", "isrc", "notes"],
        [
            "Track Name",
            "Artist Name(s)",
            "Album Name",
            "ISRC",
            "Added At",
        ],
        ["SONG", "PERFORMER", "ALBUM TITLE", "Track ISRC", "#"],
        ["Name", "Artist", "Album", "isrc code", "Genre"],
    ]);
    (
        Just(vec![0, 1, 2, 3, 4]).prop_shuffle(),
        headers,
        0..3_u8,
        prop::sample::select(b",;\t".to_vec()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(order, header, quotes, delimiter, crlf, bom)| Layout {
            order,
            header,
            quotes,
            delimiter,
            crlf,
            bom,
        })
}

fn write(layout: &Layout, rows: &[[String; 5]]) -> Vec<u8> {
    let style = match layout.quotes {
        0 => csv::QuoteStyle::Necessary,
        1 => csv::QuoteStyle::Always,
        _ => csv::QuoteStyle::NonNumeric,
    };
    let end = if layout.crlf {
        csv::Terminator::CRLF
    } else {
        csv::Terminator::Any(b'\n')
    };
    let bytes = if layout.bom {
        b"\xef\xbb\xbf".to_vec()
    } else {
        Vec::new()
    };
    let mut writer = csv::WriterBuilder::new()
        .quote_style(style)
        .delimiter(layout.delimiter)
        .terminator(end)
        .from_writer(bytes);
    writer
        .write_record(layout.order.iter().map(|&at| layout.header[at]))
        .expect("memory takes it");
    for row in rows {
        writer
            .write_record(layout.order.iter().map(|&at| &row[at]))
            .expect("memory takes it");
    }
    writer.into_inner().expect("memory takes it")
}

fn name() -> impl Strategy<Value = String> {
    // Everything that needs care in CSV, and letters of several kinds.
    "[a-zA-Zäößéí ,;\"'|\\\\#%日本🎵-]{1,20}"
        .prop_filter("not blank", |name| !name.trim().is_empty())
}

fn row() -> impl Strategy<Value = [String; 5]> {
    let album = prop::option::of(name());
    let isrc = prop::option::of("[A-Z]{2}[A-Z0-9]{3}[0-9]{7}");
    // Notes may hold anything, line breaks too.
    let notes = "[a-z,;\"\t\n ]{0,12}";
    (name(), name(), album, isrc, notes).prop_map(|(title, artist, album, isrc, notes)| {
        [
            title,
            artist,
            album.unwrap_or_default(),
            isrc.unwrap_or_default(),
            notes,
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(rows in prop::collection::vec(row(), 0..12), layout in layout()) {
        let folder = Folder::new();
        let export = folder.read("p.csv", write(&layout, &rows));
        prop_assert_eq!(&export.malformed, &vec![]);
        let some = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let mut expected: Vec<Track> = Vec::new();
        for [title, artist, album, isrc, _] in &rows {
            let track = Track {
                title: title.trim().to_owned(),
                artist: artist.trim().to_owned(),
                album: some(album),
                isrc: some(isrc),
            };
            if expected.iter().all(|earlier| earlier.key() != track.key()) {
                expected.push(track);
            }
        }
        prop_assert_eq!(&export.tracks, &expected);
        prop_assert_eq!(export.tracks.len() + export.warnings.len(), rows.len());
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        name in prop::sample::select(vec!["a.csv", "a.tsv", "a.m3u", "a.m3u8"]),
    ) {
        let folder = Folder::new();
        let _ = playlist::read(&folder.file(name, bytes));
    }

    #[test]
    fn damaged_exports_are_read_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        rows in prop::collection::vec(row(), 1..6),
        layout in layout(),
    ) {
        let folder = Folder::new();
        let mut bytes = write(&layout, &rows);
        let (at, cut) = (at.index(bytes.len()), cut.index(bytes.len()));
        bytes[at] = byte;
        bytes.truncate(cut);
        if let Ok(export) = playlist::read(&folder.file("a.csv", bytes)) {
            let lines = export.malformed.iter().map(|row| row.line);
            prop_assert!(lines.is_sorted());
        }
    }

    #[test]
    fn m3u_entries_come_through(names in prop::collection::vec(("[a-zäé日'.]{1,9}", "[a-zäé日' -]{1,9}"), 0..9)) {
        let folder = Folder::new();
        let mut text = "#EXTM3U\n".to_owned();
        let mut expected: Vec<(String, String)> = Vec::new();
        for (artist, title) in &names {
            let title = format!("x{title}x");
            text.push_str(&format!("#EXTINF:1,{artist} - {title}\nfile.mp3\n"));
            let fresh = expected.iter().all(|(a, t)| {
                let track = |artist: &str, title: &str| Track {
                    title: title.to_owned(),
                    artist: artist.to_owned(),
                    album: None,
                    isrc: None,
                };
                track(a, t).key() != track(artist, &title).key()
            });
            if fresh {
                expected.push((artist.clone(), title));
            }
        }
        let export = folder.read("a.m3u8", text);
        let expected: Vec<(&str, &str)> =
            expected.iter().map(|(artist, title)| (artist.as_str(), title.as_str())).collect();
        prop_assert_eq!(self::names(&export), expected);
    }
}
