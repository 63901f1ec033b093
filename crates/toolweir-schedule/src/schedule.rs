//! A schedule, checked and ready to be created.

use std::time::Duration;

use temporalio_common::{
    data_converters::{DataConverter, PayloadConversionError},
    protos::temporal::api::schedule::v1 as proto,
};

use crate::{Overlap, ScheduleBuilder, times::Times, workflow::Workflow};

/// A schedule that has been checked, to be created with
/// [`Schedules::create`](crate::Schedules::create). Made by [`Schedule::builder`].
#[derive(Debug, Clone)]
pub struct Schedule {
    pub(crate) id: String,
    pub(crate) times: Times,
    pub(crate) workflow: Workflow,
    pub(crate) overlap: Overlap,
    pub(crate) catch_up_window: Duration,
    pub(crate) pause_on_failure: bool,
    pub(crate) paused: Option<String>,
    pub(crate) limited_actions: Option<u32>,
}

impl Schedule {
    /// Starts a schedule with this id, for example `playlist-sync/anna`.
    pub fn builder(id: impl Into<String>) -> ScheduleBuilder {
        ScheduleBuilder::new(id.into())
    }

    /// Its id, unique in a namespace.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Everything in one message, so that no schedule ever runs with half its policies.
    pub(crate) async fn to_proto(
        &self,
        converter: &DataConverter,
    ) -> Result<proto::Schedule, PayloadConversionError> {
        Ok(proto::Schedule {
            spec: Some(self.times.to_proto(&self.id)),
            action: Some(self.workflow.to_proto(&self.id, converter).await?),
            policies: Some(proto::SchedulePolicies {
                overlap_policy: self.overlap.to_proto(),
                catchup_window: self.catch_up_window.try_into().ok(),
                pause_on_failure: self.pause_on_failure,
                ..Default::default()
            }),
            state: Some(proto::ScheduleState {
                notes: self.paused.clone().unwrap_or_default(),
                paused: self.paused.is_some(),
                limited_actions: self.limited_actions.is_some(),
                remaining_actions: self.limited_actions.map_or(0, i64::from),
            }),
        })
    }
}
