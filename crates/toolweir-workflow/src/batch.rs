//! Several calls at once, but not all.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Runs `calls` with at most `limit` of them at once, and returns their results in order.
///
/// It polls them in their order with the workflow's own waker, so it is deterministic on replay.
/// (`futures::join_all` is not fit for workflows: it makes wakers of its own.)
///
/// A `limit` of zero counts as one.
pub fn batch<I>(limit: usize, calls: I) -> Batch<I::IntoIter, I::Item>
where
    I: IntoIterator<Item: Future>,
{
    Batch {
        waiting: calls.into_iter(),
        limit: limit.max(1),
        running: Vec::new(),
        results: Vec::new(),
    }
}

/// The future of [`batch`].
#[must_use = "futures do nothing unless polled"]
pub struct Batch<I, F: Future> {
    waiting: I,
    limit: usize,
    running: Vec<(usize, Pin<Box<F>>)>,
    // One place for each call that was started; empty while it runs.
    results: Vec<Option<F::Output>>,
}

impl<I, F: Future> std::fmt::Debug for Batch<I, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("limit", &self.limit)
            .field("running", &self.running.len())
            .field("started", &self.results.len())
            .finish_non_exhaustive()
    }
}

// The running calls are pinned in their boxes; nothing else is ever pinned.
impl<I, F: Future> Unpin for Batch<I, F> {}

impl<I, F> Batch<I, F>
where
    I: Iterator<Item = F>,
    F: Future,
{
    fn start_waiting(&mut self) {
        while self.running.len() < self.limit {
            let Some(call) = self.waiting.next() else {
                break;
            };
            self.running.push((self.results.len(), Box::pin(call)));
            self.results.push(None);
        }
    }

    fn poll_running(&mut self, cx: &mut Context<'_>) {
        let results = &mut self.results;
        self.running
            .retain_mut(|(at, call)| match call.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    results[*at] = Some(result);
                    false
                }
                Poll::Pending => true,
            });
    }
}

impl<I, F> Future for Batch<I, F>
where
    I: Iterator<Item = F>,
    F: Future,
{
    type Output = Vec<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            this.start_waiting();
            if this.running.is_empty() {
                return Poll::Ready(this.results.drain(..).flatten().collect());
            }
            let before = this.running.len();
            this.poll_running(cx);
            if this.running.len() == before {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
        task::Waker,
    };

    use super::*;

    /// A call that ends when its turn is given.
    struct Call {
        number: usize,
        turn: Rc<RefCell<Vec<usize>>>,
        running: Rc<Cell<usize>>,
        started: bool,
    }

    impl Future for Call {
        type Output = usize;

        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<usize> {
            if !self.started {
                self.started = true;
                self.running.set(self.running.get() + 1);
            }
            if self.turn.borrow().contains(&self.number) {
                self.running.set(self.running.get() - 1);
                return Poll::Ready(self.number * 10);
            }
            Poll::Pending
        }
    }

    #[test]
    fn at_most_the_limit_runs_and_results_keep_their_order() {
        let turn = Rc::new(RefCell::new(Vec::new()));
        let running = Rc::new(Cell::new(0));
        let calls = (0..5).map(|number| Call {
            number,
            turn: turn.clone(),
            running: running.clone(),
            started: false,
        });
        let mut all = batch(2, calls);
        let mut cx = Context::from_waker(Waker::noop());
        // The second ends before the first: the third takes its place.
        for ends in [1, 2, 0, 4] {
            assert!(Pin::new(&mut all).poll(&mut cx).is_pending());
            assert_eq!(running.get(), 2);
            turn.borrow_mut().push(ends);
        }
        turn.borrow_mut().push(3);
        assert_eq!(
            Pin::new(&mut all).poll(&mut cx),
            Poll::Ready(vec![0, 10, 20, 30, 40])
        );
    }

    #[test]
    fn no_calls_are_done_at_once() {
        let mut all = batch(4, Vec::<std::future::Ready<()>>::new());
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(Pin::new(&mut all).poll(&mut cx), Poll::Ready(vec![]));
    }
}
