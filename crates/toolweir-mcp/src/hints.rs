//! What a server says of its tools, and what follows for repeating a call.

use toolweir_core::Delivery;

/// What is known of a tool's effects, from its annotations or from configuration.
///
/// The names are those of the MCP specification's tool annotations. They are hints: a server may be
/// wrong about itself, and configuration goes before them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolHints {
    /// It changes nothing.
    pub read_only: bool,
    /// Called again with the same arguments it has no further effect.
    pub idempotent: bool,
}

impl ToolHints {
    /// A tool that is as safe to repeat as `idempotent` says.
    #[must_use]
    pub const fn idempotent(idempotent: bool) -> Self {
        Self {
            read_only: false,
            idempotent,
        }
    }

    /// Whether a second execution does no harm.
    #[must_use]
    pub const fn is_repeatable(self) -> bool {
        self.read_only || self.idempotent
    }
}

impl From<&rmcp::model::ToolAnnotations> for ToolHints {
    fn from(annotations: &rmcp::model::ToolAnnotations) -> Self {
        Self {
            read_only: annotations.read_only_hint.unwrap_or(false),
            idempotent: annotations.idempotent_hint.unwrap_or(false),
        }
    }
}

/// Whether a call may be repeated. Whoever repeats calls asks this and nothing else.
///
/// A call that was surely not sent may. One that was, or may have been, executed may where a second
/// execution does no harm.
#[must_use]
pub const fn may_repeat(delivery: Delivery, hints: ToolHints) -> bool {
    matches!(delivery, Delivery::NotSent) || hints.is_repeatable()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_harmless_or_was_not_sent_may_be_repeated() {
        let unsafe_tool = ToolHints::default();
        let safe_tool = ToolHints::idempotent(true);
        assert!(may_repeat(Delivery::NotSent, unsafe_tool));
        assert!(!may_repeat(Delivery::Ambiguous, unsafe_tool));
        assert!(!may_repeat(Delivery::Executed, unsafe_tool));
        assert!(may_repeat(Delivery::Ambiguous, safe_tool));
    }
}
