//! Reads M3U exports: a path for each entry, and directives that say more about the next one.

use super::Unreadable;
use super::export::Builder;
use super::source::Lines;
use super::track::Fields;

/// What stands between artist and title.
const SEPARATORS: [&str; 2] = [" - ", " \u{2013} "];

pub(super) fn parse(bytes: &[u8], export: &mut Builder) -> Result<(), Unreadable> {
    let mut ahead = Ahead::default();
    for line in Lines::of(bytes).filter(|line| !line.is_blank()) {
        let text = match line.text() {
            Ok(text) => text.trim(),
            Err(reason) => {
                ahead = Ahead::default();
                export.row(line.number, Err(reason))?;
                continue;
            }
        };
        if let Some(directive) = text.strip_prefix('#') {
            if let Some(orphan) = ahead.directive(line.number, directive) {
                export.row(orphan, Err(NO_PATH.to_owned()))?;
            }
            continue;
        }
        let entry = std::mem::take(&mut ahead);
        let stem = Stem::of(text);
        let number = entry.info.map_or(line.number, |(number, _)| number);
        export.row(number, entry.fields(&stem))?;
    }
    if let Some((number, _)) = ahead.info {
        export.row(number, Err(NO_PATH.to_owned()))?;
    }
    Ok(())
}

const NO_PATH: &str = "#EXTINF is not followed by a path";

/// What directives have said about the entry to come.
#[derive(Debug, Default)]
struct Ahead<'a> {
    /// The line of `#EXTINF`, and the name it gives.
    info: Option<(usize, &'a str)>,
    artist: &'a str,
    album: &'a str,
}

impl<'a> Ahead<'a> {
    /// Takes in a directive; gives back the line of an `#EXTINF` that it makes an orphan.
    fn directive(&mut self, number: usize, directive: &'a str) -> Option<usize> {
        let (name, value) = directive.split_once(':')?;
        match name.to_ascii_uppercase().as_str() {
            "EXTINF" => {
                let orphan = self.info.map(|(line, _)| line);
                if orphan.is_some() {
                    *self = Self::default();
                }
                self.info = Some((number, after_attributes(value).trim()));
                return orphan;
            }
            "EXTART" => self.artist = value,
            "EXTALB" => self.album = value,
            _ => {}
        }
        None
    }

    fn fields<'s>(&self, stem: &'s Stem) -> Result<Fields<'s>, String>
    where
        'a: 's,
    {
        let named = self
            .info
            .map(|(_, name)| name)
            .filter(|name| !name.is_empty());
        let (artist, title) = match (named.and_then(artist_and_title), named) {
            (Some(both), _) => both,
            (None, Some(title)) if !self.artist.trim().is_empty() => (self.artist, title),
            _ => stem
                .artist_and_title()
                .ok_or_else(|| no_names(named.unwrap_or(&stem.0)))?,
        };
        Ok(Fields {
            title,
            artist,
            album: self.album,
            isrc: "",
        })
    }
}

fn no_names(text: &str) -> String {
    let shown: String = text.chars().take(80).collect();
    format!("{shown:?} does not read \"Artist - Title\"")
}

/// The name in `123 tvg-id="a,b",Artist - Title`: what follows the first comma outside quotes.
fn after_attributes(value: &str) -> &str {
    let mut quoted = false;
    let comma = value.bytes().position(|byte| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    });
    // A quote that is never closed is no quote.
    let comma = comma.or_else(|| value.find(','));
    comma.map_or("", |comma| &value[comma + 1..])
}

fn artist_and_title(name: &str) -> Option<(&str, &str)> {
    let separated = |separator: &str| {
        let at = name.find(separator)?;
        Some((at, at + separator.len()))
    };
    let (end, start) = SEPARATORS.into_iter().filter_map(separated).min()?;
    let (artist, title) = (name[..end].trim(), name[start..].trim());
    (!artist.is_empty() && !title.is_empty()).then_some((artist, title))
}

/// A path's last component without its extension.
#[derive(Debug)]
struct Stem(String);

impl Stem {
    fn of(path: &str) -> Self {
        let path = match path.split_once("://") {
            Some((_, rest)) => percent_decoded(rest.split(['?', '#']).next().unwrap_or(rest)),
            None => path.to_owned(),
        };
        let name = path.rsplit(['/', '\\']).next().unwrap_or(&path);
        Self(without_extension(name).trim().to_owned())
    }

    fn artist_and_title(&self) -> Option<(&str, &str)> {
        let unnumbered = without_number(&self.0).and_then(artist_and_title);
        unnumbered.or_else(|| artist_and_title(&self.0))
    }
}

/// "Song.flac" without ".flac"; the dot of "Mr. Brightside" begins no extension.
fn without_extension(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension))
            if !stem.is_empty()
                && (1..=5).contains(&extension.len())
                && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && extension.bytes().any(|byte| byte.is_ascii_alphabetic()) =>
        {
            stem
        }
        _ => name,
    }
}

/// "01 Artist - Title" or "7. Artist - Title" without the track number. A bare number without a
/// leading zero may be a name ("50 Cent") and stays.
fn without_number(stem: &str) -> Option<&str> {
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=3).contains(&digits) {
        return None;
    }
    let rest = stem[digits..].trim_start();
    let marked = rest.strip_prefix(['-', '.', ')', '_']).map(str::trim_start);
    marked.or_else(|| (stem.starts_with('0') && rest.len() < stem.len() - digits).then_some(rest))
}

/// A URL's path as it is meant. What is no escape, or no UTF-8, stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(hex);
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Option<(String, String)> {
        let stem = Stem::of(path);
        let (artist, title) = stem.artist_and_title()?;
        Some((artist.to_owned(), title.to_owned()))
    }

    #[test]
    fn a_path_gives_artist_and_title() {
        let expected = Some(("Kraftwerk".to_owned(), "Autobahn".to_owned()));
        for path in [
            "Kraftwerk - Autobahn.flac",
            "Kraftwerk - Autobahn",
            r"C:\Music\Kraftwerk - Autobahn.mp3",
            "/music/Autobahn/01 - Kraftwerk - Autobahn.m4a",
            "01 Kraftwerk - Autobahn.ogg",
            "7. Kraftwerk \u{2013} Autobahn.mp3",
            "file:///music/Kraftwerk%20-%20Autobahn.flac",
            "https://example.org/Kraftwerk%20-%20Autobahn.mp3?token=a/b",
        ] {
            assert_eq!(names(path), expected, "{path}");
        }
        assert_eq!(names("track07.mp3"), None);
        assert_eq!(names(" - .mp3"), None);
    }

    #[test]
    fn numbers_and_dots_that_are_names_stay() {
        let pair = |artist: &str, title: &str| Some((artist.to_owned(), title.to_owned()));
        assert_eq!(
            names("50 Cent - In da Club.mp3"),
            pair("50 Cent", "In da Club")
        );
        assert_eq!(names("311 - Amber.mp3"), pair("311", "Amber"));
        assert_eq!(
            names("The Killers - Mr. Brightside"),
            pair("The Killers", "Mr. Brightside")
        );
    }

    #[test]
    fn commas_in_attributes_do_not_end_them() {
        assert_eq!(
            after_attributes("215 id=\"a,b\" x,Air - La femme d'argent"),
            "Air - La femme d'argent"
        );
        assert_eq!(after_attributes("215,A, B - C"), "A, B - C");
        assert_eq!(after_attributes("12\",A - B"), "A - B");
        assert_eq!(after_attributes("215"), "");
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(percent_decoded("100%25 %zz %+1 %"), "100% %zz %+1 %");
        assert_eq!(percent_decoded("%ff"), "%ff");
    }
}
