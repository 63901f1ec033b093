//! The tracks the service has, and how they are found.

use std::collections::HashMap;

use crate::playlist::{Track, fold, normalise_isrc};

/// The service's tracks. One recording is in it once, however many exports name it.
#[derive(Debug, Default)]
pub struct Catalogue {
    entries: Vec<Entry>,
    by_id: HashMap<String, usize>,
    by_name: HashMap<String, usize>,
}

/// A track as the service has it.
#[derive(Debug)]
pub struct Entry {
    /// Under which the service knows it: the track's key.
    pub id: String,
    /// What it is.
    pub track: Track,
    /// The words a query may hold, folded.
    words: String,
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// A recording by its ISRC, which must be valid.
    Isrc(String),
    /// A track by its names, or rather by its ISRC if the service knows that.
    Names {
        /// Who plays it.
        artist: String,
        /// What it is called.
        title: String,
        /// Its ISRC, which must be valid.
        isrc: Option<String>,
    },
    /// Words that are all in artist, title and album.
    Words(String),
}

impl Catalogue {
    /// The catalogue of `tracks` without those that `missing` names, by key, by ISRC or as
    /// "Artist - Title". Second, what in `missing` names none of them.
    #[must_use]
    pub fn build(tracks: Vec<Track>, missing: &[String]) -> (Self, Vec<String>) {
        let mut idle: Vec<String> = missing.to_vec();
        let is_missing = |track: &Track, idle: &mut Vec<String>| {
            let hit = missing.iter().find(|name| names(name, track));
            if let Some(hit) = hit {
                idle.retain(|name| name != hit);
            }
            hit.is_some()
        };
        // Those with an ISRC first: a track that one export names with its ISRC and another
        // without is one track, and its id does not hang on the order of the exports.
        let (coded, plain): (Vec<_>, Vec<_>) = tracks
            .into_iter()
            .partition(|track| track.key() != track.name_key());
        let mut catalogue = Self::default();
        for track in coded.into_iter().chain(plain) {
            if !is_missing(&track, &mut idle) {
                catalogue.add(track);
            }
        }
        (catalogue, idle)
    }

    fn add(&mut self, track: Track) {
        let (id, name) = (track.key(), track.name_key());
        let known =
            self.by_id.contains_key(&id) || (id == name && self.by_name.contains_key(&name));
        if known {
            return;
        }
        let at = self.entries.len();
        self.by_name.entry(name).or_insert(at);
        self.by_id.insert(id.clone(), at);
        let album = track.album.as_deref().unwrap_or_default();
        let words = fold(&format!("{} {} {album}", track.artist, track.title));
        self.entries.push(Entry { id, track, words });
    }

    /// How many tracks it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The track of an id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.by_id.get(id).map(|&at| &self.entries[at])
    }

    /// The first track that matches.
    #[must_use]
    pub fn search(&self, query: &Query) -> Option<&Entry> {
        match query {
            Query::Isrc(isrc) => self.by_isrc(isrc),
            Query::Names {
                artist,
                title,
                isrc,
            } => {
                let coded = isrc.as_deref().and_then(|isrc| self.by_isrc(isrc));
                coded.or_else(|| self.by_names(artist, title))
            }
            Query::Words(words) => {
                let folded = fold(words);
                // The dash of "Artist - Title" is no word.
                let words = folded
                    .split(' ')
                    .filter(|word| word.contains(char::is_alphanumeric));
                let words: Vec<&str> = words.collect();
                let matches = |entry: &&Entry| words.iter().all(|word| entry.words.contains(word));
                self.entries
                    .iter()
                    .find(matches)
                    .filter(|_| !words.is_empty())
            }
        }
    }

    fn by_isrc(&self, isrc: &str) -> Option<&Entry> {
        self.get(&format!("isrc:{}", normalise_isrc(isrc)?))
    }

    fn by_names(&self, artist: &str, title: &str) -> Option<&Entry> {
        let named = Track {
            title: title.to_owned(),
            artist: artist.to_owned(),
            album: None,
            isrc: None,
        };
        self.by_name
            .get(&named.name_key())
            .map(|&at| &self.entries[at])
    }
}

/// Whether `name` is this track's key, ISRC or "Artist - Title".
fn names(name: &str, track: &Track) -> bool {
    let isrc = normalise_isrc(name);
    name == track.key()
        || name == track.name_key()
        || (isrc.is_some() && isrc == track.isrc.as_deref().and_then(normalise_isrc))
        || fold(name) == fold(&format!("{} - {}", track.artist, track.title))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(artist: &str, title: &str, isrc: Option<&str>) -> Track {
        Track {
            title: title.to_owned(),
            artist: artist.to_owned(),
            album: Some("An Album".to_owned()),
            isrc: isrc.map(str::to_owned),
        }
    }

    fn names(artist: &str, title: &str, isrc: Option<&str>) -> Query {
        Query::Names {
            artist: artist.to_owned(),
            title: title.to_owned(),
            isrc: isrc.map(str::to_owned),
        }
    }

    const RHAPSODY: &str = "GBUM71029604";

    fn queen() -> Catalogue {
        let tracks = vec![
            track("queen", "bohemian  rhapsody", None),
            track("Queen", "Bohemian Rhapsody", Some(RHAPSODY)),
            track("Björk", "Jóga", None),
        ];
        Catalogue::build(tracks, &[]).0
    }

    #[test]
    fn one_recording_is_one_entry_whatever_the_order() {
        let catalogue = queen();
        assert_eq!(catalogue.len(), 2);
        let by_name = catalogue.search(&names("QUEEN", "Bohemian Rhapsody", None));
        assert_eq!(
            by_name.map(|entry| entry.id.as_str()),
            Some("isrc:GBUM71029604")
        );
    }

    #[test]
    fn an_unknown_isrc_falls_back_to_the_names() {
        let catalogue = queen();
        let found = catalogue.search(&names("Queen", "Bohemian Rhapsody", Some("USQX91300108")));
        assert_eq!(
            found.map(|entry| entry.id.as_str()),
            Some("isrc:GBUM71029604")
        );
        assert!(
            catalogue
                .search(&Query::Isrc("USQX91300108".to_owned()))
                .is_none()
        );
        assert!(
            catalogue
                .search(&Query::Isrc("gb-um7-10-29604".to_owned()))
                .is_some()
        );
    }

    #[test]
    fn words_match_in_any_order_and_all_of_them() {
        let catalogue = queen();
        let find = |words: &str| catalogue.search(&Query::Words(words.to_owned())).is_some();
        assert!(find("jóga BJÖRK"));
        assert!(find("Björk - Jóga"));
        assert!(find("bohemian album"));
        assert!(!find("bohemian jóga"));
        assert!(!find(" - "));
    }

    #[test]
    fn what_is_missing_is_named_in_three_ways() {
        for missing in [
            "queen - BOHEMIAN rhapsody",
            "isrc:GBUM71029604",
            "GB-UM7-10-29604",
        ] {
            let tracks = vec![track("Queen", "Bohemian Rhapsody", Some(RHAPSODY))];
            let (catalogue, idle) = Catalogue::build(tracks, &[missing.to_owned()]);
            assert!(catalogue.is_empty(), "{missing}");
            assert!(idle.is_empty(), "{missing}");
        }
        let tracks = vec![track("Queen", "Bohemian Rhapsody", Some(RHAPSODY))];
        let (catalogue, idle) = Catalogue::build(tracks, &["Queen - 39".to_owned()]);
        assert_eq!(catalogue.len(), 1);
        assert_eq!(idle, ["Queen - 39"]);
    }
}
