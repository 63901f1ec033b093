//! What a server says of its tools, and what follows for repeating a call.

use toolweir_core::Delivery;

/// What is known of a tool's effects, from its annotations or from configuration.
///
/// The names are those of the MCP specification's tool annotations, and so is what holds where nothing
/// is said: a tool changes something, may destroy what was there, and does more if it is called again.
/// They are hints: a server may be wrong about itself, and configuration goes before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolHints {
    /// It changes nothing.
    pub read_only: bool,
    /// Called again with the same arguments it has no further effect.
    pub idempotent: bool,
    /// It may change or remove what is there, and not only add to it. For those who ask before a call is
    /// made; whether a call may be repeated does not depend on it.
    pub destructive: bool,
}

impl Default for ToolHints {
    /// A tool of which nothing is known.
    fn default() -> Self {
        Self::idempotent(false)
    }
}

impl ToolHints {
    /// A tool that is as safe to repeat as `idempotent` says, and of which nothing else is known.
    #[must_use]
    pub const fn idempotent(idempotent: bool) -> Self {
        Self {
            read_only: false,
            idempotent,
            destructive: true,
        }
    }

    /// Whether a second execution does no harm.
    #[must_use]
    pub const fn is_repeatable(self) -> bool {
        self.read_only || self.idempotent
    }

    /// What holds of either of two tools that go by one name: it is repeatable only where both are.
    pub(crate) const fn least_repeatable(self, other: Self) -> Self {
        let read_only = self.read_only && other.read_only;
        let repeatable = self.is_repeatable() && other.is_repeatable();
        Self {
            read_only,
            // What changes nothing does no more if it is called again, also where it does not say so.
            idempotent: (self.idempotent && other.idempotent) || (repeatable && !read_only),
            destructive: self.destructive || other.destructive,
        }
    }
}

impl From<&rmcp::model::ToolAnnotations> for ToolHints {
    fn from(annotations: &rmcp::model::ToolAnnotations) -> Self {
        let read_only = annotations.read_only_hint.unwrap_or(false);
        Self {
            read_only,
            idempotent: annotations.idempotent_hint.unwrap_or(false),
            // By the specification it has a meaning only where the tool is not read-only.
            destructive: !read_only && annotations.destructive_hint.unwrap_or(true),
        }
    }
}

/// Whether a call may be repeated. Whoever repeats calls asks this and nothing else.
///
/// A call that was surely not sent may. One that was, or may have been, executed may where the tool is
/// read-only or idempotent. Of any other tool a second execution is a second effect, also where
/// `destructiveHint` is false: what a tool adds would be there twice.
#[must_use]
pub const fn may_repeat(delivery: Delivery, hints: ToolHints) -> bool {
    matches!(delivery, Delivery::NotSent) || hints.is_repeatable()
}

#[cfg(test)]
mod tests {
    use rmcp::model::ToolAnnotations;
    use serde_json::json;

    use super::*;

    fn said(annotations: serde_json::Value) -> ToolHints {
        ToolHints::from(&serde_json::from_value::<ToolAnnotations>(annotations).unwrap())
    }

    #[test]
    fn only_what_is_harmless_or_was_not_sent_may_be_repeated() {
        for (annotations, repeatable) in [
            (json!({}), false),
            (json!({ "readOnlyHint": true }), true),
            (json!({ "idempotentHint": true }), true),
            (
                json!({ "idempotentHint": true, "destructiveHint": true }),
                true,
            ),
            (
                json!({ "readOnlyHint": true, "idempotentHint": false }),
                true,
            ),
            // It adds: a second execution adds twice.
            (json!({ "destructiveHint": false }), false),
            (json!({ "destructiveHint": true }), false),
            (
                json!({ "readOnlyHint": false, "idempotentHint": false, "destructiveHint": false }),
                false,
            ),
        ] {
            let hints = said(annotations.clone());
            assert!(may_repeat(Delivery::NotSent, hints), "{annotations}");
            for delivery in [Delivery::Ambiguous, Delivery::Executed] {
                assert_eq!(may_repeat(delivery, hints), repeatable, "{annotations}");
            }
        }
    }

    #[test]
    fn of_two_tools_the_less_repeatable_one_counts() {
        let tools = [
            json!({}),
            json!({ "readOnlyHint": true }),
            json!({ "idempotentHint": true }),
            json!({ "readOnlyHint": true, "idempotentHint": true }),
            json!({ "destructiveHint": false }),
            json!({ "idempotentHint": true, "destructiveHint": false }),
        ];
        for one in tools.clone().map(said) {
            for other in tools.clone().map(said) {
                let both = one.least_repeatable(other);
                assert_eq!(both, other.least_repeatable(one));
                let repeatable = one.is_repeatable() && other.is_repeatable();
                assert_eq!(both.is_repeatable(), repeatable, "{one:?}, {other:?}");
                assert_eq!(both.read_only, one.read_only && other.read_only);
                assert_eq!(both.destructive, one.destructive || other.destructive);
            }
            assert_eq!(one.least_repeatable(one), one);
        }
    }

    #[test]
    fn what_is_not_said_is_what_the_specification_says() {
        assert_eq!(said(json!({})), ToolHints::default());
        let hints = ToolHints::default();
        assert!(!hints.read_only && !hints.idempotent && hints.destructive);
        assert!(!said(json!({ "destructiveHint": false })).destructive);
        assert!(!said(json!({ "readOnlyHint": true })).destructive);
        assert!(!said(json!({ "readOnlyHint": true, "destructiveHint": true })).destructive);
    }
}
