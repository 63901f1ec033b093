//! An MCP server over HTTP that breaks on purpose. It speaks the protocol by hand, in threads of its
//! own, so that nothing of it is mistaken for the client's.

use std::{
    collections::HashSet,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// So long a request waits for those it must break together with.
const TOGETHER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct FaultyHttp {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Default)]
struct Shared {
    plan: Mutex<Plan>,
    /// Told when another request has come that will be broken.
    gathered: Condvar,
    open: AtomicUsize,
}

#[derive(Default)]
struct Plan {
    fault: String,
    /// What is broken: `initialize` or `tools/call`.
    method: &'static str,
    /// How many of them, all at once.
    count: usize,
    come: usize,
    sessions: HashSet<String>,
    made: usize,
    stopped: bool,
}

impl FaultyHttp {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let server = Self {
            shared: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        server.accept(listener);
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The next `count` requests of this method meet the fault.
    pub(crate) fn break_next(&self, fault: &str, method: &'static str, count: usize) {
        let mut plan = self.shared.plan();
        fault.clone_into(&mut plan.fault);
        (plan.method, plan.count, plan.come) = (method, count, 0);
    }

    pub(crate) fn forget_sessions(&self) {
        self.shared.plan().sessions.clear();
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Nobody listens any more: connections are refused.
    pub(crate) fn stop(&self) {
        self.shared.plan().stopped = true;
        // The thread that accepts sees it with the next connection, and closes the door behind it.
        let _ = TcpStream::connect(self.address);
        while TcpStream::connect(self.address).is_ok() {
            thread::yield_now();
        }
    }

    pub(crate) fn start_again(&self) {
        self.shared.plan().stopped = false;
        self.accept(TcpListener::bind(self.address).unwrap());
    }

    fn accept(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.plan().stopped {
                    return;
                }
                let (Ok(stream), shared) = (stream, shared.clone()) else {
                    continue;
                };
                shared.open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    // A client that goes away is the test's business.
                    let _ = shared.serve(&stream);
                    drop(stream);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
    }
}

impl Drop for FaultyHttp {
    fn drop(&mut self) {
        // The threads that serve hold the shared part only.
        if !self.shared.plan().stopped {
            self.shared.plan().stopped = true;
            let _ = TcpStream::connect(self.address);
        }
    }
}

struct Request {
    verb: String,
    session: Option<String>,
    body: Value,
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap()
    }

    /// One request, for one connection.
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let request = read(stream)?;
        let method = request.body["method"].as_str().unwrap_or_default();
        if let Some(fault) = self.meets(method) {
            return broken(stream, &fault, &request.body["id"]);
        }
        match request.verb.as_str() {
            "POST" if method == "initialize" => {
                let session = self.new_session();
                let result = json!({ "protocolVersion": "2025-11-25",
                    "capabilities": { "tools": {} },
                    "serverInfo": { "name": "faulty", "version": "1" } });
                let session = format!("Mcp-Session-Id: {session}\r\n");
                answer(stream, &session, &request.body["id"], &result)
            }
            "POST" if !self.knows(request.session.as_deref()) => {
                say(stream, "404 Not Found", "", "")
            }
            "POST" => match method {
                "tools/list" => answer(stream, "", &request.body["id"], &json!({ "tools": [] })),
                "tools/call" => {
                    let told = &request.body["params"]["arguments"];
                    let result = json!({ "content": [], "structuredContent": told });
                    answer(stream, "", &request.body["id"], &result)
                }
                _ => say(stream, "202 Accepted", "", ""),
            },
            "DELETE" => say(stream, "200 OK", "", ""),
            _ => say(stream, "405 Method Not Allowed", "", ""),
        }
    }

    /// The fault that this request meets, once all that meet it have come.
    fn meets(&self, method: &str) -> Option<String> {
        let mut plan = self.plan();
        if plan.method != method || plan.come == plan.count {
            return None;
        }
        plan.come += 1;
        self.gathered.notify_all();
        let (plan, late) = self
            .gathered
            .wait_timeout_while(plan, TOGETHER_WITHIN, |plan| plan.come < plan.count)
            .unwrap();
        assert!(!late.timed_out(), "{} of {} came", plan.come, plan.count);
        Some(plan.fault.clone())
    }

    fn new_session(&self) -> String {
        let mut plan = self.plan();
        plan.made += 1;
        let session = format!("session-{}", plan.made);
        plan.sessions.insert(session.clone());
        session
    }

    fn knows(&self, session: Option<&str>) -> bool {
        session.is_some_and(|session| self.plan().sessions.contains(session))
    }
}

fn read(stream: &TcpStream) -> io::Result<Request> {
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    input.read_line(&mut line)?;
    let verb = line.split(' ').next().unwrap_or_default().to_owned();
    let (mut session, mut length) = (None, 0);
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "mcp-session-id" => session = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    Ok(Request {
        verb,
        session,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

fn broken(mut stream: &TcpStream, fault: &str, id: &Value) -> io::Result<()> {
    match fault {
        // The request was read; then the connection is gone.
        "reset" => Ok(()),
        "401" => say(
            stream,
            "401 Unauthorized",
            "WWW-Authenticate: Bearer\r\n",
            "",
        ),
        "403" => {
            let scope = "WWW-Authenticate: Bearer error=\"insufficient_scope\"\r\n";
            say(stream, "403 Forbidden", scope, "")
        }
        "408" => say(stream, "408 Request Timeout", "", ""),
        "429" => say(stream, "429 Too Many Requests", "Retry-After: 1\r\n", ""),
        "500" => say(stream, "500 Internal Server Error", "", "oops"),
        "503" => {
            let error = json!({ "code": -32603, "message": "overloaded" });
            let body = json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string();
            let json = "Content-Type: application/json\r\n";
            say(stream, "503 Service Unavailable", json, &body)
        }
        "400" => {
            let message = "Bad Request: No valid session ID provided";
            let error = json!({ "code": -32000, "message": message });
            let body = json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string();
            let json = "Content-Type: application/json\r\n";
            say(stream, "400 Bad Request", json, &body)
        }
        "404" => say(stream, "404 Not Found", "", ""),
        // Until the client goes away.
        "hang" => stream.read(&mut [0]).map(drop),
        fault => panic!("no fault is called {fault:?}"),
    }
}

fn answer(stream: &TcpStream, headers: &str, id: &Value, result: &Value) -> io::Result<()> {
    let body = json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string();
    let headers = format!("{headers}Content-Type: application/json\r\n");
    say(stream, "200 OK", &headers, &body)
}

fn say(mut stream: &TcpStream, status: &str, headers: &str, body: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
