//! The error that stands in for an answer that is too large to be read.
//!
//! It takes the answer's place where it is read from the wire, and goes through rmcp to the call. A
//! server cannot make one: it does not know this process's mark.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::OnceLock,
};

use rmcp::model::{ErrorCode, ErrorData};
use serde_json::{Value, json};

const MARK: &str = "toolweir/mark";
const LIMIT: &str = "limit";

/// An error in the place of an answer of more than `limit` bytes.
pub(crate) fn error(limit: usize) -> ErrorData {
    let data = json!({ MARK: mark(), LIMIT: limit });
    ErrorData::new(
        ErrorCode::INTERNAL_ERROR,
        "the answer is too large",
        Some(data),
    )
}

/// The same as a message to the request `id`, which is JSON.
pub(crate) fn message(id: &Value, limit: usize) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "error": error(limit) }).to_string()
}

/// The limit that was exceeded, if this is such an error.
pub(crate) fn limit_in(error: &ErrorData) -> Option<usize> {
    let data = error.data.as_ref()?;
    (data.get(MARK)?.as_u64()? == mark()).then_some(())?;
    usize::try_from(data.get(LIMIT)?.as_u64()?).ok()
}

fn mark() -> u64 {
    static MARK: OnceLock<u64> = OnceLock::new();
    *MARK.get_or_init(|| RandomState::new().hash_one(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_known_and_a_forged_one_is_not() {
        assert_eq!(limit_in(&error(7)), Some(7));
        let mut forged = error(7);
        forged.data = Some(json!({ MARK: mark().wrapping_add(1), LIMIT: 7 }));
        assert_eq!(limit_in(&forged), None);
        forged.data = Some(json!({ LIMIT: 7 }));
        assert_eq!(limit_in(&forged), None);
    }
}
