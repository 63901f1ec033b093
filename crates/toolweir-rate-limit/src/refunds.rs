//! What calls got back that were not made, as far as it matters to others that may get something
//! back too. Pure: it takes the time from its caller.

use std::collections::BTreeMap;

use crate::bucket::Nano;

/// How many refunds are kept apart. Further back none knows any more whose they were.
const KEPT: usize = 64;

/// When the last of a call's cells was to come back, if nobody had ever got anything back. Who took
/// his cells later has a higher one.
pub(crate) type Stamp = u64;

/// The refunds since the bucket was last drained.
#[derive(Debug, Default)]
pub(crate) struct Refunds {
    /// To whom, and how much, in nanoseconds.
    kept: BTreeMap<Stamp, u64>,
    /// What those before them got.
    earlier: u64,
    /// All of it.
    total: u64,
}

impl Refunds {
    /// The stamp of who has just taken the last cells of a bucket that is full again then.
    #[inline]
    pub(crate) const fn stamp(&self, full_at: Nano) -> Stamp {
        full_at.saturating_add(self.total)
    }

    /// When the last of a call's cells comes back, by what those got back who took theirs before it.
    pub(crate) fn back_at(&self, stamp: Stamp) -> Nano {
        let before: u64 = self.kept.range(..stamp).map(|(_, nanos)| nanos).sum();
        stamp.saturating_sub(self.earlier.saturating_add(before))
    }

    /// A call gets so much back.
    pub(crate) fn add(&mut self, stamp: Stamp, nanos: u64, now: Nano) {
        self.kept.insert(stamp, nanos);
        self.total = self.total.saturating_add(nanos);
        // Who took his cells before one whose cells are back has all of his too.
        while let Some((&first, &nanos)) = self.kept.first_key_value()
            && (self.kept.len() > KEPT || first.saturating_sub(self.earlier) <= now)
        {
            self.kept.pop_first();
            self.earlier = self.earlier.saturating_add(nanos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_later_ones_got_back_does_not_count() {
        let mut refunds = Refunds::default();
        assert_eq!(refunds.stamp(30), 30);
        refunds.add(20, 10, 0);
        assert_eq!(
            [10, 20, 30].map(|stamp| refunds.back_at(stamp)),
            [10, 20, 20]
        );
        assert_eq!(refunds.stamp(20), 30);
    }

    #[test]
    fn those_whose_cells_are_back_are_not_kept() {
        let mut refunds = Refunds::default();
        refunds.add(10, 5, 9);
        refunds.add(30, 5, 9);
        assert_eq!((refunds.kept.len(), refunds.earlier), (2, 0));
        refunds.add(40, 5, 10);
        assert_eq!((refunds.kept.len(), refunds.earlier), (2, 5));
        assert_eq!(refunds.back_at(50), 35);
        refunds.add(60, 5, 100);
        assert_eq!((refunds.kept.len(), refunds.earlier), (0, 20));
    }

    /// Who came before them gets less back then than he might, and never more.
    #[test]
    fn no_more_than_some_are_kept() {
        let mut refunds = Refunds::default();
        for stamp in 1..=1_000 {
            refunds.add(100 * stamp, 1, 0);
        }
        assert_eq!(refunds.kept.len(), KEPT);
        assert_eq!(refunds.back_at(1_000_000), 999_000);
        assert_eq!(refunds.back_at(93_550), 92_614);
    }
}
