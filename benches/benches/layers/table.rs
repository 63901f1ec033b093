//! The figures for people.

use std::fmt;

use super::figures::Figures;

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.cases.is_empty() {
            writeln!(
                f,
                "case                           ns a call   allocs    bytes"
            )?;
        }
        for case in &self.cases {
            write!(f, "{:<28}  {:>10.1}", case.name, case.ns)?;
            match (case.allocs, case.bytes) {
                (Some(allocs), Some(bytes)) => writeln!(f, "  {allocs:>7.2}  {bytes:>7.0}")?,
                _ => writeln!(f, "        -        -")?,
            }
        }
        if !self.ratios.is_empty() {
            writeln!(f, "\nratio (quartiles)")?;
        }
        for ratio in &self.ratios {
            writeln!(f, "{ratio}")?;
        }
        writeln!(f, "\nours   peer   behaviour")?;
        for row in &self.behaviour {
            let (ours, theirs) = (holds(row.ours_holds), holds(row.peer_holds));
            writeln!(f, "{ours:<5}  {theirs:<5}  {} ({})", row.what, row.peer)?;
        }
        if cfg!(debug_assertions) {
            writeln!(f, "\nThis is a debug build: times mean nothing.")?;
        }
        if self.quick {
            writeln!(f, "\nThis was a quick run: times mean nothing.")?;
        }
        Ok(())
    }
}

const fn holds(holds: bool) -> &'static str {
    if holds { "holds" } else { "NOT" }
}
