//! When a schedule acts.

use std::time::{Duration, SystemTime};

use temporalio_common::protos::temporal::api::schedule::v1::{
    IntervalSpec, Range, ScheduleSpec, StructuredCalendarSpec,
};
use toolweir_core::ConfigError;

use crate::{
    spread::spread_offset,
    time::{check_range, is_representable, rfc3339},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3650 * 24 * 3600);

/// What the builder was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    pub(crate) every: Option<Duration>,
    pub(crate) offset: Option<Duration>,
    pub(crate) cron: Vec<String>,
    /// Hour and minute.
    pub(crate) daily: Vec<(u8, u8)>,
    pub(crate) time_zone: Option<String>,
    pub(crate) start_at: Option<SystemTime>,
    pub(crate) end_at: Option<SystemTime>,
    pub(crate) jitter: Option<Duration>,
    pub(crate) spread_over: Option<Duration>,
}

impl Times {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.every.is_none() && self.cron.is_empty() && self.daily.is_empty() {
            return Err(ConfigError::new(
                "every",
                "not set, nor are `cron` and `daily_at`",
                "set, or another time given",
            ));
        }
        self.check_interval()?;
        self.check_calendar()?;
        self.check_bounds()?;
        self.check_spread()
    }

    fn check_interval(&self) -> Result<(), ConfigError> {
        if let Some(every) = self.every {
            check_seconds("every", every, Duration::from_secs(1), LONGEST_INTERVAL)?;
        }
        match (self.offset, self.every) {
            (Some(offset), Some(every)) if offset >= every => Err(ConfigError::new(
                "offset",
                format!("{offset:?}"),
                format!("below `every`, which is {every:?}"),
            )),
            (Some(offset), Some(_)) => {
                check_seconds("offset", offset, Duration::ZERO, LONGEST_INTERVAL)
            }
            (Some(offset), None) => Err(ConfigError::new(
                "offset",
                format!("{offset:?}"),
                "left out where `every` is not set",
            )),
            (None, _) => Ok(()),
        }
    }

    fn check_calendar(&self) -> Result<(), ConfigError> {
        for cron in &self.cron {
            check_cron(cron)?;
        }
        for (hour, minute) in &self.daily {
            if *hour > 23 || *minute > 59 {
                return Err(ConfigError::new(
                    "daily_at",
                    format!("{hour}:{minute:02}"),
                    "a time of day from 0:00 to 23:59",
                ));
            }
        }
        let Some(zone) = &self.time_zone else {
            return Ok(());
        };
        let plausible = |c: char| c.is_ascii_alphanumeric() || "_+-/".contains(c);
        if zone.is_empty() || !zone.chars().all(plausible) {
            return Err(ConfigError::new(
                "time_zone",
                format!("{zone:?}"),
                "the name of an IANA time zone, such as Europe/Berlin",
            ));
        }
        if self.cron.is_empty() && self.daily.is_empty() {
            return Err(ConfigError::new(
                "time_zone",
                zone,
                "left out where only `every` is set: intervals count from the Unix epoch",
            ));
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result<(), ConfigError> {
        for (field, time) in [("start_at", self.start_at), ("end_at", self.end_at)] {
            if let Some(time) = time.filter(|time| !is_representable(*time)) {
                return Err(ConfigError::new(
                    field,
                    format!("{time:?}"),
                    "between the years 1970 and 9999",
                ));
            }
        }
        if let (Some(start), Some(end)) = (self.start_at, self.end_at)
            && check_range("end_at", &(start..=end)).is_err()
        {
            return Err(ConfigError::new(
                "end_at",
                rfc3339(end),
                format!("no earlier than `start_at`, which is {}", rfc3339(start)),
            ));
        }
        match self.jitter {
            Some(jitter) if jitter > DAY => Err(ConfigError::new(
                "jitter",
                format!("{jitter:?}"),
                format!("at most {DAY:?}"),
            )),
            _ => Ok(()),
        }
    }

    fn check_spread(&self) -> Result<(), ConfigError> {
        let Some(window) = self.spread_over else {
            return Ok(());
        };
        if !self.cron.is_empty() {
            return Err(ConfigError::new(
                "spread_over",
                format!("{window:?}"),
                "left out where `cron` is set, which is taken as it is; `jitter` works with it",
            ));
        }
        if let Some(every) = self.every {
            check_seconds("spread_over", window, Duration::from_secs(1), every)?;
        }
        for (hour, minute) in &self.daily {
            let rest = DAY.saturating_sub(time_of_day(*hour, *minute));
            // Later would be the next day, and another one on days that the clocks change.
            check_seconds("spread_over", window, Duration::from_secs(1), rest)?;
        }
        Ok(())
    }

    /// Checked before, so conversions that could fail do not.
    pub(crate) fn to_proto(&self, id: &str) -> ScheduleSpec {
        let spread = self
            .spread_over
            .map_or(Duration::ZERO, |window| spread_offset(id, window));
        let interval = self.every.map(|every| {
            let offset = self.offset.unwrap_or_default() + spread;
            let phase = offset.as_secs() % every.as_secs().max(1);
            IntervalSpec {
                interval: every.try_into().ok(),
                phase: Duration::from_secs(phase).try_into().ok(),
            }
        });
        ScheduleSpec {
            structured_calendar: self
                .daily
                .iter()
                .map(|(hour, minute)| daily(time_of_day(*hour, *minute) + spread))
                .collect(),
            cron_string: self.cron.clone(),
            interval: interval.into_iter().collect(),
            start_time: self.start_at.map(Into::into),
            end_time: self.end_at.map(Into::into),
            jitter: self.jitter.and_then(|jitter| jitter.try_into().ok()),
            timezone_name: self.time_zone.clone().unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// Seconds are the finest the server has: it drops the rest without a word.
pub(crate) fn check_seconds(
    field: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if value.subsec_nanos() == 0 && (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(
        field,
        format!("{value:?}"),
        format!("whole seconds from {least:?} to {most:?}"),
    ))
}

/// What can be seen without parsing. The server does the rest, and its word is passed on.
fn check_cron(cron: &str) -> Result<(), ConfigError> {
    let wrong = |allowed: &'static str| Err(ConfigError::new("cron", format!("{cron:?}"), allowed));
    if cron.chars().any(char::is_control) {
        return wrong("without control characters");
    }
    if cron.contains("TZ=") {
        return wrong("without a time zone, which goes to `time_zone`");
    }
    let expression = cron.split('#').next().unwrap_or_default().trim();
    if expression.starts_with("@every") {
        return wrong("without @every, which is `every`");
    }
    let fields = expression.split_whitespace().count();
    if expression.starts_with('@') && fields == 1 || (5..=7).contains(&fields) {
        return Ok(());
    }
    wrong(
        "5 to 7 fields (minute, hour, day of month, month, day of week; year; seconds first), or @daily and the like",
    )
}

fn time_of_day(hour: u8, minute: u8) -> Duration {
    Duration::from_secs(u64::from(hour) * 3600 + u64::from(minute) * 60)
}

fn daily(time: Duration) -> StructuredCalendarSpec {
    let second = i32::try_from(time.as_secs()).unwrap_or_default();
    let one = |value: i32| vec![range(value, value)];
    StructuredCalendarSpec {
        second: one(second % 60),
        minute: one(second / 60 % 60),
        hour: one(second / 3600),
        day_of_month: vec![range(1, 31)],
        month: vec![range(1, 12)],
        day_of_week: vec![range(0, 6)],
        ..Default::default()
    }
}

const fn range(start: i32, end: i32) -> Range {
    Range {
        start,
        end,
        step: 1,
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn every(interval: Duration) -> Times {
        Times {
            every: Some(interval),
            ..Times::default()
        }
    }

    fn daily(hour: u8, minute: u8) -> Times {
        Times {
            daily: vec![(hour, minute)],
            ..Times::default()
        }
    }

    fn cron(expression: &str) -> Times {
        Times {
            cron: vec![expression.to_owned()],
            ..Times::default()
        }
    }

    /// Refused because of `field`, after `change`.
    fn refused(field: &str, mut times: Times, change: impl FnOnce(&mut Times)) {
        change(&mut times);
        let error = times.check().unwrap_err();
        assert_eq!(error.field(), field, "{times:?}: {error}");
    }

    #[test]
    fn an_interval_out_of_range_is_refused() {
        refused("every", Times::default(), |_| ());
        for interval in [
            Duration::ZERO,
            Duration::from_millis(1500),
            LONGEST_INTERVAL + HOUR,
        ] {
            refused("every", every(interval), |_| ());
        }
        refused("offset", every(HOUR), |t| t.offset = Some(HOUR));
        let millisecond = Duration::from_millis(1);
        refused("offset", every(HOUR), |t| t.offset = Some(millisecond));
        refused("offset", daily(1, 0), |t| t.offset = Some(HOUR));
    }

    #[test]
    fn a_calendar_out_of_range_is_refused() {
        refused("daily_at", daily(24, 0), |_| ());
        refused("daily_at", daily(0, 60), |_| ());
        for expression in [
            "",
            "* * * *",
            "1 2 3 4 5 6 7 8",
            "@every 5m",
            "TZ=Europe/Berlin 0 6 * * *",
            "0 6 * * *\n0 7 * * *",
            "# only a comment of six words",
        ] {
            refused("cron", cron(expression), |_| ());
        }
        for zone in ["", "Berlin; --"] {
            refused("time_zone", daily(6, 0), |t| {
                t.time_zone = Some(zone.into());
            });
        }
        refused("time_zone", every(HOUR), |t| {
            t.time_zone = Some("UTC".into());
        });
    }

    #[test]
    fn bounds_and_spreads_out_of_range_are_refused() {
        refused("start_at", every(HOUR), |t| {
            t.start_at = Some(UNIX_EPOCH - HOUR);
        });
        let far = UNIX_EPOCH + LONGEST_INTERVAL * 1000;
        refused("end_at", every(HOUR), |t| t.end_at = Some(far));
        refused("end_at", every(HOUR), |t| {
            t.start_at = Some(UNIX_EPOCH + HOUR);
            t.end_at = Some(UNIX_EPOCH);
        });
        refused("jitter", every(HOUR), |t| t.jitter = Some(DAY + HOUR));

        refused("spread_over", cron("@daily"), |t| {
            t.spread_over = Some(HOUR);
        });
        refused("spread_over", daily(23, 30), |t| t.spread_over = Some(HOUR));
        for window in [Duration::ZERO, HOUR * 2] {
            refused("spread_over", every(HOUR), |t| t.spread_over = Some(window));
        }
    }

    #[test]
    fn what_can_be_right_passes() {
        for expression in [
            "0 6 * * *",
            "@daily",
            "0 0 6 * * MON-FRI *",
            "0 6 * * * # six",
            " 0 6 * * 1 2027 ",
        ] {
            cron(expression).check().unwrap();
        }
        every(Duration::from_secs(1)).check().unwrap();
        every(LONGEST_INTERVAL).check().unwrap();
    }

    #[test]
    fn a_day_time_becomes_a_calendar_with_its_spread() {
        let times = Times {
            daily: vec![(6, 30)],
            time_zone: Some("Europe/Berlin".into()),
            spread_over: Some(Duration::from_secs(1800)),
            ..Times::default()
        };
        times.check().unwrap();
        let spec = times.to_proto("report/anna");
        let place = spread_offset("report/anna", Duration::from_secs(1800)).as_secs();
        let calendar = &spec.structured_calendar[0];
        let part = |ranges: &[Range]| {
            assert_eq!(ranges.len(), 1);
            assert_eq!(ranges[0].start, ranges[0].end);
            u64::try_from(ranges[0].start).unwrap()
        };
        let at = part(&calendar.hour) * 3600 + part(&calendar.minute) * 60 + part(&calendar.second);
        assert_eq!(at, 6 * 3600 + 30 * 60 + place);
        assert_eq!(spec.timezone_name, "Europe/Berlin");
        assert!(spec.interval.is_empty());
    }

    proptest! {
        /// The server refuses a phase that is not below its interval.
        #[test]
        fn a_phase_is_always_below_its_interval(
            seconds in 1_u64..=LONGEST_INTERVAL.as_secs(),
            offset in any::<u64>(),
            window in any::<u64>(),
            id in "[a-z/]{1,20}",
        ) {
            let times = Times {
                offset: Some(Duration::from_secs(offset % seconds)),
                spread_over: Some(Duration::from_secs(window % seconds + 1)),
                ..every(Duration::from_secs(seconds))
            };
            prop_assert!(times.check().is_ok());
            let spec = times.to_proto(&id);
            let phase = spec.interval[0].phase.map_or(0, |phase| phase.seconds);
            prop_assert!((0..i64::try_from(seconds).unwrap()).contains(&phase));
        }
    }
}
