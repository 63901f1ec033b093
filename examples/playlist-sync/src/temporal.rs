//! The connection to Temporal that worker and starter make alike.

use std::time::Duration;

use anyhow::{Context as _, Result};
use temporalio_client::{Client, ClientOptions, Connection, ConnectionOptions, Url};
use tokio::time::timeout;

/// A server that is not there is told within this time.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Connects to the server at `address` (`host:port`).
///
/// # Errors
///
/// The address is none, or no server answers there.
pub async fn connect(address: &str, namespace: &str) -> Result<Client> {
    let url = format!("http://{address}")
        .parse::<Url>()
        .with_context(|| format!("{address:?} is no address; give host:port"))?;
    let connect = Connection::connect(ConnectionOptions::new(url).build());
    let connection = timeout(CONNECT_WITHIN, connect)
        .await
        .ok()
        .and_then(Result::ok)
        .with_context(|| {
            format!(
                "no Temporal server answers at {address}; start one, or give another with --address"
            )
        })?;
    Ok(Client::new(
        connection,
        ClientOptions::new(namespace).build(),
    )?)
}
