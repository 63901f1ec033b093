//! One call to the server.

use std::time::Duration;

use temporalio_client::tonic::{Response, Status};
use tokio::time::timeout;

use crate::ScheduleError;

/// Awaits an answer, retries by the client included, no longer than `within`.
pub(crate) async fn answer<T>(
    within: Duration,
    schedule_id: &str,
    operation: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ScheduleError> {
    match timeout(within, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(ScheduleError::from_status(schedule_id, operation, status)),
        Err(_) => Err(ScheduleError::TimedOut {
            schedule_id: schedule_id.to_owned(),
            operation,
            waited: within,
        }),
    }
}

/// Names a request, so that the server carries it out once, however often the client repeats it.
pub(crate) fn request_id() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}
