//! What every layer, service and handle of one semaphore shares, and the guards that it gives out.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    SemaphoreConfig,
    state::{Entry, Figures, Left, Permits, Place},
};

#[derive(Debug)]
pub(crate) struct Shared {
    permits: Mutex<Permits>,
    config: SemaphoreConfig,
}

/// What a call gets that could not have a permit at once.
pub(crate) enum Entered {
    Permit(Permit),
    Queue(InQueue),
    QueueFull(Figures),
}

impl Shared {
    pub(crate) fn new(config: SemaphoreConfig) -> Self {
        Self {
            permits: Mutex::new(Permits::new(config.permits, config.max_queue)),
            config,
        }
    }

    pub(crate) const fn max_wait(&self) -> Duration {
        self.config.max_wait
    }

    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.lock().try_acquire().then(|| Permit(self.clone()))
    }

    pub(crate) fn enter(self: &Arc<Self>, now: Instant) -> Entered {
        let mut permits = self.lock();
        match permits.enter(now) {
            Entry::Permit => Entered::Permit(Permit(self.clone())),
            Entry::Place(place) => Entered::Queue(InQueue {
                shared: self.clone(),
                place: Some(place),
            }),
            Entry::QueueFull => {
                permits.reject();
                Entered::QueueFull(permits.figures())
            }
        }
    }

    pub(crate) fn resize(&self, permits: usize) {
        let wakers = self.lock().resize(permits);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Counts a refused call.
    pub(crate) fn reject(&self) -> Figures {
        let mut permits = self.lock();
        permits.reject();
        permits.figures()
    }

    pub(crate) fn figures(&self) -> Figures {
        self.lock().figures()
    }

    fn release(&self) {
        let next = self.lock().release();
        wake(next);
    }

    fn leave(&self, place: Place) {
        let left = self.lock().leave(place);
        match left {
            Left::Waiting(own) => drop(own),
            Left::Permit(next) => wake(next),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Permits> {
        // No foreign code runs under the lock, so a poisoned state is a whole one.
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The leave to make one call. Dropped, it goes to the next in the queue.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A place in the queue. Dropped, it is free, and so is the permit that may have come meanwhile.
#[derive(Debug)]
pub(crate) struct InQueue {
    shared: Arc<Shared>,
    /// `None` once its permit has been handed out.
    place: Option<Place>,
}

impl InQueue {
    /// The permit, when it comes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Permit> {
        let Some(place) = self.place else {
            return Poll::Pending;
        };
        // Wakers are foreign code: they are cloned before the lock is taken, and dropped after.
        let mut waker = Some(cx.waker().clone());
        if !self.shared.lock().has_come(place, &mut waker) {
            return Poll::Pending;
        }
        self.place = None;
        Poll::Ready(Permit(self.shared.clone()))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for InQueue {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.shared.leave(place);
        }
    }
}
