//! The schedules of a namespace.

use std::{fmt, time::Duration};

use temporalio_client::{
    Client, Connection, NamespacedClient,
    grpc::WorkflowService,
    tonic::{IntoRequest, Response, Status},
};
use temporalio_common::protos::temporal::api::{
    schedule::v1::{Schedule as ProtoSchedule, SchedulePatch, TriggerImmediatelyRequest},
    workflowservice::v1::{
        CreateScheduleRequest, DeleteScheduleRequest, DescribeScheduleRequest,
        DescribeScheduleResponse, PatchScheduleRequest,
    },
};

use crate::{
    Description, Overlap, Schedule, ScheduleError,
    rpc::{answer, request_id},
};

/// Longer than the client's own retries, so that their last word arrives.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Creates, reads and operates the schedules of the client's namespace.
///
/// Clones are cheap and share the client's connection. Nothing is cached: each answer is the
/// server's.
#[derive(Clone)]
pub struct Schedules {
    pub(crate) client: Client,
    pub(crate) timeout: Duration,
}

impl Schedules {
    /// On this client's connection and namespace.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self {
            client,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// How long each call to the server may take, the client's retries included. 30 s by default.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Creates a schedule, all of its policies in one request.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::AlreadyExists`] if there is one with this id;
    /// [`ScheduleError::Refused`] if the server does not take it.
    pub async fn create(&self, schedule: &Schedule) -> Result<(), ScheduleError> {
        let id = schedule.id();
        let request = CreateScheduleRequest {
            namespace: self.client.namespace(),
            schedule_id: id.to_owned(),
            schedule: Some(self.encoded(schedule).await?),
            identity: self.client.identity(),
            request_id: request_id(),
            ..Default::default()
        };
        let mut service = self.service();
        let call = service.create_schedule(request.into_request());
        self.answer(id, "create", call).await?;
        Ok(())
    }

    /// Takes one action now, by the schedule's own overlap policy or by the one given here. Works
    /// on a paused schedule too.
    ///
    /// Under [`Overlap::Skip`] nothing starts while a run is open, and nothing says so but the
    /// counter [`Description::overlap_skipped`]. Two triggers within one second share a workflow
    /// id: under [`Overlap::AllowAll`] the second starts nothing while the first one's run is
    /// open. The limits in the workers hold for a triggered run like for any other.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::NotFound`] if there is no such schedule.
    pub async fn trigger(&self, id: &str, overlap: Option<Overlap>) -> Result<(), ScheduleError> {
        let patch = SchedulePatch {
            trigger_immediately: Some(TriggerImmediatelyRequest {
                overlap_policy: overlap.map_or(0, Overlap::to_proto),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.patch(id, "trigger", patch).await
    }

    /// Pauses a schedule. Open runs go on, and so do the times that wait in its buffer.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::NotFound`] if there is no such schedule.
    pub async fn pause(&self, id: &str, note: &str) -> Result<(), ScheduleError> {
        let patch = SchedulePatch {
            pause: note_or(note, "paused"),
            ..Default::default()
        };
        self.patch(id, "pause", patch).await
    }

    /// Lets a paused schedule go on. Times that passed while it was paused are not made good.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::NotFound`] if there is no such schedule.
    pub async fn unpause(&self, id: &str, note: &str) -> Result<(), ScheduleError> {
        let patch = SchedulePatch {
            unpause: note_or(note, "unpaused"),
            ..Default::default()
        };
        self.patch(id, "unpause", patch).await
    }

    /// Deletes a schedule. Open runs go on; times that wait in its buffer, and what a backfill has
    /// not yet taken, are gone. [`runs`](Self::runs) still finds the runs.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::NotFound`] if there is no such schedule.
    pub async fn delete(&self, id: &str) -> Result<(), ScheduleError> {
        let request = DeleteScheduleRequest {
            namespace: self.client.namespace(),
            schedule_id: id.to_owned(),
            identity: self.client.identity(),
        };
        let mut service = self.service();
        let call = service.delete_schedule(request.into_request());
        self.answer(id, "delete", call).await?;
        Ok(())
    }

    /// What a schedule is set to, what it runs, and what it did and left undone.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::NotFound`] if there is no such schedule.
    pub async fn describe(&self, id: &str) -> Result<Description, ScheduleError> {
        Description::read(id, self.describe_raw(id).await?)
    }

    pub(crate) async fn describe_raw(
        &self,
        id: &str,
    ) -> Result<DescribeScheduleResponse, ScheduleError> {
        let request = DescribeScheduleRequest {
            namespace: self.client.namespace(),
            schedule_id: id.to_owned(),
        };
        let mut service = self.service();
        let call = service.describe_schedule(request.into_request());
        self.answer(id, "describe", call).await
    }

    pub(crate) async fn patch(
        &self,
        id: &str,
        operation: &'static str,
        patch: SchedulePatch,
    ) -> Result<(), ScheduleError> {
        let request = PatchScheduleRequest {
            namespace: self.client.namespace(),
            schedule_id: id.to_owned(),
            patch: Some(patch),
            identity: self.client.identity(),
            request_id: request_id(),
        };
        let mut service = self.service();
        let call = service.patch_schedule(request.into_request());
        self.answer(id, operation, call).await?;
        Ok(())
    }

    /// The raw service, with the client's retries. The client's own methods set less.
    pub(crate) fn service(&self) -> Connection {
        self.client.connection().clone()
    }

    pub(crate) async fn encoded(
        &self,
        schedule: &Schedule,
    ) -> Result<ProtoSchedule, ScheduleError> {
        schedule
            .to_proto(self.client.data_converter())
            .await
            .map_err(|source| ScheduleError::Payload {
                schedule_id: schedule.id().to_owned(),
                source,
            })
    }

    pub(crate) async fn answer<T>(
        &self,
        id: &str,
        operation: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, ScheduleError> {
        answer(self.timeout, id, operation, call).await
    }
}

impl fmt::Debug for Schedules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedules")
            .field("namespace", &self.client.namespace())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The server takes an empty note for "do nothing".
fn note_or(note: &str, otherwise: &str) -> String {
    if note.is_empty() { otherwise } else { note }.to_owned()
}
