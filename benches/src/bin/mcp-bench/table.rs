//! The figures for people.

use std::fmt;

use crate::{
    caller::Way,
    figures::{Case, Compared, Comparison, Figures, Spread, Target},
};

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "transport  in flight  way      p50 µs     p99 µs   allocs   calls/s   \
             p50 : bare (quartiles)   calls/s : bare (quartiles)"
        )?;
        for case in &self.cases {
            row(f, case, self.compared(case, case.name))?;
            if case.name == Way::Full {
                self.control(f, case)?;
            }
        }
        writeln!(f)?;
        for target in &self.targets {
            writeln!(f, "{target}")?;
        }
        self.memory_line(f)?;
        self.remarks(f)
    }
}

impl Figures {
    fn compared(&self, case: &Case, with: Way) -> Option<&Comparison> {
        match with {
            Way::Bare => None,
            Way::Timed => self.comparison(case, Compared::Timed),
            Way::Mcp => self.comparison(case, Compared::Mcp),
            Way::Full => self.comparison(case, Compared::Full),
        }
    }

    fn comparison(&self, case: &Case, name: Compared) -> Option<&Comparison> {
        self.comparisons.iter().find(|compared| {
            compared.name == name
                && compared.transport == case.transport
                && compared.in_flight == case.in_flight
        })
    }

    /// Bare against itself: as far from one as noise goes.
    fn control(&self, f: &mut fmt::Formatter<'_>, case: &Case) -> fmt::Result {
        if let Some(again) = self.comparison(case, Compared::BareAgain) {
            let (p50, calls) = (&again.p50_vs_bare, &again.throughput_vs_bare);
            writeln!(f, "{:<58}(bare)    {p50}   {calls}", "")?;
        }
        Ok(())
    }

    fn memory_line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        let verdict = if memory.is_flat() { "flat" } else { "GROWN" };
        writeln!(
            f,
            "memory after {} calls over {}, full: {} → {} live bytes, {:+} ({} allowed): {verdict}",
            memory.calls,
            memory.transport,
            memory.live_bytes_before,
            memory.live_bytes_after,
            memory.growth_bytes,
            memory.allowed_growth_bytes,
        )
    }

    fn remarks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.machine.optimised {
            writeln!(f, "This is a debug build: times mean nothing.")?;
        }
        if self.settings.quick {
            writeln!(f, "This was a quick run: times mean nothing.")?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, case: &Case, compared: Option<&Comparison>) -> fmt::Result {
    write!(
        f,
        "{:<9}  {:>9}  {:<4}  {:>9.1}  {:>9.1}  {:>7.1}  {:>8.0}",
        case.transport,
        case.in_flight,
        case.name.name(),
        case.p50_us,
        case.p99_us,
        case.allocs,
        case.calls_per_second,
    )?;
    if let Some(compared) = compared {
        let (p50, calls) = (&compared.p50_vs_bare, &compared.throughput_vs_bare);
        write!(f, "   {p50}   {calls}")?;
    }
    writeln!(f)
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6.3} ({:.3} to {:.3})",
            self.median, self.lower_quartile, self.upper_quartile
        )
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.reached { "reached" } else { "MISSED" };
        write!(
            f,
            "{}: {:.3} ({:.3} to {:.3})",
            self.ratio, self.measured, self.lower_quartile, self.upper_quartile
        )?;
        if let Some(most) = self.at_most {
            write!(f, ", at most {most}")?;
        }
        if let Some(least) = self.at_least {
            write!(f, ", at least {least}")?;
        }
        write!(f, ": {verdict}")
    }
}
