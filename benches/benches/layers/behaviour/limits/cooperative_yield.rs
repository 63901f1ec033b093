use std::{future::poll_fn, pin::pin, task::Context, time::Duration};

use anyhow::Result;
use tokio::task::coop;
use toolweir_semaphore::{SemaphoreConfig, SemaphoreLayer};
use tower::{Layer as _, buffer::Buffer, limit::ConcurrencyLimit, load_shed::LoadShed};

use super::super::{
    Behaviour, TOWER,
    server::{Ask, Server},
    tool::{Ended, Tool, call},
};

pub(crate) fn behaviour() -> Behaviour {
    let what =
        "a task whose turn is over, which must yield, is not told that all permits are taken";
    Behaviour::new(what, ours).beside(TOWER, tower)
}

/// With no wait allowed: what is not free is refused at once. Both are over tower's `Buffer`, which is
/// not ready in such a task, however empty it is.
async fn ours() -> Result<bool> {
    let config = SemaphoreConfig::builder().permits(10);
    let config = config.max_wait(Duration::ZERO).build()?;
    let buffer = Buffer::new(Server::default(), 10);
    is_let_through(SemaphoreLayer::new(config).layer(buffer)).await
}

async fn tower() -> Result<bool> {
    let buffer = Buffer::new(Server::default(), 10);
    is_let_through(LoadShed::new(ConcurrencyLimit::new(buffer, 10))).await
}

async fn is_let_through(tool: impl Tool) -> Result<bool> {
    let call = tokio::spawn(async move {
        let mut call = pin!(call(tool, Ask::Answer));
        let mut busy = true;
        let busy = poll_fn(|cx| {
            if std::mem::take(&mut busy) {
                use_up_the_turn(cx);
            }
            call.as_mut().poll(cx)
        });
        busy.await
    });
    Ok(call.await? == Ended::Answered)
}

/// As a task does that has found much to do since it last yielded.
fn use_up_the_turn(cx: &mut Context<'_>) {
    while coop::has_budget_remaining() {
        // Its work is to be done, not to be waited for.
        let _ = pin!(coop::consume_budget()).poll(cx);
    }
}
