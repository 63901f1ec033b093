//! A semaphore that keeps everything in plain lists, and looks all of it up each time.
//!
//! Times are in milliseconds.

use toolweir_core::Reason;

use crate::server::{Key, Progress};

const NANOS: u64 = 1_000_000;
const HOUR: u64 = 3_600_000 * NANOS;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    pub(crate) permits: usize,
    pub(crate) max_queue: usize,
    pub(crate) max_wait: u64,
    pub(crate) max_per_key: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Queued,
    PushedOut,
    /// It has a permit, and has not reached the server.
    Admitted,
    AtServer,
    /// At once. With the estimate in nanoseconds.
    Refused(Reason, Option<u64>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) number: usize,
    pub(crate) key: Key,
    pub(crate) stage: Stage,
    since: u64,
    pub(crate) until: u64,
    deadline: Option<u64>,
    /// Whether it has been polled in the queue, and so is to be woken.
    pub(crate) polled: bool,
    /// Whether its permit is counted for its key.
    counted: bool,
    /// Since when it has its permit, if that is measured.
    held: Option<u64>,
}

/// Every call whose future is alive, in the order in which they were made.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) numbers: Numbers,
    pub(crate) now: u64,
    pub(crate) closed: bool,
    pub(crate) entries: Vec<Entry>,
    /// In the order in which they came there.
    pub(crate) at_server: Vec<usize>,
    /// All holds that were ever measured, in nanoseconds, and when the last one ended.
    holds: Vec<u64>,
    last_hold: u64,
    last_taken: Option<u64>,
    /// When each key last took a permit that is counted for it.
    taken: Vec<(Key, u64)>,
    /// Whose turn it is among equals: the first.
    turns: Vec<Key>,
    /// The keys that wait or run, in the order in which they came.
    pub(crate) known: Vec<Key>,
    pub(crate) peak_in_flight: usize,
    pub(crate) peak_queued: usize,
    pub(crate) peaks_since: u64,
    pub(crate) admitted: u64,
    pub(crate) rejected: u64,
    pub(crate) pushed_out: u64,
}

impl Model {
    pub(crate) fn new(numbers: Numbers) -> Self {
        Self {
            numbers,
            now: 0,
            closed: false,
            entries: Vec::new(),
            at_server: Vec::new(),
            holds: Vec::new(),
            last_hold: 0,
            last_taken: None,
            taken: Vec::new(),
            turns: Vec::new(),
            known: Vec::new(),
            peak_in_flight: 0,
            peak_queued: 0,
            peaks_since: 0,
            admitted: 0,
            rejected: 0,
            pushed_out: 0,
        }
    }

    fn count(&self, of: impl Fn(&Entry) -> bool) -> usize {
        self.entries.iter().filter(|entry| of(entry)).count()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.count(Entry::has_permit)
    }

    pub(crate) fn queued(&self) -> usize {
        self.count(|entry| entry.stage == Stage::Queued)
    }

    pub(crate) fn queued_of(&self, key: Key) -> usize {
        self.count(|entry| entry.key == key && entry.stage == Stage::Queued)
    }

    pub(crate) fn running_of(&self, key: Key) -> usize {
        self.count(|entry| entry.key == key && entry.has_permit() && entry.counted)
    }

    fn is_capped(&self, key: Key) -> bool {
        let most = self.numbers.max_per_key;
        most.is_some_and(|most| self.running_of(key) >= most)
    }

    fn has_permit_for(&self, key: Key) -> bool {
        self.in_flight() < self.numbers.permits && !self.is_capped(key)
    }

    fn move_to_the_end(&mut self, key: Key) {
        self.turns.retain(|other| *other != key);
        self.turns.push(key);
    }

    /// Which call is next: of the key with the fewest under way, then of the key whose turn it is.
    fn next(&self) -> Option<usize> {
        let waits = |key: &&Key| self.queued_of(**key) > 0 && !self.is_capped(**key);
        let keys = self.turns.iter().filter(waits);
        let key = *keys.min_by_key(|key| self.running_of(**key))?;
        let of = |entry: &Entry| entry.key == key && entry.stage == Stage::Queued;
        self.entries.iter().position(of)
    }

    fn serve(&mut self, at: usize) {
        let key = self.entries[at].key;
        self.entries[at].stage = Stage::Admitted;
        self.entries[at].counted = true;
        self.entries[at].held = Some(self.now);
        self.take(key, true);
        self.move_to_the_end(key);
    }

    fn take(&mut self, key: Key, counted: bool) {
        self.admitted += 1;
        self.last_taken = Some(self.now);
        if counted {
            self.taken.retain(|(other, _)| *other != key);
            self.taken.push((key, self.now));
        }
    }

    /// Gives out free permits, one after the other, and forgets keys.
    pub(crate) fn settle(&mut self) {
        while self.in_flight() < self.numbers.permits
            && let Some(next) = self.next()
        {
            self.serve(next);
        }
        self.peak_in_flight = self.peak_in_flight.max(self.in_flight());
        self.peak_queued = self.peak_queued.max(self.queued());
        let known = std::mem::take(&mut self.known);
        let alive = |key: &Key| self.queued_of(*key) + self.running_of(*key) > 0;
        self.known = known.into_iter().filter(alive).collect();
    }

    pub(crate) fn call(&mut self, number: usize, key: Key, deadline: Option<u64>) {
        let deadline = deadline.map(|wait| self.now + wait);
        let patience = self.now + self.numbers.max_wait;
        let mut entry = Entry {
            number,
            key,
            stage: Stage::Queued,
            since: self.now,
            until: deadline.map_or(patience, |deadline| deadline.min(patience)),
            deadline,
            polled: false,
            counted: false,
            held: None,
        };
        if self.has_permit_for(key) {
            // It reaches the server in the call itself.
            entry.stage = Stage::AtServer;
            self.at_server.push(number);
            self.admit(&mut entry);
        } else if let Some(reason) = self.refuses(&entry) {
            entry.stage = Stage::Refused(reason, self.estimate(key));
            self.rejected += 1;
        } else {
            if self.queued_of(key) == 0 {
                self.move_to_the_end(key);
            }
            self.know(key);
        }
        self.entries.push(entry);
        self.settle();
    }

    fn admit(&mut self, entry: &mut Entry) {
        if self.numbers.max_per_key.is_some() {
            entry.counted = true;
            entry.held = Some(self.now);
            self.take(entry.key, true);
            self.know(entry.key);
            return;
        }
        let is_last = self.in_flight() + 1 == self.numbers.permits;
        let before = self.last_taken;
        if self.holds.len() < 32 || self.admitted.is_multiple_of(127) {
            entry.held = Some(self.now);
        }
        self.take(entry.key, false);
        // It matters where permits are held for a millisecond and longer.
        if !is_last || self.moving().is_none_or(|(mean, _)| mean < NANOS) {
            self.last_taken = before;
        }
    }

    fn know(&mut self, key: Key) {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
    }

    /// Why a call that has found no permit may not wait. If its place is another's, that one goes.
    fn refuses(&mut self, entry: &Entry) -> Option<Reason> {
        let left = entry.until.saturating_sub(self.now) * NANOS;
        let least = self.least(entry.key);
        if left == 0 || least.is_some_and(|least| least > left) {
            return Some(too_late(entry));
        }
        if self.queued() < self.numbers.max_queue {
            return None;
        }
        let most = self.known.iter().max_by_key(|key| self.queued_of(**key));
        let own = self.queued_of(entry.key);
        let Some(most) = most.filter(|most| self.queued_of(**most) >= own + 2) else {
            return Some(Reason::QueueFull);
        };
        let of = |entry: &Entry| entry.key == *most && entry.stage == Stage::Queued;
        let newest = self.entries.iter().rposition(of);
        self.entries[newest.unwrap()].stage = Stage::PushedOut;
        self.pushed_out += 1;
        None
    }

    /// Mean and mean deviation, in nanoseconds, where they say anything.
    fn hold(&self) -> Option<(u64, u64)> {
        let (mean, deviation) = self.moving()?;
        let fresh = (60_000 * NANOS).max(8 * mean);
        let age = (self.now - self.last_hold).saturating_mul(NANOS);
        (self.holds.len() >= 4 && age <= fresh).then_some((mean, deviation))
    }

    fn moving(&self) -> Option<(u64, u64)> {
        let (first, rest) = self.holds.split_first()?;
        let (mut mean, mut deviation) = (*first, *first / 2);
        for hold in rest {
            deviation = deviation - deviation / 4 + mean.abs_diff(*hold) / 4;
            mean = mean - mean / 8 + hold / 8;
        }
        Some((mean, deviation))
    }

    /// How many calls go before a new one of `key`'s: gives out permits until it has one. What its
    /// own key may have is another question.
    fn ahead(&self, key: Key) -> usize {
        let mut keys: Vec<Key> = self.turns.clone();
        if self.queued_of(key) == 0 {
            keys.retain(|other| *other != key);
            keys.push(key);
        }
        let waiting = |other: Key| self.queued_of(other) + usize::from(other == key);
        let line = keys.into_iter();
        // Key, calls under way, calls that wait.
        let mut line: Vec<(Key, usize, usize)> = line
            .map(|other| (other, self.running_of(other), waiting(other)))
            .collect();
        let most = self.numbers.max_per_key.unwrap_or(usize::MAX);
        for ahead in 0.. {
            let may = |at: &usize| line[*at].2 > 0 && (line[*at].0 == key || line[*at].1 < most);
            let next = (0..line.len()).filter(may).min_by_key(|at| line[*at].1);
            let (served, running, waiting) = line.remove(next.unwrap());
            if served == key && waiting == 1 {
                return ahead;
            }
            line.push((served, running + 1, waiting - 1));
        }
        unreachable!("it waits, so its turn comes")
    }

    /// How many permits must come back, of how many, and when the last of these was taken.
    fn needs(&self, key: Key) -> Vec<(u64, u64, Option<u64>)> {
        let mut needs = Vec::new();
        let (in_flight, permits) = (self.in_flight(), self.numbers.permits);
        if in_flight >= permits {
            let turns = self.ahead(key) + 1 + in_flight - permits;
            needs.push((turns as u64, in_flight as u64, self.last_taken));
        }
        if let Some(most) = self.numbers.max_per_key
            && self.is_capped(key)
        {
            let taken = self.taken.iter().find(|(other, _)| *other == key);
            let turns = self.queued_of(key) + 1;
            needs.push((turns as u64, most as u64, taken.map(|(_, taken)| *taken)));
        }
        needs
    }

    fn least(&self, key: Key) -> Option<u64> {
        let (mean, deviation) = self.hold()?;
        let short = mean.saturating_sub(deviation);
        let least = |(turns, of, taken): (u64, u64, Option<u64>)| {
            let gone = taken.map_or(u64::MAX, |taken| (self.now - taken).saturating_mul(NANOS));
            (short * turns / of).saturating_sub(gone.min(short / of))
        };
        self.needs(key).into_iter().map(least).max()
    }

    /// The time to come back, in nanoseconds.
    pub(crate) fn estimate(&self, key: Key) -> Option<u64> {
        if self.has_permit_for(key) {
            return None;
        }
        let (mean, _) = self.hold()?;
        let needs = self.needs(key).into_iter();
        let likely = needs.map(|(turns, of, _)| (mean * turns / of).min(HOUR));
        likely.max().filter(|wait| *wait > 0)
    }

    pub(crate) fn remove(&mut self, at: usize) {
        let entry = self.entries.remove(at);
        if entry.has_permit()
            && let Some(since) = entry.held
        {
            let hold = (self.now - since).saturating_mul(NANOS);
            self.holds.push(hold.min(HOUR));
            self.last_hold = self.now;
        }
        self.at_server.retain(|number| *number != entry.number);
        self.settle();
    }

    /// What a poll gives, when the server has not answered, and the time to come back with it.
    pub(crate) fn poll(&mut self, at: usize) -> (Progress, Option<u64>) {
        let entry = self.entries[at];
        let refusal = match entry.stage {
            Stage::AtServer => None,
            Stage::Refused(reason, estimate) => {
                self.remove(at);
                return (Progress::Refused(reason), estimate);
            }
            Stage::PushedOut => Some(Reason::QueueFull),
            Stage::Queued => (entry.until <= self.now).then(|| too_late(&entry)),
            Stage::Admitted => self.dispatch(at),
        };
        let Some(reason) = refusal else {
            self.entries[at].polled |= entry.stage == Stage::Queued;
            return (Progress::Pending, None);
        };
        self.rejected += 1;
        if entry.stage == Stage::Queued {
            self.remove(at);
            return (Progress::Refused(reason), self.estimate(entry.key));
        }
        // It is told while it still has its permit.
        let estimate = self.estimate(entry.key);
        self.remove(at);
        (Progress::Refused(reason), estimate)
    }

    /// A call that has its permit goes to the server, if that is ready, or is refused.
    fn dispatch(&mut self, at: usize) -> Option<Reason> {
        let entry = self.entries[at];
        if entry.deadline.is_some_and(|deadline| deadline <= self.now) {
            return Some(Reason::DeadlineTooShort);
        }
        if self.closed {
            return (entry.until <= self.now).then_some(Reason::WaitTooLong);
        }
        self.entries[at].stage = Stage::AtServer;
        self.at_server.push(entry.number);
        None
    }

    /// How long the call has waited that has waited longest.
    pub(crate) fn longest_wait(&self) -> Option<u64> {
        let mut queued = self.entries.iter().filter(|e| e.stage == Stage::Queued);
        queued.next().map(|entry| self.now - entry.since)
    }

    pub(crate) fn usual_hold(&self) -> Option<u64> {
        self.hold().map(|(mean, _)| mean / NANOS)
    }

    pub(crate) fn reset_peaks(&mut self) {
        self.peak_in_flight = self.in_flight();
        self.peak_queued = self.queued();
        self.peaks_since = self.now;
    }
}

impl Entry {
    fn has_permit(&self) -> bool {
        matches!(self.stage, Stage::Admitted | Stage::AtServer)
    }
}

fn too_late(entry: &Entry) -> Reason {
    if entry.deadline == Some(entry.until) {
        Reason::DeadlineTooShort
    } else {
        Reason::WaitTooLong
    }
}
