//! When a server takes calls again, by its own word: in a header, in fields, or in a text.

use std::time::Duration;
#[cfg(feature = "http")]
use std::time::SystemTime;

use serde_json::{Map, Value};

/// No server's word counts for longer than this.
const LONGEST: Duration = Duration::from_secs(3600);

/// The value of a `Retry-After` header: seconds, or a date. A time that is over says nothing.
#[cfg(feature = "http")]
pub(crate) fn in_header(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let is_number = value
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let wait = if is_number {
        bounded(value.parse().ok()?)?
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        date.duration_since(now).ok()?.min(LONGEST)
    };
    (!wait.is_zero()).then_some(wait)
}

/// The field names that servers use, with their units. A wait of zero asks for none, and says nothing of a
/// limit.
pub(super) fn in_fields(fields: &Map<String, Value>) -> Option<Duration> {
    let seconds = [
        "retry_after",
        "retryAfter",
        "retry_after_seconds",
        "retryAfterSeconds",
    ];
    let millis = ["retry_after_ms", "retryAfterMs"];
    let read = |names: &[&str], unit: f64| {
        names
            .iter()
            .find_map(|name| fields.get(*name).and_then(number))
            .and_then(|value| bounded(value * unit))
            .filter(|wait| !wait.is_zero())
    };
    read(&millis, 1e-3).or_else(|| read(&seconds, 1.0))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) if text.len() <= 32 => text.trim().parse().ok(),
        _ => None,
    }
}

/// A duration from a server's number of seconds: neither negative, nor endless, nor no number.
pub(crate) fn bounded_by(seconds: f64, longest: Duration) -> Option<Duration> {
    if seconds.is_nan() || seconds < 0.0 {
        return None;
    }
    Duration::try_from_secs_f64(seconds.min(longest.as_secs_f64())).ok()
}

fn bounded(seconds: f64) -> Option<Duration> {
    bounded_by(seconds, LONGEST)
}

/// The time in `retry after 3s`, `retry after 1.5 minutes` or `retry after 250ms`, in lower case: from
/// milliseconds to days. A number without a unit is seconds.
pub(super) fn in_text(text: &str) -> Option<Duration> {
    let rest = ["retry after", "retry-after:", "retry in"]
        .iter()
        .find_map(|words| text.split_once(words))?
        .1
        .trim_start();
    let digits = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let value: f64 = rest[..digits].parse().ok()?;
    let unit = rest[digits..].trim_start();
    let unit = if unit.starts_with("ms") || unit.starts_with("millis") {
        1e-3
    } else if unit.starts_with("min") || (unit.starts_with('m') && !unit.starts_with("mo")) {
        60.0
    } else {
        let word = unit.split(|c: char| !c.is_ascii_alphabetic()).next();
        match word {
            Some("h" | "hr" | "hrs" | "hour" | "hours") => 3600.0,
            Some("d" | "day" | "days") => 24.0 * 3600.0,
            _ => 1.0,
        }
    };
    bounded(value * unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::classify::tests::quick;

    #[test]
    fn times_in_text() {
        for (text, expected) in [
            ("retry after 3s", Some(3000)),
            ("retry after 1.5 seconds", Some(1500)),
            ("retry after 250ms", Some(250)),
            ("retry after 2m", Some(120_000)),
            ("retry after 2 more seconds", Some(2000)),
            ("retry after 0.5h", Some(1_800_000)),
            ("retry after 1 hour", Some(3_600_000)),
            ("retry after 2 days", Some(3_600_000)),
            ("retry-after: 7", Some(7000)),
            ("retry after never", None),
            ("retry after 1.2.3s", None),
            ("retry after 99999999999999s", Some(3_600_000)),
        ] {
            assert_eq!(in_text(text), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn times_in_fields() {
        for (fields, expected) in [
            (serde_json::json!({ "retry_after": 3 }), Some(3000)),
            (
                serde_json::json!({ "retry_after_seconds": "2.5" }),
                Some(2500),
            ),
            (serde_json::json!({ "retryAfterMs": 40 }), Some(40)),
            (serde_json::json!({ "retry_after": 0 }), None),
            (
                serde_json::json!({ "retryAfterMs": "0", "retry_after": 2 }),
                Some(2000),
            ),
            (serde_json::json!({ "retry_after": -1 }), None),
            (serde_json::json!({ "retry_after": "NaN" }), None),
            (serde_json::json!({ "retry_after": "inf" }), Some(3_600_000)),
            (serde_json::json!({ "retry_after": [3] }), None),
        ] {
            let read = in_fields(fields.as_object().unwrap());
            assert_eq!(read, expected.map(Duration::from_millis), "{fields}");
        }
    }

    #[cfg(feature = "http")]
    mod header {
        use super::*;

        /// 1994-11-06 08:49:37, the date in RFC 9110.
        const THEN: Duration = Duration::from_secs(784_111_777);

        fn seconds(value: &str, before: u64) -> Option<u64> {
            let now = SystemTime::UNIX_EPOCH + THEN - Duration::from_secs(before);
            in_header(value, now).map(|wait| wait.as_secs())
        }

        #[test]
        fn seconds_are_read() {
            assert_eq!(seconds("120", 0), Some(120));
            assert_eq!(seconds(" 7 ", 0), Some(7));
            assert_eq!(seconds("99999999999999999999999999", 0), Some(3600));
        }

        #[test]
        fn dates_of_all_three_forms_are_read() {
            for date in [
                "Sun, 06 Nov 1994 08:49:37 GMT",
                "Sunday, 06-Nov-94 08:49:37 GMT",
                "Sun Nov  6 08:49:37 1994",
            ] {
                assert_eq!(seconds(date, 90), Some(90), "{date}");
                assert_eq!(seconds(date, 7200), Some(3600), "{date}");
            }
        }

        #[test]
        fn a_time_that_is_over_says_nothing() {
            assert_eq!(seconds("0", 0), None);
            assert_eq!(seconds("0.0", 0), None);
            assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT", 0), None);
            let later = SystemTime::UNIX_EPOCH + THEN + Duration::from_secs(1);
            assert_eq!(in_header("Sun, 06 Nov 1994 08:49:37 GMT", later), None);
        }

        #[test]
        fn what_is_neither_says_nothing() {
            for value in [
                "",
                "-1",
                "soon",
                "inf",
                "NaN",
                "1e3",
                "1.2.3",
                ".",
                "Sun, 06 Nov 1994",
            ] {
                assert_eq!(seconds(value, 1), None, "{value}");
            }
        }

        proptest! {
            #![proptest_config(quick())]

            #[test]
            fn no_header_makes_an_impossible_wait(
                value in prop_oneof![
                    ".{0,128}",
                    "[0-9.]{0,128}",
                    "(Mon|Sun|Sunday), ?[0-9 ]{2}[ -][A-Z][a-z]{2}[ -][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT",
                    "[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} [0-9]{4}",
                ],
                now in 0_u64..1 << 40,
            ) {
                let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
                if let Some(wait) = in_header(&value, now) {
                    prop_assert!(!wait.is_zero() && wait <= LONGEST, "{:?}", wait);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn no_number_makes_an_impossible_wait(seconds in prop::num::f64::ANY) {
            if let Some(wait) = bounded(seconds) {
                prop_assert!(wait <= LONGEST);
            }
        }

        #[test]
        fn no_text_makes_an_impossible_wait(text in ".{0,64}", digits in "[0-9.]{0,3000}") {
            for text in [format!("retry after {digits}{text}"), format!("{text}retry in {digits}")] {
                if let Some(wait) = in_text(&text) {
                    prop_assert!(wait <= LONGEST);
                }
            }
        }
    }
}
