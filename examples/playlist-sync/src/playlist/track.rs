//! A track, and when two of them are the same one.

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::MAX_FIELD_BYTES;

/// One track of a playlist.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Track {
    /// Its name.
    pub title: String,
    /// Who plays it.
    pub artist: String,
    /// Where it came out, if the export says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub album: Option<String>,
    /// Its ISRC in twelve characters, if the export has a valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isrc: Option<String>,
}

impl Track {
    /// Who this track is, the same in every export and on every day: `isrc:GBUM71029604` where
    /// there is a valid ISRC, else [`name_key`](Self::name_key).
    #[must_use]
    pub fn key(&self) -> String {
        match self.isrc.as_deref().and_then(normalise_isrc) {
            Some(isrc) => format!("isrc:{isrc}"),
            None => self.name_key(),
        }
    }

    /// Who this track is by its name alone: `name:björk|jóga`. Case, composition of accents and
    /// the amount of white space do not matter.
    #[must_use]
    pub fn name_key(&self) -> String {
        format!("name:{}|{}", key_part(&self.artist), key_part(&self.title))
    }
}

/// A folded name in which `|` is escaped, so that no two pairs of names make one key.
fn key_part(text: &str) -> String {
    fold(text).replace('\\', r"\\").replace('|', r"\|")
}

/// Text as it is compared: case folded, composed, white space squeezed.
pub(crate) fn fold(text: &str) -> String {
    // By way of upper case, so that ß is ss and all three sigmas are one.
    let cased: String = text
        .nfc()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .nfc()
        .collect();
    let words: Vec<&str> = cased.split_whitespace().collect();
    words.join(" ")
}

/// An ISRC (ISO 3901: two letters, three letters or digits, seven digits) in its twelve
/// characters. Hyphens, spaces and case do not matter; `None` if it is not one.
#[must_use]
pub fn normalise_isrc(text: &str) -> Option<String> {
    let isrc: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| c.to_ascii_uppercase())
        .collect();
    let bytes = isrc.as_bytes();
    let valid = bytes.len() == 12
        && bytes[..2].iter().all(u8::is_ascii_alphabetic)
        && bytes[2..5].iter().all(u8::is_ascii_alphanumeric)
        && bytes[5..].iter().all(u8::is_ascii_digit);
    valid.then_some(isrc)
}

/// The fields of a row, as they stand in the file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields<'a> {
    pub(super) title: &'a str,
    pub(super) artist: &'a str,
    pub(super) album: &'a str,
    pub(super) isrc: &'a str,
}

impl Fields<'_> {
    /// The track these fields describe, and a warning if something was set aside; or why they
    /// describe none.
    pub(super) fn into_track(self) -> Result<(Track, Option<String>), String> {
        let title = checked("title", self.title)?.ok_or("the title is empty")?;
        let artist = checked("artist", self.artist)?.ok_or("the artist is empty")?;
        let album = checked("album", self.album)?.map(str::to_owned);
        let given = checked("ISRC", self.isrc)?;
        let isrc = given.and_then(normalise_isrc);
        let warning = match (given, &isrc) {
            (Some(given), None) => Some(format!(
                "{given:?} is not an ISRC (two letters, three letters or digits, seven digits), \
                 so the track goes by its name"
            )),
            _ => None,
        };
        Ok((
            Track {
                title: title.to_owned(),
                artist: artist.to_owned(),
                album,
                isrc,
            },
            warning,
        ))
    }
}

/// A field without the white space around it, `None` if nothing is left.
fn checked<'a>(what: &str, field: &'a str) -> Result<Option<&'a str>, String> {
    let field = field.trim();
    if field.len() > MAX_FIELD_BYTES {
        let length = field.len();
        return Err(format!(
            "the {what} has {length} bytes, at most {MAX_FIELD_BYTES} may be"
        ));
    }
    if field.chars().any(char::is_control) {
        return Err(format!(
            "the {what} holds a line break or another control character"
        ));
    }
    Ok((!field.is_empty()).then_some(field))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn track(artist: &str, title: &str, isrc: Option<&str>) -> Track {
        Track {
            title: title.to_owned(),
            artist: artist.to_owned(),
            album: None,
            isrc: isrc.map(str::to_owned),
        }
    }

    #[test]
    fn an_isrc_counts_before_the_name() {
        let one = track("Queen", "Bohemian Rhapsody", Some("gb-um7-10-29604"));
        let other = track(
            "QUEEN",
            "Bohemian Rhapsody (Remastered)",
            Some("GBUM71029604"),
        );
        assert_eq!(one.key(), "isrc:GBUM71029604");
        assert_eq!(one.key(), other.key());
        let invalid = track("Queen", "Bohemian Rhapsody", Some("n/a"));
        assert_eq!(invalid.key(), "name:queen|bohemian rhapsody");
    }

    #[test]
    fn case_composition_and_white_space_do_not_matter() {
        let composed = track("Bj\u{f6}rk", "J\u{f3}ga", None);
        let decomposed = track(" BJO\u{308}RK ", "jo\u{301}ga", None);
        assert_eq!(composed.key(), decomposed.key());
        let one = track("Herbert  Grönemeyer", "STRASSE", None);
        let other = track("herbert grönemeyer", "Straße", None);
        assert_eq!(one.key(), other.key());
        assert_eq!(
            track("ΣΊΣΥΦΟΣ", "a", None).key(),
            track("σίσυφος", "a", None).key()
        );
    }

    #[test]
    fn a_bar_in_a_name_makes_no_second_reading() {
        assert_ne!(track("a|b", "c", None).key(), track("a", "b|c", None).key());
        assert_ne!(
            track(r"a\", "|c", None).key(),
            track(r"a\|", "c", None).key()
        );
    }

    #[test]
    fn isrcs_are_checked() {
        assert_eq!(
            normalise_isrc("us-qx9-13-00108").as_deref(),
            Some("USQX91300108")
        );
        assert_eq!(
            normalise_isrc(" USQX91300108 ").as_deref(),
            Some("USQX91300108")
        );
        for bad in [
            "",
            "USQX9130010",
            "USQX913001080",
            "1SQX91300108",
            "USQX9130010X",
            "ÜSQX91300108",
        ] {
            assert_eq!(normalise_isrc(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn folding_twice_changes_nothing(text in any::<String>()) {
            prop_assert_eq!(fold(&fold(&text)), fold(&text));
        }

        #[test]
        fn a_normalised_isrc_is_stable(text in "[A-Za-z]{2}-?[A-Za-z0-9]{3}-?[0-9]{2}-?[0-9]{5}") {
            let isrc = normalise_isrc(&text).expect("valid by construction");
            prop_assert_eq!(normalise_isrc(&isrc), Some(isrc));
        }
    }
}
