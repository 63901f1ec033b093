//! A server whose every answer the test gives, and calls to it that are polled by hand.

use std::{
    future::Future,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::coop::{Unconstrained, unconstrained},
    time::Instant,
};
use toolweir_core::{
    AsRejection, BoxError, Delivery, Facts, Observation, Outcome, Reason, Rejection,
};
use toolweir_rate_limit::{RateLimit, RateLimitConfig, RateLimitHandle, RateLimitLayer};
use tower::{Layer, Service};

/// A call with a number of its own.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) number: usize,
    pub(crate) cost: NonZeroU32,
    pub(crate) deadline: Option<Instant>,
    pub(crate) id: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct JobFacts;

impl Facts<Job> for JobFacts {
    fn deadline(&self, job: &Job) -> Option<Instant> {
        job.deadline
    }

    fn call_id<'r>(&self, job: &'r Job) -> Option<&'r str> {
        job.id.as_deref()
    }

    fn cost(&self, job: &Job) -> NonZeroU32 {
        job.cost
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Throttled(Option<Duration>),
    /// It fails, and this is known of what the server has done.
    Fail(Delivery),
    /// A layer in front of the server refuses.
    Refuse,
    Panic,
}

/// What the clones of one server share.
#[derive(Debug, Default)]
struct Desk {
    closed: bool,
    wakers: Vec<Waker>,
    readied: usize,
    calls: Vec<(usize, oneshot::Sender<Answer>)>,
}

/// Answers when the test says so. It counts the instances that are readied, and panics if one is
/// called that is not.
#[derive(Debug, Default)]
pub(crate) struct Server {
    desk: Arc<Mutex<Desk>>,
    is_readied: bool,
}

impl Server {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap()
    }

    /// From now on it is not ready, until it is opened.
    pub(crate) fn close(&self) {
        self.desk().closed = true;
    }

    pub(crate) fn open(&self) {
        self.desk().closed = false;
        let wakers = std::mem::take(&mut self.desk().wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// How many instances are readied and neither called nor dropped.
    pub(crate) fn readied(&self) -> usize {
        self.desk().readied
    }

    /// The numbers of the calls under way, in the order in which they came.
    pub(crate) fn calls(&self) -> Vec<usize> {
        self.desk().calls.iter().map(|call| call.0).collect()
    }

    /// Answers one of them.
    pub(crate) fn answer(&self, number: usize, answer: Answer) {
        let mut desk = self.desk();
        let at = desk.calls.iter().position(|call| call.0 == number).unwrap();
        desk.calls.remove(at).1.send(answer).unwrap();
    }

    /// Forgets the calls that their callers have cancelled.
    pub(crate) fn forget_cancelled(&self) {
        self.desk().calls.retain(|call| !call.1.is_closed());
    }

    fn unready(&mut self) -> bool {
        let was_readied = std::mem::take(&mut self.is_readied);
        self.desk().readied -= usize::from(was_readied);
        was_readied
    }
}

impl Clone for Server {
    fn clone(&self) -> Self {
        Self {
            desk: self.desk.clone(),
            is_readied: false,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.unready();
    }
}

impl Service<Job> for Server {
    type Response = Answer;
    type Error = BoxError;
    type Future = Reply;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut desk = self.desk.lock().unwrap();
        if desk.closed {
            desk.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        desk.readied += usize::from(!self.is_readied);
        self.is_readied = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: Job) -> Reply {
        assert!(self.unready(), "a service is called that was not readied");
        let (sender, receiver) = oneshot::channel();
        self.desk().calls.push((job.number, sender));
        Reply(unconstrained(receiver))
    }
}

/// Unconstrained, since a test may make many calls without a yield.
pub(crate) struct Reply(Unconstrained<oneshot::Receiver<Answer>>);

impl Future for Reply {
    type Output = Result<Answer, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| match answer? {
            Answer::Fail(Delivery::Executed) => Err("internal error".into()),
            Answer::Fail(_) => Err(LOST.into()),
            Answer::Refuse => Err(Rejection::new("inner-layer", Reason::QueueFull).into()),
            // As a panic does, without its message on the terminal.
            Answer::Panic => resume_unwind(Box::new("the server panics")),
            answer => Ok(answer),
        })
    }
}

const LOST: &str = "connection reset";

fn classify(result: Result<&Answer, &BoxError>) -> Observation {
    let lost = result.is_err_and(|error| error.to_string() == LOST);
    let delivery = if lost {
        Delivery::Ambiguous
    } else {
        Delivery::Executed
    };
    let outcome = match result {
        Ok(Answer::Throttled(retry_after)) => Outcome::Throttled {
            retry_after: *retry_after,
        },
        Ok(_) => Outcome::Success,
        // An inner layer's refusal is never asked about; if it were, it would pause everything.
        Err(error) if error.as_rejection().is_some() => Outcome::Throttled { retry_after: None },
        Err(_) => Outcome::Failure,
    };
    Observation::new(outcome, delivery)
}

type Classifier = fn(Result<&Answer, &BoxError>) -> Observation;

#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What a poll of a call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    Pending,
    Answered(Answer),
    Refused(Rejection),
    Failed(String),
    Panicked,
}

impl Progress {
    /// Why it was refused, and when to come back.
    pub(crate) fn refusal(&self) -> Option<(Reason, Option<Duration>)> {
        match self {
            Self::Refused(rejection) => Some((rejection.reason(), rejection.retry_after())),
            _ => None,
        }
    }
}

pub(crate) struct Call {
    future: Pin<Box<dyn Future<Output = Result<Answer, BoxError>>>>,
    wakes: Arc<Wakes>,
}

impl Call {
    pub(crate) fn poll(&mut self) -> Progress {
        let waker = Waker::from(self.wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let poll = AssertUnwindSafe(|| self.future.as_mut().poll(&mut cx));
        let Ok(poll) = catch_unwind(poll) else {
            return Progress::Panicked;
        };
        match poll {
            Poll::Pending => Progress::Pending,
            Poll::Ready(Ok(answer)) => Progress::Answered(answer),
            Poll::Ready(Err(error)) => match error.as_rejection() {
                Some(rejection) => Progress::Refused(rejection.clone()),
                None => Progress::Failed(error.to_string()),
            },
        }
    }

    /// How many times it was woken so far.
    pub(crate) fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }
}

/// A rate limit in front of a server.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) service: RateLimit<Server, Classifier, JobFacts>,
    pub(crate) handle: RateLimitHandle,
}

impl Rig {
    pub(crate) fn new(config: RateLimitConfig) -> Self {
        let layer = RateLimitLayer::new(config)
            .name("music")
            .with_classifier(classify as Classifier)
            .with_facts(JobFacts);
        let server = Server::default();
        Self {
            service: layer.layer(server.clone()),
            handle: layer.handle(),
            server,
        }
    }

    /// Readies the service and calls it. The call is not polled yet.
    pub(crate) fn call(&mut self, number: usize, cost: u32, deadline: Option<Instant>) -> Call {
        self.call_as(None, number, cost, deadline)
    }

    /// The same, with an identity.
    pub(crate) fn call_as(
        &mut self,
        id: Option<&str>,
        number: usize,
        cost: u32,
        deadline: Option<Instant>,
    ) -> Call {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(self.service.poll_ready(&mut cx).is_ready());
        let job = Job {
            number,
            cost: NonZeroU32::new(cost).unwrap(),
            deadline,
            id: id.map(str::to_owned),
        };
        Call {
            future: Box::pin(self.service.call(job)),
            wakes: Arc::default(),
        }
    }
}
