//! Creating a schedule, or bringing an existing one up to date.

use temporalio_client::{
    NamespacedClient,
    grpc::WorkflowService,
    tonic::{Code, IntoRequest},
};
use temporalio_common::protos::temporal::api::{
    schedule::v1::{Schedule as ProtoSchedule, ScheduleState},
    workflowservice::v1::{DescribeScheduleResponse, UpdateScheduleRequest},
};

use crate::{Schedule, ScheduleError, Schedules, rpc::request_id};

/// How often an update that others came before is tried again.
const ATTEMPTS: usize = 5;

/// What [`Schedules::create_or_update`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Applied {
    /// There was none, and now there is.
    Created,
    /// There was one, and now it is like this.
    Updated,
}

impl Schedules {
    /// Creates a schedule, or makes the existing one like this.
    ///
    /// What operators change stays as they left it: whether the schedule is paused, its note, and
    /// how many limited actions remain. Open runs go on with what they were started with.
    ///
    /// A change by others at the same moment is not overwritten: the update carries the version
    /// that it was made for. Servers drop a late update without a word, so this looks at the
    /// schedule again, and repeats the update if it had no effect.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Conflict`] if five attempts all came too late;
    /// [`ScheduleError::Refused`] if the server does not take it; [`ScheduleError::NotFound`] if
    /// it was deleted at the same moment.
    pub async fn create_or_update(&self, schedule: &Schedule) -> Result<Applied, ScheduleError> {
        match self.create(schedule).await {
            Ok(()) => return Ok(Applied::Created),
            Err(ScheduleError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error),
        }
        let id = schedule.id();
        let wanted = self.encoded(schedule).await?;
        let mut before = self.describe_raw(id).await?;
        for _ in 0..ATTEMPTS {
            let was_taken = self.update(id, &wanted, &before).await?;
            let after = self.describe_raw(id).await?;
            // Only an update moves this time. If it was another's update that did, that one came
            // after ours or in place of it, and either way the last writer's word stands.
            if was_taken && updated_at(&after) != updated_at(&before) {
                return Ok(Applied::Updated);
            }
            tracing::debug!(
                schedule_id = id,
                "changed by others meanwhile, updating again"
            );
            before = after;
        }
        Err(ScheduleError::Conflict {
            schedule_id: id.to_owned(),
        })
    }

    /// Whether the server took the update on. It may still drop it.
    async fn update(
        &self,
        id: &str,
        wanted: &ProtoSchedule,
        current: &DescribeScheduleResponse,
    ) -> Result<bool, ScheduleError> {
        let request = UpdateScheduleRequest {
            namespace: self.client.namespace(),
            schedule_id: id.to_owned(),
            schedule: Some(with_state_of(wanted, current)),
            conflict_token: current.conflict_token.clone(),
            identity: self.client.identity(),
            request_id: request_id(),
            ..Default::default()
        };
        let mut service = self.service();
        let call = service.update_schedule(request.into_request());
        match self.answer(id, "update", call).await {
            Ok(_) => Ok(true),
            // What newer servers say of a version that is not the current one.
            Err(ScheduleError::Rpc { source, .. }) if source.code() == Code::FailedPrecondition => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn updated_at(description: &DescribeScheduleResponse) -> Option<(i64, i32)> {
    let time = description.info.as_ref()?.update_time?;
    Some((time.seconds, time.nanos))
}

/// The wanted schedule, with the part of the current one that belongs to its operators.
fn with_state_of(wanted: &ProtoSchedule, current: &DescribeScheduleResponse) -> ProtoSchedule {
    let current = current.schedule.as_ref().and_then(|s| s.state.as_ref());
    let mut schedule = wanted.clone();
    if let (Some(state), Some(current)) = (&mut schedule.state, current) {
        let remaining = if state.limited_actions && current.limited_actions {
            current.remaining_actions
        } else {
            state.remaining_actions
        };
        *state = ScheduleState {
            notes: current.notes.clone(),
            paused: current.paused,
            limited_actions: state.limited_actions,
            remaining_actions: remaining,
        };
    }
    schedule
}
