//! Why there is no connection.

use std::{error::Error, fmt, time::Duration};

use rmcp::service::ClientInitializeError;
use toolweir_core::{BoxError, error_text};

use super::{Connector, dialect};
use crate::hostile::LastWords;

/// How far a connection came before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Connecting {
    /// The program could not be started, or the transport not be made.
    Start,
    /// The server did not complete the handshake.
    Handshake,
    /// The time for connecting was over.
    TimedOut,
    /// The attempt broke off: the transport's code panicked, or the runtime ended.
    BrokeOff,
    /// The connection was made, and lost soon after.
    Lost,
}

/// A connection to a server could not be made.
#[derive(Debug)]
pub struct ConnectError {
    pub(crate) connecting: Connecting,
    pub(crate) server: Box<str>,
    pub(crate) program: Option<Box<str>>,
    pub(crate) within: Duration,
    /// How its process ended, if it did.
    pub(crate) ended: Option<String>,
    /// The last of what it said on stderr.
    pub(crate) last_words: Option<String>,
    pub(crate) source: Option<BoxError>,
    /// Whether the server has answered that a conversation with it begins in another way.
    pub(super) speaks_otherwise: bool,
}

impl ConnectError {
    pub(super) fn new(
        connecting: Connecting,
        server: &str,
        connector: &Connector,
        within: Duration,
    ) -> Self {
        Self {
            connecting,
            server: server.into(),
            program: connector.program(),
            within,
            ended: None,
            last_words: None,
            source: None,
            speaks_otherwise: false,
        }
    }

    /// Nobody could say how the server is reached.
    pub(crate) fn unreachable(server: &str, source: BoxError) -> Self {
        Self {
            connecting: Connecting::Start,
            server: server.into(),
            program: None,
            within: Duration::ZERO,
            ended: None,
            last_words: None,
            source: Some(source),
            speaks_otherwise: false,
        }
    }

    pub(super) fn at(self, connecting: Connecting) -> Self {
        Self { connecting, ..self }
    }

    pub(super) fn because(self, source: BoxError) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }

    /// The handshake ended with this.
    pub(super) fn refused(self, failed: ClientInitializeError) -> Self {
        #[cfg(feature = "http")]
        let failed = crate::http::of_handshake(failed);
        Self {
            speaks_otherwise: dialect::speaks_otherwise(&failed),
            ..self.at(Connecting::Handshake).because(failed.into())
        }
    }

    /// How far the connection came.
    #[must_use]
    pub const fn connecting(&self) -> Connecting {
        self.connecting
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MCP server {:?}", self.server)?;
        if let Some(program) = &self.program {
            write!(f, " (program {program:?})")?;
        }
        match (self.connecting, &self.ended) {
            (Connecting::Start, _) => f.write_str(" could not be started")?,
            (_, Some(ended)) => write!(f, " ended before it was ready: {ended}")?,
            (Connecting::Handshake, None) => f.write_str(" did not complete the handshake")?,
            (Connecting::TimedOut, None) => write!(f, " was not ready within {:?}", self.within)?,
            (Connecting::BrokeOff, None) => f.write_str(": the attempt to connect broke off")?,
            (Connecting::Lost, None) => f.write_str(" was lost after it had connected")?,
        }
        if let Some(source) = &self.source {
            write!(f, ": {}", told(source))?;
        }
        if let Some(words) = &self.last_words {
            write!(f, "; its last words: {}", LastWords(words))?;
        }
        Ok(())
    }
}

/// What an error says, without the names of rmcp's types. They hide the error's own sources.
fn told(source: &BoxError) -> String {
    let Some(ClientInitializeError::TransportError { error, .. }) = source.downcast_ref() else {
        return error_text(source.as_ref());
    };
    #[cfg(feature = "http")]
    if let Some(told) = crate::http::told(error) {
        return told;
    }
    error_text(error.error.as_ref())
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
