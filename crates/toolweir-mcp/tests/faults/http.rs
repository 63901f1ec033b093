//! The faults of a server over HTTP.

use std::time::Duration;

use toolweir_mcp::{HttpServer, McpService};

use crate::{
    cell::{
        Cell::{self, Ends, Never},
        End::{Done, FailedAmbiguous, FailedExecuted, FailedUnsent, Throttled, Unauthorized},
        Fault, Moment,
        Recovery::{self, Connected, Kept, Replaced},
    },
    http_server::FaultyHttp,
    subject::{PATIENCE, Subject, until},
};

/// What a call, or a connect, may take that the server leaves hanging.
const HANGS_FOR: Duration = Duration::from_secs(1);

const UNSENT: Cell = Ends(&[(1, FailedUnsent)], Connected);
const NO_REQUEST: Cell = Never("it answers a request, and none is made");
const NO_CONNECTION: Cell = Never("no TCP connection is open");

pub(crate) const FAULTS: [Fault; 11] = [
    Fault {
        name: "reset",
        code: "reset",
        cells: [
            UNSENT,
            NO_CONNECTION,
            Ends(&[(1, FailedAmbiguous)], Kept),
            Ends(&[(10, FailedAmbiguous)], Kept),
        ],
    },
    Fault {
        name: "refused",
        code: "refused",
        cells: [
            UNSENT,
            Ends(&[(1, Done)], Kept),
            Ends(&[(1, FailedUnsent)], Kept),
            Ends(&[(10, FailedUnsent)], Kept),
        ],
    },
    Fault {
        name: "401",
        code: "401",
        cells: [
            Ends(&[(1, Unauthorized)], Connected),
            NO_REQUEST,
            Ends(&[(1, Unauthorized)], Kept),
            Ends(&[(10, Unauthorized)], Kept),
        ],
    },
    Fault {
        name: "403",
        code: "403",
        cells: [
            Ends(&[(1, Unauthorized)], Connected),
            NO_REQUEST,
            Ends(&[(1, Unauthorized)], Kept),
            Ends(&[(10, Unauthorized)], Kept),
        ],
    },
    Fault {
        name: "408",
        code: "408",
        cells: [
            UNSENT,
            NO_REQUEST,
            Ends(&[(1, FailedAmbiguous)], Kept),
            Ends(&[(10, FailedAmbiguous)], Kept),
        ],
    },
    Fault {
        name: "429 with Retry-After",
        code: "429",
        cells: [
            Ends(&[(1, Throttled)], Connected),
            NO_REQUEST,
            Ends(&[(1, Throttled)], Kept),
            Ends(&[(10, Throttled)], Kept),
        ],
    },
    Fault {
        name: "500",
        code: "500",
        cells: [
            UNSENT,
            NO_REQUEST,
            Ends(&[(1, FailedAmbiguous)], Kept),
            Ends(&[(10, FailedAmbiguous)], Kept),
        ],
    },
    Fault {
        name: "503 with a JSON-RPC body",
        code: "503",
        cells: [
            UNSENT,
            NO_REQUEST,
            // All that is left of it is a JSON-RPC error, and a server that answers with one has
            // had the call.
            Ends(&[(1, FailedExecuted)], Kept),
            Ends(&[(10, FailedExecuted)], Kept),
        ],
    },
    Fault {
        name: "session 404",
        code: "404",
        cells: [
            Never("there is no session yet"),
            Ends(&[(1, Done)], Replaced),
            Ends(&[(1, Done)], Replaced),
            Ends(&[(10, Done)], Replaced),
        ],
    },
    Fault {
        name: "session 400, as the TypeScript SDK has it",
        code: "400",
        cells: [
            Never("there is no session yet"),
            NO_REQUEST,
            Ends(&[(1, Done)], Replaced),
            Ends(&[(10, Done)], Replaced),
        ],
    },
    Fault {
        name: "hang",
        code: "hang",
        cells: [
            UNSENT,
            NO_REQUEST,
            Ends(&[(1, FailedAmbiguous)], Kept),
            Ends(&[(10, FailedAmbiguous)], Kept),
        ],
    },
];

async fn walk(
    fault: &Fault,
    moment: Moment,
    ends: &[(usize, crate::cell::End)],
    recovery: Recovery,
) {
    let server = FaultyHttp::start();
    let hangs = fault.code == "hang";
    let hasty = hangs && moment == Moment::Connecting;
    let builder = McpService::builder(fault.code)
        .http(HttpServer::new(server.url()))
        .connect_timeout(if hasty { HANGS_FOR } else { PATIENCE });
    let call_timeout = if hangs { HANGS_FOR } else { PATIENCE };
    let subject = Subject::new(builder, call_timeout);
    if moment != Moment::Connecting {
        subject.call("echo", 0, PATIENCE).await.unwrap();
    }
    let calls = moment.calls();
    match (fault.code, moment) {
        ("refused", Moment::Idle) => {
            server.stop();
            server.start_again();
        }
        ("refused", _) => server.stop(),
        ("404", Moment::Idle) => server.forget_sessions(),
        (code, Moment::Connecting) => server.break_next(code, "initialize", calls),
        (code, _) => server.break_next(code, "tools/call", calls),
    }
    let seen = subject.calls(calls).await;
    fault.check(moment, ends, &seen);
    if fault.code == "refused" && moment != Moment::Idle {
        server.start_again();
    }
    // The calls that met the lost session have made another already.
    let starts = 1 + u64::from(recovery == Replaced);
    subject.recovers(starts, Kept).await;
    subject.leaves_nothing().await;
    until("its connections are closed", || {
        server.open_connections() == 0
    })
    .await;
}

async fn row(code: &str) {
    let fault = FAULTS.iter().find(|fault| fault.code == code).unwrap();
    for (moment, cell) in fault.moments() {
        if let Ends(ends, recovery) = cell {
            walk(fault, moment, ends, *recovery).await;
        }
    }
}

/// A test for each row, by its code. That all are here is tested with the page.
macro_rules! rows {
    ($($name:ident => $code:literal),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                row($code).await;
            }
        )*
        pub(crate) const TESTED: &[&str] = &[$($code),*];
    };
}

rows! {
    reset => "reset",
    refused => "refused",
    unauthorized => "401",
    forbidden => "403",
    request_timeout => "408",
    too_many_requests => "429",
    server_error => "500",
    overloaded_with_a_json_rpc_body => "503",
    session_lost => "404",
    session_not_valid => "400",
    hangs => "hang",
}
