//! How a conversation with a server begins.

use rmcp::{
    ClientLifecycleMode,
    model::{ErrorCode, ProtocolVersion},
    service::ClientInitializeError,
};
use toolweir_core::BoxError;

use super::listener::Client;

/// Up to 2025-11-25 a session begins with `initialize`. From 2026-07-28 on there is no such beginning:
/// a client asks `server/discover`, and says with every request who it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Nearly every server knows it, so it is tried first.
    #[default]
    Initialize,
    Discover,
}

impl Dialect {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Initialize => Self::Discover,
            Self::Discover => Self::Initialize,
        }
    }

    pub(super) fn lifecycle(self) -> ClientLifecycleMode {
        match self {
            Self::Initialize => ClientLifecycleMode::Initialize,
            Self::Discover => ClientLifecycleMode::Discover {
                preferred_versions: vec![ProtocolVersion::LATEST],
            },
        }
    }

    /// The client, unless its server answered with a version of the protocol that nobody knows: what
    /// it would say then would be guesswork.
    pub(super) fn checked(self, client: Client) -> Result<Client, BoxError> {
        let Some(info) = client.peer().peer_info() else {
            return Ok(client);
        };
        if ProtocolVersion::KNOWN_VERSIONS.contains(&info.protocol_version) {
            return Ok(client);
        }
        let version: String = info.protocol_version.to_string().chars().take(40).collect();
        Err(format!("the server speaks protocol version {version:?}, which is not known").into())
    }
}

/// Whether the server has answered that it does not begin in this way.
pub(super) fn speaks_otherwise(error: &ClientInitializeError) -> bool {
    match error {
        ClientInitializeError::JsonRpcError(error) => [
            ErrorCode::METHOD_NOT_FOUND,
            ErrorCode::INVALID_REQUEST,
            ErrorCode::INVALID_PARAMS,
            ErrorCode::UNSUPPORTED_PROTOCOL_VERSION,
        ]
        .contains(&error.code),
        ClientInitializeError::NoCompatibleProtocolVersion { .. } => true,
        _ => false,
    }
}
