//! How a server is started.

use std::{path::PathBuf, time::Duration};

/// How to start a [`TemporalServer`](super::TemporalServer).
///
/// ```
/// use toolweir_testkit::temporal::Options;
///
/// let options = Options::new()
///     .namespace("sync")
///     .dynamic_config("frontend.WorkflowTimeSkippingEnabled", "true");
/// # drop(options);
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Options {
    pub(super) dynamic_config: Vec<(String, String)>,
    pub(super) namespaces: Vec<String>,
    pub(super) arguments: Vec<String>,
    pub(super) executable: Option<PathBuf>,
    pub(super) directory: Option<PathBuf>,
    pub(super) ready_within: Duration,
    pub(super) install_within: Duration,
}

impl Options {
    /// A plain server, in memory, with the namespace `default`.
    pub const fn new() -> Self {
        Self {
            dynamic_config: Vec::new(),
            namespaces: Vec::new(),
            arguments: Vec::new(),
            executable: None,
            directory: None,
            // Starting takes about a second; a machine that compiles on every core takes longer.
            ready_within: Duration::from_secs(60),
            // The download is some 50 MB.
            install_within: Duration::from_secs(300),
        }
    }

    /// Adds a dynamic configuration value; `value` is JSON.
    pub fn dynamic_config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.dynamic_config.push((key.into(), value.into()));
        self
    }

    /// Adds a namespace beside `default`.
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespaces.push(name.into());
        self
    }

    /// Adds an argument to `temporal server start-dev`, for example `--search-attribute`.
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Uses this `temporal`, whatever the environment offers.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executable = Some(path.into());
        self
    }

    /// Keeps the installed server and the logs in this directory, not in the target directory.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// How long the server may take to answer. 60 s by default.
    pub const fn ready_within(mut self, limit: Duration) -> Self {
        self.ready_within = limit;
        self
    }

    /// How long an installation may take. 300 s by default.
    pub const fn install_within(mut self, limit: Duration) -> Self {
        self.install_within = limit;
        self
    }

    /// Whether a server that runs already may serve.
    pub(super) fn any_server_will_do(&self) -> bool {
        self.dynamic_config.is_empty()
            && self.namespaces.is_empty()
            && self.arguments.is_empty()
            && self.executable.is_none()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_its_own_ask_for_a_server_of_its_own() {
        assert!(Options::new().any_server_will_do());
        assert!(Options::new().directory("here").any_server_will_do());
        assert!(!Options::new().namespace("sync").any_server_will_do());
        assert!(
            !Options::new()
                .dynamic_config("a.b", "1")
                .any_server_will_do()
        );
        assert!(!Options::new().argument("--x").any_server_will_do());
        assert!(!Options::new().executable("temporal").any_server_will_do());
    }
}
