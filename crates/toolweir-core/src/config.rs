//! What is wrong with a configuration.

use std::{borrow::Cow, error::Error, fmt};

/// A configuration's `build()` refused a value.
///
/// ```
/// use toolweir_core::ConfigError;
///
/// let error = ConfigError::new("permits", 0, "at least 1");
/// assert_eq!(error.to_string(), "`permits` must be at least 1, but is 0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    value: String,
    allowed: Cow<'static, str>,
}

impl ConfigError {
    /// `field` is `value`, where `allowed` completes the sentence "it must be …".
    #[must_use]
    pub fn new(
        field: &'static str,
        value: impl fmt::Display,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            field,
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }

    /// The field's name, as its setter is called.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            value,
            allowed,
        } = self;
        write!(f, "`{field}` must be {allowed}, but is {value}")
    }
}

impl Error for ConfigError {}
