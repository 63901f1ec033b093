//! The way past the lock, for calls that find a permit free while nobody waits.
//!
//! One word holds all that such a call must know and change: how many calls are under way, up to how
//! many may be without a look at the rest of the state, and the number of the next call. Whoever
//! needs the whole state takes the lock and closes the gate. From then on nobody goes past, and what
//! the word says is his, until he opens it again.

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// The most calls that can be counted.
pub(crate) const MOST: u64 = (1 << 24) - 1;

/// One call in so many is measured.
pub(crate) const MEASURE_ONE_IN: u64 = 127;

/// The numbers of calls that the word has room for. Beyond it the state counts.
pub(crate) const NUMBERS: u64 = 1 << 15;

const CEILING: u32 = 24;
const NUMBER: u32 = 48;
const CLOSED: u64 = 1 << 63;

/// What a call that goes past must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pass {
    /// How many calls are under way.
    pub(crate) in_flight: u64,
    /// Below how many another may go past.
    pub(crate) ceiling: u64,
    /// The number of the next call, modulo [`NUMBERS`].
    pub(crate) number: u64,
}

#[derive(Debug)]
pub(crate) struct Gate {
    word: AtomicU64,
    measures_all: AtomicBool,
}

impl Gate {
    /// A gate that is closed.
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(CLOSED),
            measures_all: AtomicBool::new(true),
        }
    }

    /// Counts a call as under way, and says whether it is to be measured. `None`: it must look at
    /// the whole state.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Option<bool> {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let pass = Pass::of(word);
            let is_open = word & CLOSED == 0;
            if !is_open || pass.in_flight >= pass.ceiling || pass.number == NUMBERS - 1 {
                return None;
            }
            match self.replace(word, word + 1 + (1 << NUMBER)) {
                Ok(()) => {
                    let all = self.measures_all.load(Ordering::Relaxed);
                    return Some(all || is_measured(pass.number));
                }
                Err(other) => word = other,
            }
        }
    }

    /// Counts a call as ended. `false`: the whole state must be told.
    #[inline(always)]
    pub(crate) fn exit(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 {
                return false;
            }
            match self.replace(word, word - 1) {
                Ok(()) => return true,
                Err(other) => word = other,
            }
        }
    }

    /// Closes the gate. Only who holds the lock may.
    pub(crate) fn close(&self) -> Pass {
        Pass::of(self.word.fetch_or(CLOSED, Ordering::AcqRel))
    }

    /// Opens it again, with what holds now, or leaves it closed. Only who holds the lock may.
    pub(crate) fn open(&self, pass: Pass, is_open: bool, measures_all: bool) {
        self.measures_all.store(measures_all, Ordering::Relaxed);
        let closed = if is_open { 0 } else { CLOSED };
        self.word.store(pass.word() | closed, Ordering::Release);
    }

    /// What a call did before it ended has happened before what the next one does.
    #[inline(always)]
    fn replace(&self, word: u64, new: u64) -> Result<(), u64> {
        let exchange =
            self.word
                .compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed);
        exchange.map(drop)
    }
}

/// Whether the call with this number is measured, where not all are.
#[inline(always)]
pub(crate) const fn is_measured(number: u64) -> bool {
    (number % NUMBERS).is_multiple_of(MEASURE_ONE_IN)
}

impl Pass {
    #[inline(always)]
    const fn of(word: u64) -> Self {
        Self {
            in_flight: word & MOST,
            ceiling: word >> CEILING & MOST,
            number: word >> NUMBER & (NUMBERS - 1),
        }
    }

    const fn word(self) -> u64 {
        self.in_flight | self.ceiling << CEILING | self.number << NUMBER
    }
}

#[cfg(all(test, not(toolweir_loom)))]
mod tests {
    use super::*;

    fn open(in_flight: u64, ceiling: u64, number: u64) -> Gate {
        let gate = Gate::new();
        let pass = Pass {
            in_flight,
            ceiling,
            number,
        };
        gate.open(pass, true, false);
        gate
    }

    #[test]
    fn calls_go_past_below_the_ceiling() {
        let gate = open(0, 2, 0);
        assert_eq!(gate.enter(), Some(true));
        assert_eq!(gate.enter(), Some(false));
        assert_eq!(gate.enter(), None);
        assert!(gate.exit());
        assert_eq!(gate.enter(), Some(false));
        let pass = Pass {
            in_flight: 2,
            ceiling: 2,
            number: 3,
        };
        assert_eq!(gate.close(), pass);
    }

    #[test]
    fn nobody_goes_past_a_closed_gate() {
        let gate = open(1, 2, 0);
        gate.close();
        assert_eq!(gate.enter(), None);
        assert!(!gate.exit());
        let pass = gate.close();
        gate.open(pass, false, false);
        assert_eq!(gate.enter(), None);
        gate.open(pass, true, true);
        assert_eq!(gate.enter(), Some(true));
    }

    /// Every figure at its largest: none runs over into the next.
    #[test]
    fn the_figures_keep_apart() {
        let gate = open(MOST - 1, MOST, NUMBERS - 2);
        assert_eq!(gate.enter(), Some(is_measured(NUMBERS - 2)));
        let full = Pass {
            in_flight: MOST,
            ceiling: MOST,
            number: NUMBERS - 1,
        };
        assert_eq!(gate.close(), full);
        gate.open(
            Pass {
                in_flight: 0,
                ..full
            },
            true,
            false,
        );
        // The last number is for who counts on.
        assert_eq!(gate.enter(), None);
        assert_eq!(Pass::of(full.word()), full);
    }

    #[test]
    fn one_call_in_so_many_is_measured() {
        let gate = open(0, 1, 0);
        let measured = (0..1270).filter(|_| {
            let measured = gate.enter();
            assert!(gate.exit());
            measured.unwrap()
        });
        assert_eq!(measured.count(), 10);
    }
}
