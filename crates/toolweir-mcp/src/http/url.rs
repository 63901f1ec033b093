//! URLs hold secrets: a name and a password, a token in the query, a path that nobody is to guess.

use reqwest::Url;
use rmcp::transport::streamable_http_client::StreamableHttpError;

/// What rmcp's transport gives on reqwest, with OAuth or without.
type HttpError = StreamableHttpError<reqwest::Error>;

/// The error with no more of its URL than scheme, host and port. What the rest was is in the configuration.
///
/// rmcp logs errors of requests as they are, so they pass through here before it sees them.
pub(super) fn fit_to_log(error: HttpError) -> HttpError {
    match error {
        HttpError::Client(error) => HttpError::Client(at_origin(error)),
        #[cfg(feature = "oauth")]
        HttpError::Auth(rmcp::transport::auth::AuthError::HttpError(error)) => {
            HttpError::Auth(at_origin(error).into())
        }
        error => error,
    }
}

fn at_origin(mut error: reqwest::Error) -> reqwest::Error {
    let Some(url) = error.url_mut() else {
        return error;
    };
    url.set_path("");
    if without_secrets(url) {
        error
    } else {
        error.without_url()
    }
}

/// A URL from the configuration, for a message that says what is wrong with it: without name,
/// password, query and fragment.
pub(super) fn shown(text: &str) -> String {
    if let Ok(mut url) = Url::parse(text)
        && url.has_host()
        && without_secrets(&mut url)
    {
        return url.into();
    }
    // Of what is no such URL, as `user:secret@host`, the parts are not what they seem to be.
    if text.contains(['@', '?', '#']) {
        "one that is not shown, as it may hold a secret".to_owned()
    } else {
        text.to_owned()
    }
}

fn without_secrets(url: &mut Url) -> bool {
    url.set_query(None);
    url.set_fragment(None);
    // Refused to URLs that have neither host nor user.
    url.set_username("").is_ok() && url.set_password(None).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::classify::tests::quick;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        for (url, expected) in [
            ("ftp://here", "ftp://here/"),
            (
                "ftp://user:hunter2@here/mcp?token=hunter2#hunter2",
                "ftp://here/mcp",
            ),
            ("here", "here"),
            ("", ""),
        ] {
            assert_eq!(shown(url), expected);
        }
        for url in [
            "user:hunter2@here/mcp",
            "here/mcp?token=hunter2",
            "http://user:hunter2?@",
            "mailto:user:hunter2@here",
            "http:///?hunter2",
            "//user:hunter2@here",
            "http://user:hunter2@here:port/",
        ] {
            assert!(!shown(url).contains("hunter2"), "{}", shown(url));
        }
    }

    proptest! {
        #![proptest_config(quick())]

        #[test]
        fn no_url_shows_what_stands_where_secrets_do(
            before in "([a-z]{0,5}:)?/{0,3}([a-z:]{0,5})?",
            after in "[a-z0-9:./@?#]{0,12}",
        ) {
            for url in [
                format!("{before}hunter2@{after}"),
                format!("{before}here/{after}?hunter2"),
                format!("{before}here/{after}#hunter2"),
            ] {
                prop_assert!(!shown(&url).contains("hunter2"), "{} of {}", shown(&url), url);
            }
        }
    }
}
