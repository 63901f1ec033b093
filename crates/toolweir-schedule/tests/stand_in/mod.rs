//! A stand-in for the Temporal server: answers each call from a script, and keeps the requests.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{FutureExt, future::BoxFuture};
use prost::Message;
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, RetryOptions, Url,
    callback_based::{CallbackBasedGrpcService, GrpcRequest, GrpcSuccessResponse},
    tonic::Status,
};
use toolweir_schedule::Schedules;

/// What a call is answered with; a pending future never answers.
pub(crate) type Answer = BoxFuture<'static, Result<Vec<u8>, Status>>;

pub(crate) fn message(answer: &impl Message) -> Answer {
    let bytes = answer.encode_to_vec();
    async move { Ok(bytes) }.boxed()
}

pub(crate) fn status(status: Status) -> Answer {
    async move { Err(status) }.boxed()
}

pub(crate) fn silence() -> Answer {
    std::future::pending().boxed()
}

type Log = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// The requests that came in, by the name of the call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Log);

impl Requests {
    /// The requests of one kind, in order.
    pub(crate) fn of<M: Message + Default>(&self, call: &str) -> Vec<M> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter()
            .filter(|(name, _)| name == call)
            .map(|(_, bytes)| M::decode(bytes.as_slice()).expect("the client encodes them"))
            .collect()
    }

    /// All calls, by name, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// A client of a server that answers by `script`, which is given the call's name and how many of
/// that name came before.
pub(crate) async fn connect(
    script: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
) -> (Schedules, Requests) {
    let requests = Requests::default();
    let log = requests.0.clone();
    let callback = move |request: GrpcRequest| -> BoxFuture<'static, _> {
        // The handshake of the connection.
        if request.rpc == "GetSystemInfo" {
            return success(async { Ok(Vec::new()) }.boxed());
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = log.iter().filter(|(name, _)| *name == request.rpc).count();
        log.push((request.rpc.clone(), request.proto.to_vec()));
        success(script(&request.rpc, earlier))
    };
    let service = CallbackBasedGrpcService {
        callback: Arc::new(callback),
    };
    let options = ConnectionOptions::new(Url::parse("http://stand-in:7233").expect("is one"))
        .identity("tests")
        .service_override(service)
        .dns_load_balancing(None)
        .retry_options(RetryOptions::no_retries())
        .build();
    let connection = Connection::connect(options).await.expect("it answers");
    let client =
        Client::new(connection, ClientOptions::new("default").build()).expect("no plugins");
    (Schedules::new(client), requests)
}

fn success(answer: Answer) -> BoxFuture<'static, Result<GrpcSuccessResponse, Status>> {
    answer
        .map(|bytes| {
            bytes.map(|proto| GrpcSuccessResponse {
                headers: Default::default(),
                proto,
            })
        })
        .boxed()
}
