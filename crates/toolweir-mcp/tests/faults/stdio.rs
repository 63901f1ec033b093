//! The faults of a server that is a program.

use std::{fs, path::PathBuf, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use toolweir_mcp::{McpService, StdioServer};
use toolweir_testkit::mcp::example_program;

use crate::{
    cell::{
        Cell::{self, Ends, Never},
        End::{Done, FailedAmbiguous, FailedUnsent, Ignored},
        Fault, Moment,
        Recovery::{self, Connected, Continued, Kept, Replaced, Restarted},
    },
    subject::{PATIENCE, Subject, until},
};

/// What a call, or a connect, may take that the server leaves hanging.
const HANGS_FOR: Duration = Duration::from_secs(1);
const MAX_RESPONSE_BYTES: usize = 50_000;

const UNSENT: Cell = Ends(&[(1, FailedUnsent)], Connected);
const LOST_WHILE_IDLE: Cell = Ends(&[(1, Done)], Replaced);
const LOST: Cell = Ends(&[(1, FailedAmbiguous)], Replaced);
const TEN_LOST: Cell = Ends(&[(10, FailedAmbiguous)], Replaced);
const WELL: Cell = Ends(&[(1, Done)], Kept);
const TEN_WELL: Cell = Ends(&[(10, Done)], Kept);
const BANNER: Cell = Never("a banner comes before the protocol");
const VERSION: Cell = Never("the version is settled while connecting");

pub(crate) const FAULTS: [Fault; 10] = [
    Fault {
        name: "kill -9",
        code: "kill",
        cells: [UNSENT, LOST_WHILE_IDLE, LOST, TEN_LOST],
    },
    Fault {
        name: "SIGSTOP",
        code: "stop",
        cells: [
            UNSENT,
            Ends(&[(1, FailedAmbiguous)], Continued),
            Ends(&[(1, FailedAmbiguous)], Continued),
            Ends(&[(10, FailedAmbiguous)], Continued),
        ],
    },
    Fault {
        name: "SIGSTOP for good",
        code: "stop-for-good",
        cells: [
            UNSENT,
            Ends(&[(1, FailedAmbiguous)], Restarted),
            Ends(&[(1, FailedAmbiguous)], Restarted),
            Ends(&[(10, FailedAmbiguous)], Restarted),
        ],
    },
    Fault {
        name: "closes stdout",
        code: "close",
        cells: [UNSENT, LOST_WHILE_IDLE, LOST, TEN_LOST],
    },
    Fault {
        name: "garbage on stdout",
        code: "garbage",
        cells: [WELL, WELL, WELL, TEN_WELL],
    },
    Fault {
        name: "banner first",
        code: "banner",
        cells: [WELL, BANNER, BANNER, BANNER],
    },
    Fault {
        name: "half a message",
        code: "half",
        cells: [
            UNSENT,
            // The other half is the next answer, and the line with both in it is none.
            Ends(&[(1, FailedAmbiguous)], Kept),
            Ends(&[(1, FailedAmbiguous)], Restarted),
            Ends(&[(2, FailedAmbiguous), (8, Done)], Kept),
        ],
    },
    Fault {
        name: "a message over the limit",
        code: "large",
        cells: [
            UNSENT,
            WELL,
            Ends(&[(1, Ignored)], Kept),
            Ends(&[(1, Ignored), (9, Done)], Kept),
        ],
    },
    Fault {
        name: "exits 0",
        code: "exit",
        cells: [UNSENT, LOST_WHILE_IDLE, LOST, TEN_LOST],
    },
    Fault {
        name: "wrong protocol version",
        code: "version",
        cells: [UNSENT, VERSION, VERSION, VERSION],
    },
];

/// Whether the server says no more until somebody helps, so that calls end by their time.
fn hangs(fault: &Fault) -> bool {
    matches!(fault.code, "stop" | "stop-for-good" | "half")
}

struct Faulty {
    subject: Subject,
    marker: PathBuf,
    _directory: TempDir,
}

impl Faulty {
    fn new(fault: &Fault, moment: Moment) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let marker = directory.path().join("broken");
        let at = match moment {
            Moment::Connecting => "connecting".to_owned(),
            Moment::Idle => "idle".to_owned(),
            Moment::OneCall | Moment::TenCalls => format!("calls:{}", moment.calls()),
        };
        let server = StdioServer::new(example_program("faulty_server"))
            .args([fault.code, &at])
            .arg(&marker);
        let hasty = moment == Moment::Connecting && hangs(fault);
        let builder = McpService::builder(fault.code)
            .stdio(server)
            .max_response_bytes(MAX_RESPONSE_BYTES)
            .connect_timeout(if hasty { HANGS_FOR } else { PATIENCE });
        let call_timeout = if hangs(fault) { HANGS_FOR } else { PATIENCE };
        Self {
            subject: Subject::new(builder, call_timeout),
            marker,
            _directory: directory,
        }
    }

    fn process(&self) -> Option<Pid> {
        let process = self.subject.handle.state().process_id?;
        Some(Pid::from_raw(process.try_into().unwrap()))
    }

    /// The process that the fault has struck.
    fn struck(&self) -> Pid {
        let process = fs::read_to_string(&self.marker).unwrap();
        Pid::from_raw(process.parse().unwrap())
    }

    /// Lets the fault strike while nobody calls, and waits until it has.
    async fn strike_idle(&self, recovery: Recovery) {
        let told = self.subject.call("break", 1, PATIENCE).await;
        told.unwrap();
        until("the fault has struck", || self.marker.exists()).await;
        if recovery == Replaced {
            let handle = &self.subject.handle;
            until("the loss is seen", || !handle.state().connected).await;
        }
    }

    async fn recovers(&self, starts: u64, recovery: Recovery) {
        match recovery {
            Continued => kill(self.process().unwrap(), Signal::SIGCONT).unwrap(),
            Restarted => self.subject.handle.restart(Duration::from_secs(2)).await,
            Kept | Connected | Replaced => {}
        }
        self.subject.recovers(starts, recovery).await;
    }
}

async fn walk(
    fault: &Fault,
    moment: Moment,
    ends: &[(usize, crate::cell::End)],
    recovery: Recovery,
) {
    let faulty = Faulty::new(fault, moment);
    let mut starts = 1;
    match moment {
        // Whether it comes up after all, or another time: one connection is made.
        Moment::Connecting => {}
        Moment::Idle => {
            faulty.subject.call("echo", 0, PATIENCE).await.unwrap();
            faulty.strike_idle(recovery).await;
        }
        Moment::OneCall | Moment::TenCalls => faulty.subject.handle.connect().await.unwrap(),
    }
    let seen = faulty.subject.calls(moment.calls()).await;
    fault.check(moment, ends, &seen);
    // The call after a loss while idle has been served by the next connection already.
    if moment == Moment::Idle && recovery == Replaced {
        starts = 2;
        faulty.recovers(starts, Kept).await;
    } else {
        faulty.recovers(starts, recovery).await;
    }
    let struck = faulty.struck();
    let last = faulty.process().unwrap();
    let another = matches!(recovery, Connected | Replaced | Restarted);
    assert_eq!(struck != last, another, "{recovery:?}");
    faulty.subject.leaves_nothing().await;
    for process in [struck, last] {
        assert_eq!(kill(process, None), Err(Errno::ESRCH), "{process} is left");
    }
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
    killed => "kill",
    stopped => "stop",
    stopped_for_good => "stop-for-good",
    closes_stdout => "close",
    garbage => "garbage",
    banner => "banner",
    half_a_message => "half",
    over_the_limit => "large",
    exits => "exit",
    wrong_version => "version",
}
