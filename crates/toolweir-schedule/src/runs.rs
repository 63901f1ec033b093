//! The runs that a schedule started.

use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use temporalio_client::{
    NamespacedClient, WorkflowExecutionStatus, grpc::WorkflowService, tonic::IntoRequest,
};
use temporalio_common::{
    protos::temporal::api::{
        enums::v1::WorkflowExecutionStatus as ProtoStatus,
        workflow::v1::WorkflowExecutionInfo,
        workflowservice::v1::{ListWorkflowExecutionsRequest, ListWorkflowExecutionsResponse},
    },
    search_attributes::{SearchAttributeKey, SearchAttributes, Timestamp},
};

use crate::{
    ScheduleError, Schedules,
    builder::check_id,
    time::{check_range, just_before, rfc3339},
};

/// What the server adds to each run: the time it was due, before jitter.
const SCHEDULED_AT: SearchAttributeKey<Timestamp> =
    SearchAttributeKey::datetime("TemporalScheduledStartTime");
/// What a server sends at most at once, by default.
const PAGE: usize = 1000;
const DEFAULT_LIMIT: usize = 1000;

/// Which runs of a schedule to list.
#[derive(Debug, Clone)]
#[must_use]
pub struct RunFilter {
    pub(crate) scheduled: Option<RangeInclusive<SystemTime>>,
    pub(crate) open: bool,
    pub(crate) limit: usize,
}

impl RunFilter {
    /// All that the server still has, in its order; at most 1000.
    pub const fn new() -> Self {
        Self {
            scheduled: None,
            open: false,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Only those due in this range, both ends included, jitter not counted.
    pub const fn scheduled_in(mut self, range: RangeInclusive<SystemTime>) -> Self {
        self.scheduled = Some(range);
        self
    }

    /// Only those that are open.
    pub const fn open(mut self) -> Self {
        self.open = true;
        self
    }

    /// At most this many.
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    fn query(&self, id: &str) -> Result<String, ScheduleError> {
        check_id(id)?;
        let mut query = format!("TemporalScheduledById = '{id}'");
        if self.open {
            query.push_str(" AND ExecutionStatus = 'Running'");
        }
        if let Some(range) = &self.scheduled {
            check_range("scheduled_in", range)?;
            // Due times are whole seconds. Comparing with fractions of one keeps clear of a store
            // that compares equal times as different texts.
            let after = rfc3339(just_before(*range.start()));
            let until = rfc3339(*range.end() + Duration::from_millis(1));
            query.push_str(&format!(
                " AND TemporalScheduledStartTime > '{after}' \
                 AND TemporalScheduledStartTime < '{until}'"
            ));
        }
        Ok(query)
    }
}

impl Default for RunFilter {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Runs {
    /// The runs found.
    pub runs: Vec<Run>,
    /// Whether there are more than the limit allowed.
    pub more: bool,
}

/// A run that a schedule started, or that followed one by retry or continue-as-new.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// The workflow id: the prefix, and the time it was due. Two backfills over the same time
    /// share it.
    pub workflow_id: String,
    /// The run id, unique.
    pub run_id: String,
    /// How it stands.
    pub status: WorkflowExecutionStatus,
    /// The time it was due, jitter not counted.
    pub scheduled_at: Option<SystemTime>,
    /// The time it was started.
    pub started_at: Option<SystemTime>,
    /// The time it ended.
    pub closed_at: Option<SystemTime>,
}

impl Run {
    /// Whether it has not ended.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(
            self.status,
            WorkflowExecutionStatus::Running | WorkflowExecutionStatus::Paused
        )
    }

    fn read(info: WorkflowExecutionInfo) -> Self {
        let execution = info.execution.unwrap_or_default();
        let status =
            ProtoStatus::try_from(info.status).map_or(WorkflowExecutionStatus::Unknown, Into::into);
        let scheduled_at = info
            .search_attributes
            .as_ref()
            .and_then(|attributes| SearchAttributes::from_proto(attributes).get(&SCHEDULED_AT));
        Self {
            workflow_id: execution.workflow_id,
            run_id: execution.run_id,
            status,
            scheduled_at: scheduled_at.and_then(|time| time.to_prost().try_into().ok()),
            started_at: info.start_time.and_then(|time| time.try_into().ok()),
            closed_at: info.close_time.and_then(|time| time.try_into().ok()),
        }
    }
}

impl Schedules {
    /// The runs that a schedule started, found by the search attribute that the server gives them.
    /// Also those of a deleted schedule, as long as the namespace keeps them.
    ///
    /// The server's search lags a little behind: a run started a moment ago may be missing.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Config`] for an id with quotes or backslashes, or a range that is none. An
    /// id that no schedule has is no error: there are no runs.
    pub async fn runs(&self, id: &str, filter: &RunFilter) -> Result<Runs, ScheduleError> {
        let query = filter.query(id)?;
        let mut found = Runs {
            runs: Vec::new(),
            more: false,
        };
        let mut token = Vec::new();
        // A page can be empty and still have a successor, but not for ever.
        for _ in 0..=filter.limit / PAGE + 10 {
            let wanted = filter.limit.saturating_sub(found.runs.len());
            if wanted == 0 {
                found.more = true;
                break;
            }
            let page = self.page(id, &query, wanted.min(PAGE), token).await?;
            found.more = page.executions.len() > wanted || !page.next_page_token.is_empty();
            found
                .runs
                .extend(page.executions.into_iter().take(wanted).map(Run::read));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    async fn page(
        &self,
        id: &str,
        query: &str,
        size: usize,
        token: Vec<u8>,
    ) -> Result<ListWorkflowExecutionsResponse, ScheduleError> {
        let request = ListWorkflowExecutionsRequest {
            namespace: self.client.namespace(),
            page_size: i32::try_from(size).unwrap_or(i32::MAX),
            next_page_token: token,
            query: query.to_owned(),
        };
        let mut service = self.service();
        let call = service.list_workflow_executions(request.into_request());
        self.answer(id, "list the runs of", call).await
    }
}
