//! One request to a server: sent, waited for, and taken back when nobody waits any more.

use std::time::Duration;

use rmcp::{
    Peer, RoleClient, ServiceError,
    model::{
        CallToolRequest, CallToolRequestParams, CallToolResponse, CallToolResult,
        CancelledNotificationParam, ClientRequest, RequestId, ServerResult,
    },
    service::{PeerRequestOptions, RequestHandle},
};
use tokio::{
    sync::watch,
    time::{Instant, error::Elapsed, sleep_until, timeout_at},
};
use toolweir_core::time::saturating_add;

use crate::{Progress, ToolCall, connection::UnderWay, service::Limits};

/// The time was over; the server has been told.
pub(crate) struct TimedOut;

impl From<Elapsed> for TimedOut {
    fn from(_: Elapsed) -> Self {
        Self
    }
}

/// What a server answers, or why there is no answer.
pub(crate) type Answer = Result<CallToolResponse, ServiceError>;

/// Calls a tool. Its time ends at `until`, or earlier when it is silent for too long. It may be sent
/// `again`, or this takes its arguments.
pub(crate) async fn call(
    link: &UnderWay,
    call: &mut ToolCall,
    limits: &Limits,
    until: Instant,
    again: bool,
) -> Result<Answer, TimedOut> {
    let params = call.params(limits.marks, again);
    let idle = call.idle_timeout().or(limits.idle_timeout);
    match (call.progress(), idle) {
        // Dropped when the time is over, rmcp's future tells the server.
        (None, None) => Ok(timeout_at(until, link.peer().call_tool_once(params)).await?),
        // Large, and not what most calls need.
        (progress, _) => {
            let progress = progress.cloned().unwrap_or_default();
            Box::pin(with_progress(link, params, progress, idle, until)).await
        }
    }
}

async fn with_progress(
    link: &UnderWay,
    params: CallToolRequestParams,
    progress: watch::Sender<Option<Progress>>,
    idle: Option<Duration>,
    until: Instant,
) -> Result<Answer, TimedOut> {
    let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
    let sent = timeout_at(until, Sent::send(link.peer(), request)).await?;
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) => return Ok(Err(error)),
    };
    let route = link
        .listener()
        .route(&sent.handle.progress_token, &progress);
    tokio::select! {
        biased;
        answer = sent.answer() => Ok(answer.and_then(of_tool)),
        () = silence(route.heard(), idle, until) => Err(TimedOut),
    }
}

/// Asks anything else, and takes the question back when the future is dropped.
pub(crate) async fn ask(
    peer: &Peer<RoleClient>,
    request: ClientRequest,
) -> Result<ServerResult, ServiceError> {
    Sent::send(peer, request).await?.answer().await
}

/// Returns at `until`, or when there was no report for as long as `idle`.
async fn silence(mut heard: watch::Receiver<()>, idle: Option<Duration>, until: Instant) {
    loop {
        let silent = idle.map(|idle| saturating_add(Instant::now(), idle));
        let end = silent.map_or(until, |silent| silent.min(until));
        tokio::select! {
            biased;
            () = sleep_until(end) => {
                // A busy runtime may see a report and the end at once: then it was not silent.
                let was_heard = matches!(heard.has_changed(), Ok(true));
                if !was_heard || until <= Instant::now() {
                    return;
                }
                heard.mark_unchanged();
            }
            // The route holds a sender as long as this is polled.
            _ = heard.changed() => {}
        }
    }
}

fn of_tool(result: ServerResult) -> Answer {
    match result {
        ServerResult::CallToolResult(result) => Ok(CallToolResponse::Complete(result)),
        ServerResult::InputRequiredResult(result) => Ok(CallToolResponse::InputRequired(result)),
        ServerResult::CreateTaskResult(result) => Ok(CallToolResponse::Task(result)),
        // An answer without content is one.
        ServerResult::EmptyResult(_) => Ok(CallToolResponse::Complete(CallToolResult::default())),
        _ => Err(ServiceError::UnexpectedResponse),
    }
}

/// A request that was sent. Dropped without its answer it is taken back: rmcp does not do so for
/// requests sent in this way, and would keep its note of it as long as the connection lives.
struct Sent {
    handle: RequestHandle<RoleClient>,
    abandoned: Abandoned,
}

impl Sent {
    async fn send(peer: &Peer<RoleClient>, request: ClientRequest) -> Result<Self, ServiceError> {
        let options = PeerRequestOptions::no_options();
        let handle = peer.send_cancellable_request(request, options).await?;
        let abandoned = Abandoned {
            peer: peer.clone(),
            id: Some(handle.id.clone()),
        };
        Ok(Self { handle, abandoned })
    }

    async fn answer(mut self) -> Result<ServerResult, ServiceError> {
        let answer = (&mut self.handle.rx).await;
        self.abandoned.id = None;
        answer.map_err(|_| ServiceError::TransportClosed)?
    }
}

struct Abandoned {
    peer: Peer<RoleClient>,
    id: Option<RequestId>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let peer = self.peer.clone();
        // Sending needs a place in rmcp's queue, which a drop cannot wait for.
        runtime.spawn(async move {
            let cancelled = CancelledNotificationParam::new(Some(id), None);
            let _ = peer.notify_cancelled(cancelled).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future as _, poll_fn},
        pin::pin,
        task::Poll,
    };

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_report_that_is_seen_late_was_no_silence() {
        let (idle, second) = (Duration::from_secs(10), Duration::from_secs(1));
        let until = Instant::now() + idle * 4;
        let (heard, hears) = watch::channel(());
        let mut silent = pin!(silence(hears, Some(idle), until));
        for _ in 0..3 {
            let waits = poll_fn(|cx| Poll::Ready(silent.as_mut().poll(cx).is_pending()));
            assert!(waits.await);
            advance(idle - second).await;
            heard.send_replace(());
            // Nobody has looked since.
            advance(second * 2).await;
        }
        let waits = poll_fn(|cx| Poll::Ready(silent.as_mut().poll(cx).is_pending()));
        assert!(waits.await);
        // However much it says, its time has an end.
        heard.send_replace(());
        advance(idle).await;
        silent.await;
        assert!(Instant::now() < until + second * 5);
    }
}
