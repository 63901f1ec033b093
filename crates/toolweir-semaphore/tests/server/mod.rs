//! A server whose every answer the test gives, and calls to it that are polled by hand.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::{
    sync::oneshot,
    task::coop::{Unconstrained, unconstrained},
    time::Instant,
};
use toolweir_core::{AsRejection, BoxError, Facts, Reason, Rejection};
use toolweir_semaphore::{Semaphore, SemaphoreConfig, SemaphoreHandle, SemaphoreLayer};
use tower::{Layer, Service};

/// A key, for short.
pub(crate) type Key = Option<&'static str>;

/// A call with a number of its own.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) number: usize,
    pub(crate) key: Key,
    pub(crate) deadline: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(crate) struct JobFacts;

impl Facts<Job> for JobFacts {
    fn deadline(&self, job: &Job) -> Option<Instant> {
        job.deadline
    }

    fn key<'r>(&self, job: &'r Job) -> Option<&'r str> {
        job.key
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Fail,
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
    type Response = usize;
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
        Reply(job.number, unconstrained(receiver))
    }
}

/// Unconstrained, since a test may make many calls without a yield.
pub(crate) struct Reply(usize, Unconstrained<oneshot::Receiver<Answer>>);

impl Future for Reply {
    type Output = Result<usize, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.1).poll(cx).map(|answer| match answer? {
            Answer::Done => Ok(self.0),
            Answer::Fail => Err("connection reset".into()),
            // As a panic does, without its message on the terminal.
            Answer::Panic => resume_unwind(Box::new("the server panics")),
        })
    }
}

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
    Done(usize),
    Refused(Reason),
    Failed(String),
    Panicked,
}

pub(crate) struct Call {
    future: Pin<Box<dyn Future<Output = Result<usize, BoxError>>>>,
    wakes: Arc<Wakes>,
    rejection: Option<Rejection>,
}

impl Call {
    pub(crate) fn poll(&mut self) -> Progress {
        self.poll_with(&Waker::from(self.wakes.clone()))
    }

    /// The same, with another waker than the one whose wakes are counted.
    pub(crate) fn poll_with(&mut self, waker: &Waker) -> Progress {
        let mut cx = Context::from_waker(waker);
        let poll = AssertUnwindSafe(|| self.future.as_mut().poll(&mut cx));
        let Ok(poll) = catch_unwind(poll) else {
            return Progress::Panicked;
        };
        match poll {
            Poll::Pending => Progress::Pending,
            Poll::Ready(Ok(number)) => Progress::Done(number),
            Poll::Ready(Err(error)) => match error.as_rejection() {
                Some(rejection) => {
                    self.rejection = Some(rejection.clone());
                    Progress::Refused(rejection.reason())
                }
                None => Progress::Failed(error.to_string()),
            },
        }
    }

    /// How it was refused, if it was.
    pub(crate) const fn rejection(&self) -> Option<&Rejection> {
        self.rejection.as_ref()
    }

    /// How many times it was woken so far.
    pub(crate) fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }
}

/// A semaphore in front of a server. The calls are those of the keys that they have.
pub(crate) struct Rig {
    pub(crate) server: Server,
    pub(crate) layer: SemaphoreLayer<JobFacts>,
    pub(crate) service: Semaphore<Server, JobFacts>,
    pub(crate) handle: SemaphoreHandle,
}

impl Rig {
    pub(crate) fn new(config: SemaphoreConfig) -> Self {
        let layer = SemaphoreLayer::new(config)
            .name("music")
            .with_facts(JobFacts)
            .by_key();
        let server = Server::default();
        Self {
            service: layer.layer(server.clone()),
            handle: layer.handle(),
            layer,
            server,
        }
    }

    /// Readies the service and calls it. The call is not polled yet. The layer reads its key.
    pub(crate) fn call_of(&mut self, key: Key, number: usize, deadline: Option<Instant>) -> Call {
        let job = Job {
            number,
            key,
            deadline,
        };
        call(&mut self.service, job)
    }

    /// A call of a key that its layer is bound to, and that it does not have itself.
    pub(crate) fn call_bound(
        &mut self,
        key: &'static str,
        number: usize,
        deadline: Option<Instant>,
    ) -> Call {
        let layer = self.layer.clone().for_key(key);
        let job = Job {
            number,
            key: None,
            deadline,
        };
        call(&mut layer.layer(self.server.clone()), job)
    }
}

fn call(service: &mut Semaphore<Server, JobFacts>, job: Job) -> Call {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    Call {
        future: Box::pin(service.call(job)),
        wakes: Arc::default(),
        rejection: None,
    }
}
