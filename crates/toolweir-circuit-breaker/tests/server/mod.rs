//! A server whose every answer the test gives, and calls to it that are polled by hand.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::coop::{Unconstrained, unconstrained},
};
use toolweir_circuit_breaker::{
    Admission, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer,
    Observer,
};
use toolweir_core::{
    AsRejection, BoxError, CarryLease, Delivery, Lease, LeaseOwner, LeaseSlot, Observation,
    Outcome, Reason, Rejection,
};
use tower::{Layer, Service};

/// How the server answers a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Success,
    Failure,
    Throttled(Option<Duration>),
    Unauthorized,
    /// The caller's mistake, found before anything was sent.
    Ignored,
    /// The server worked, and answers that the caller made a mistake.
    BusinessError,
    /// A layer in front of the server refuses.
    Refused,
    Panic,
}

#[derive(Debug, Default)]
pub(crate) struct Job(LeaseSlot);

impl CarryLease for Job {
    fn put_lease(&mut self, lease: Lease) {
        self.0.put_lease(lease);
    }

    fn take_lease(&mut self, owner: &dyn LeaseOwner) -> Option<Lease> {
        self.0.take_lease(owner)
    }
}

/// Answers when the test says so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server(Arc<Mutex<Vec<oneshot::Sender<Answer>>>>);

/// Unconstrained, since a test may make many calls without a yield.
pub(crate) struct Reply(Unconstrained<oneshot::Receiver<Answer>>);

impl Future for Reply {
    type Output = Result<Answer, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| match answer? {
            Answer::Failure => Err("connection reset".into()),
            Answer::Refused => Err(Rejection::new("semaphore", Reason::QueueFull).into()),
            // As a panic does, without its message on the terminal.
            Answer::Panic => resume_unwind(Box::new("the server panics")),
            answer => Ok(answer),
        })
    }
}

impl Service<Job> for Server {
    type Response = Answer;
    type Error = BoxError;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Job) -> Reply {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap().push(sender);
        Reply(unconstrained(receiver))
    }
}

/// Where a request waits between admission and observation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue(Arc<Mutex<Option<Job>>>);

impl Service<Job> for Queue {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: Job) -> Self::Future {
        *self.0.lock().unwrap() = Some(job);
        std::future::ready(Ok(()))
    }
}

pub(crate) fn classify(result: Result<&Answer, &BoxError>) -> Observation {
    let outcome = match result {
        Ok(Answer::Throttled(retry_after)) => Outcome::Throttled {
            retry_after: *retry_after,
        },
        Ok(Answer::Unauthorized) => Outcome::Unauthorized,
        Ok(Answer::Ignored | Answer::BusinessError) => Outcome::Ignored,
        Ok(_) => Outcome::Success,
        Err(_) => Outcome::Failure,
    };
    let delivery = match result {
        Ok(Answer::Ignored) => Delivery::NotSent,
        _ => Delivery::Executed,
    };
    Observation::new(outcome, delivery)
}

pub(crate) type Classifier = fn(Result<&Answer, &BoxError>) -> Observation;

/// A call that has reached the server. Dropping it cancels it.
pub(crate) struct Call {
    future: Pin<Box<dyn Future<Output = Result<Answer, BoxError>>>>,
    reply: oneshot::Sender<Answer>,
}

impl Call {
    /// The server answers, and the caller sees it.
    pub(crate) fn answer(mut self, answer: Answer) {
        self.reply.send(answer).unwrap();
        let poll = AssertUnwindSafe(|| poll_once(self.future.as_mut()));
        match catch_unwind(poll) {
            Ok(Poll::Ready(_)) => assert_ne!(answer, Answer::Panic),
            Ok(Poll::Pending) => panic!("the call is answered"),
            Err(_) => assert_eq!(answer, Answer::Panic),
        }
    }
}

fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// A breaker, alone and in two halves, in front of one server.
pub(crate) struct Rig {
    server: Server,
    queue: Queue,
    whole: CircuitBreaker<Server, Classifier>,
    outer: Admission<Queue>,
    inner: Observer<Server, Classifier>,
    pub(crate) handle: CircuitBreakerHandle,
}

impl Rig {
    pub(crate) fn new(config: CircuitBreakerConfig) -> Self {
        let layer = CircuitBreakerLayer::new(config)
            .name("music")
            .with_classifier(classify as Classifier);
        let (server, queue) = (Server::default(), Queue::default());
        Self {
            whole: layer.layer(server.clone()),
            outer: layer.admission().layer(queue.clone()),
            inner: layer.observation().layer(server.clone()),
            handle: layer.handle(),
            server,
            queue,
        }
    }

    /// Makes a call through the whole breaker.
    pub(crate) fn call(&mut self) -> Result<Call, Rejection> {
        let future = self.whole.call(Job::default());
        self.reached(Box::pin(future))
    }

    /// Lets a request pass admission.
    pub(crate) fn admit(&mut self) -> Result<Job, Rejection> {
        let mut future = std::pin::pin!(self.outer.call(Job::default()));
        match poll_once(future.as_mut()) {
            Poll::Ready(Ok(())) => Ok(self.queue.0.lock().unwrap().take().unwrap()),
            Poll::Ready(Err(error)) => Err(error.as_rejection().unwrap().clone()),
            Poll::Pending => panic!("admission never waits"),
        }
    }

    /// Lets a request pass observation.
    pub(crate) fn dispatch(&mut self, job: Job) -> Result<Call, Rejection> {
        let future = self.inner.call(job);
        self.reached(Box::pin(future))
    }

    fn reached(
        &self,
        mut future: Pin<Box<dyn Future<Output = Result<Answer, BoxError>>>>,
    ) -> Result<Call, Rejection> {
        match poll_once(future.as_mut()) {
            Poll::Pending => {
                let reply = self.server.0.lock().unwrap().pop().unwrap();
                Ok(Call { future, reply })
            }
            Poll::Ready(Err(error)) => Err(error.as_rejection().unwrap().clone()),
            Poll::Ready(Ok(_)) => panic!("the server has not answered yet"),
        }
    }
}
