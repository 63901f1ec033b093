//! The faults of a server over HTTP whose answers are event streams, while it works on them.

use std::{iter::repeat_n, time::Duration};

use toolweir_mcp::{HttpServer, McpService};
use toolweir_testkit::mcp::{Answer, HttpFault, HttpScriptedServer, Posts, ScriptedServer};

use crate::{
    cell::{
        Cell::{self, Ends, Never},
        End::{self, Done, FailedAmbiguous},
        Fault, Moment,
        Recovery::{self, Kept, Replaced},
    },
    subject::{PATIENCE, Subject},
};

/// Beyond what a call is waited for here: it must end because of the fault, and not by its time.
const NO_END: Duration = Duration::from_secs(600);
/// How long the server works on what it answers after all.
const WORKS_FOR_MS: u64 = 300;
/// As long as to outlive a connection that is given up: one that is gets a second to finish its calls.
const WORKS_ON_FOR_MS: u64 = 1500;

const HANDSHAKE: Cell = Never("a handshake is one request, as above");

pub(crate) const FAULTS: [Fault; 4] = [
    Fault {
        name: "streams reset, which can be resumed",
        code: "resumed",
        cells: [
            HANDSHAKE,
            Ends(&[(1, Done)], Kept),
            Ends(&[(1, Done)], Kept),
            Ends(&[(10, Done)], Kept),
        ],
    },
    Fault {
        name: "one stream reset for good",
        code: "broken",
        cells: [
            HANDSHAKE,
            Ends(&[(1, Done)], Kept),
            Ends(&[(1, FailedAmbiguous)], Kept),
            Ends(&[(1, FailedAmbiguous), (9, Done)], Kept),
        ],
    },
    Fault {
        name: "killed and started again",
        code: "restarted",
        cells: [
            HANDSHAKE,
            Ends(&[(1, Done)], Replaced),
            Ends(&[(1, FailedAmbiguous)], Replaced),
            Ends(&[(10, FailedAmbiguous)], Replaced),
        ],
    },
    Fault {
        name: "the same, without sessions (2026-07-28)",
        code: "sessionless",
        cells: [
            HANDSHAKE,
            Ends(&[(1, Done)], Kept),
            Ends(&[(1, FailedAmbiguous)], Kept),
            Ends(&[(10, FailedAmbiguous)], Kept),
        ],
    },
];

fn restarts(code: &str) -> bool {
    matches!(code, "restarted" | "sessionless")
}

async fn strike(code: &str, http: &HttpScriptedServer) {
    if restarts(code) {
        http.stop().await;
        http.start_again().unwrap();
    } else {
        http.reset_connections();
    }
}

/// What the server does with the calls that meet the fault.
fn prepare(code: &str, moment: Moment, server: &ScriptedServer, http: &HttpScriptedServer) {
    let answer = match code {
        code if restarts(code) => Answer::Hang,
        "broken" => Answer::Slow {
            ms: WORKS_ON_FOR_MS,
        },
        _ => Answer::Slow { ms: WORKS_FOR_MS },
    };
    server.script(repeat_n(answer, moment.calls()));
    if code == "broken" {
        http.fault(Posts::next_calls(1), HttpFault::Break);
    }
}

async fn walk(fault: &Fault, moment: Moment, ends: &[(usize, End)], recovery: Recovery) {
    let server = ScriptedServer::new();
    if fault.code == "sessionless" {
        server.speaks_only("2026-07-28");
    }
    let http = server.serve_http().unwrap();
    http.resumes(fault.code != "broken");
    let builder = McpService::builder(fault.code).http(HttpServer::new(http.url()));
    let subject = Subject::new(builder, NO_END);
    subject.call("echo", 0, PATIENCE).await.unwrap();
    let calls = moment.calls();
    let (seen, starts, recovery) = if moment == Moment::Idle {
        strike(fault.code, &http).await;
        let seen = subject.calls(calls).await;
        // The call that met the loss has made another connection already.
        (seen, 1 + u64::from(recovery == Replaced), Kept)
    } else {
        prepare(fault.code, moment, &server, &http);
        let under_way = u64::try_from(calls).unwrap();
        let strikes = async {
            server.wait_for(|stats| stats.in_flight == under_way).await;
            if fault.code != "broken" {
                strike(fault.code, &http).await;
            }
        };
        let (seen, ()) = tokio::join!(subject.calls(calls), strikes);
        (seen, 1, recovery)
    };
    fault.check(moment, ends, &seen);
    subject.recovers(starts, recovery).await;
    subject.leaves_nothing().await;
    server
        .wait_for(|stats| stats.in_flight + stats.open_connections == 0)
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
    resumed => "resumed",
    broken => "broken",
    restarted => "restarted",
    sessionless => "sessionless",
}
