//! A server that does not know a session any more: the call is sent once more, and no call twice that a
//! tool may have executed.

#![cfg(feature = "http")]
#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use rmcp::{
    RoleClient,
    service::{RxJsonRpcMessage, TxJsonRpcMessage},
    transport::{Transport, streamable_http_client::StreamableHttpError},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};
use toolweir_core::{Delivery, Observation, Outcome};
use toolweir_mcp::{HttpServer, McpService, ToolCall, ToolError, ToolResponse};
use tower::ServiceExt as _;

const SECOND: Duration = Duration::from_secs(1);
const NO_SESSION: &str = "Bad Request: No valid session ID provided";

async fn call(mcp: &McpService) -> Result<ToolResponse, ToolError> {
    mcp.clone().oneshot(ToolCall::new("add")).await
}

/// What a call is answered with: a status and a body.
type Answers = fn(nth: usize, id: &Value) -> (u16, Value);

/// A server over HTTP that counts the calls that reach it. It ends with its drop.
struct Server {
    url: String,
    calls: Arc<Mutex<usize>>,
    accepting: JoinHandle<()>,
}

impl Server {
    async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let calls = Arc::<Mutex<usize>>::default();
        let counted = calls.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, counted.clone(), answers));
            }
        });
        Self {
            url,
            calls,
            accepting,
        }
    }

    fn service(&self) -> McpService {
        let builder = McpService::builder("music").http(HttpServer::new(self.url.clone()));
        builder.build().unwrap()
    }

    fn calls(&self) -> usize {
        *self.calls.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One request of one connection.
async fn serve(stream: TcpStream, calls: Arc<Mutex<usize>>, answers: Answers) {
    let mut stream = BufReader::new(stream);
    let Some((is_post, request)) = read(&mut stream).await else {
        return;
    };
    let (status, body) = match request["method"].as_str() {
        Some("tools/call") => {
            let nth = {
                let mut calls = calls.lock().unwrap();
                *calls += 1;
                *calls
            };
            answers(nth, &request["id"])
        }
        Some(method) => match result_of(method) {
            Some(result) => (200, answer(&request["id"], &result)),
            None => (202, Value::Null),
        },
        None => (if is_post { 202 } else { 405 }, Value::Null),
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nMcp-Session-Id: s\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + &body).as_bytes()).await;
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<(bool, Value)> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let is_post = line.starts_with("POST");
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((is_post, serde_json::from_slice(&body).unwrap_or_default()))
}

fn result_of(method: &str) -> Option<Value> {
    match method {
        "initialize" => Some(json!({
            "protocolVersion": "2025-11-25",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "forgetful", "version": "1" },
        })),
        "tools/list" => Some(json!({ "tools": [] })),
        _ => None,
    }
}

fn answer(id: &Value, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

fn error(id: &Value, message: &str) -> Value {
    let error = json!({ "code": -32000, "message": message });
    json!({ "jsonrpc": "2.0", "id": id, "error": error })
}

fn done(id: &Value) -> (u16, Value) {
    (200, answer(id, &json!({ "content": [] })))
}

/// As the TypeScript SDK's examples say it, with `"id": null` or without any.
fn no_session(nth: usize) -> (u16, Value) {
    let mut error = error(&Value::Null, NO_SESSION);
    if nth.is_multiple_of(2) {
        error.as_object_mut().unwrap().remove("id");
    }
    (400, error)
}

#[tokio::test]
async fn a_tool_s_own_error_with_those_words_is_not_repeated() {
    for status in [200, 400] {
        let answers: Answers = match status {
            200 => |_, id| (200, error(id, NO_SESSION)),
            _ => |_, id| (400, error(id, NO_SESSION)),
        };
        let server = Server::start(answers).await;
        let mcp = server.service();
        let error = call(&mcp).await.unwrap_err();
        assert!(matches!(error, ToolError::Protocol { .. }), "{error:?}");
        assert_eq!(error.observation().delivery, Delivery::Executed);
        assert_eq!(server.calls(), 1, "it was executed, with status {status}");
        assert_eq!(mcp.handle().state().starts, 1);
    }
}

#[tokio::test]
async fn an_error_for_no_request_that_only_quotes_them_is_not_repeated() {
    let server = Server::start(|_, _| {
        let quoted = format!("the backend said: {NO_SESSION}");
        (400, error(&Value::Null, &quoted))
    });
    let server = server.await;
    let error = call(&server.service()).await.unwrap_err();
    assert!(matches!(error, ToolError::Protocol { .. }), "{error:?}");
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_lost_session_is_replaced_and_the_call_is_sent_once_more() {
    for answers in [
        (|nth, id| if nth == 1 { no_session(1) } else { done(id) }) as Answers,
        |nth, id| if nth == 1 { no_session(2) } else { done(id) },
        |nth, id| {
            if nth == 1 {
                (404, Value::Null)
            } else {
                done(id)
            }
        },
    ] {
        let server = Server::start(answers).await;
        let mcp = server.service();
        call(&mcp).await.unwrap();
        assert_eq!(server.calls(), 2);
        assert_eq!(mcp.handle().state().starts, 2);
    }
}

#[tokio::test]
async fn a_server_that_knows_no_session_is_asked_twice_and_no_more() {
    for answers in [(|nth, _| no_session(nth)) as Answers, |_, _| {
        (404, Value::Null)
    }] {
        let server = Server::start(answers).await;
        let error = call(&server.service()).await.unwrap_err();
        let expected = Observation::new(Outcome::Failure, Delivery::NotSent);
        assert_eq!(error.observation(), expected, "{error:?}");
        assert_eq!(server.calls(), 2);
    }
}

#[derive(Clone, Copy)]
enum Then {
    /// The session is not known, it says after so long.
    Forgotten(Duration),
    /// It answers after so long.
    Done(Duration),
}

/// A server in memory, which sees each connection as a session. Of rmcp's transport over HTTP it has the
/// errors, and none of the sockets: a paused clock drives it.
#[derive(Clone)]
struct Forgetful {
    script: Arc<Mutex<VecDeque<Then>>>,
    /// How long each handshake takes.
    handshake: Duration,
    answers: mpsc::UnboundedSender<Value>,
}

struct Session {
    server: Forgetful,
    answers: mpsc::UnboundedReceiver<Value>,
}

impl Transport<RoleClient> for Session {
    type Error = StreamableHttpError<reqwest::Error>;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let server = self.server.clone();
        async move {
            let message = serde_json::to_value(&message).unwrap();
            server.take(&message).await
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        let answer = self.answers.recv().await?;
        Some(serde_json::from_value(answer).unwrap())
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl Forgetful {
    async fn take(self, message: &Value) -> Result<(), StreamableHttpError<reqwest::Error>> {
        let method = message["method"].as_str().unwrap_or_default();
        let mut result = result_of(method);
        if method == "initialize" {
            sleep(self.handshake).await;
        }
        if method == "tools/call" {
            let then = self.script.lock().unwrap().pop_front();
            match then.expect("it is called as often as the script says") {
                Then::Forgotten(after) => {
                    sleep(after).await;
                    return Err(StreamableHttpError::SessionExpired);
                }
                Then::Done(after) => sleep(after).await,
            }
            result = Some(json!({ "content": [] }));
        }
        if let Some(result) = result {
            let _ = self.answers.send(answer(&message["id"], &result));
        }
        Ok(())
    }
}

fn forgetful(script: impl IntoIterator<Item = Then>, handshake: Duration) -> McpService {
    let script = Arc::new(Mutex::new(VecDeque::from_iter(script)));
    let builder = McpService::builder("music").transport(move || {
        let (answers, theirs) = mpsc::unbounded_channel();
        let server = Forgetful {
            script: script.clone(),
            handshake,
            answers,
        };
        let answers = theirs;
        async move { Ok(Session { server, answers }) }
    });
    builder.call_timeout(SECOND * 10).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_timeout_covers_both_sends() {
    let mcp = forgetful(
        [Then::Forgotten(SECOND * 6), Then::Done(SECOND * 6)],
        Duration::ZERO,
    );
    let begun = Instant::now();
    let error = call(&mcp).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 10);
    let ToolError::TimedOut {
        after, delivery, ..
    } = error
    else {
        panic!("its time was over: {error:?}");
    };
    assert_eq!((after.as_secs(), delivery), (10, Delivery::Ambiguous));

    let script = [Then::Forgotten(SECOND * 6), Then::Done(SECOND * 3)];
    call(&forgetful(script, Duration::ZERO)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_same_timeout_covers_the_next_session_s_handshake() {
    let mcp = forgetful([Then::Forgotten(SECOND * 3)], SECOND * 8);
    let begun = Instant::now();
    let error = call(&mcp).await.unwrap_err();
    // The first handshake comes before the call's own time.
    assert_eq!(begun.elapsed().as_secs(), 18);
    let ToolError::TimedOut { delivery, .. } = error else {
        panic!("its time was over: {error:?}");
    };
    assert_eq!(delivery, Delivery::NotSent, "no server has done it");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_sent_once_more_and_not_twice_however_long_its_sessions_live() {
    // So long that no backoff ends the matter.
    let lost = Then::Forgotten(SECOND * 6);
    let mcp = forgetful([lost, lost, Then::Done(SECOND)], Duration::ZERO);
    let patient = ToolCall::new("add").with_timeout(SECOND * 60);
    let error = mcp.clone().oneshot(patient).await.unwrap_err();
    let expected = Observation::new(Outcome::Failure, Delivery::NotSent);
    assert_eq!(error.observation(), expected, "{error:?}");
    // What was left of the script is the next call's.
    call(&mcp).await.unwrap();
}
