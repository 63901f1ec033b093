//! One warm-up, in a task of its own.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{task::AbortHandle, time::timeout};
use toolweir_core::{AsRejection as _, BoxError, Rejection, error_text};

use crate::{WarmUpConfig, shared::Shared, state::Landed, step::Step};

/// How often the steps are run while the connection changes under them.
const ROUNDS: usize = 3;

pub(crate) type Epoch = Box<dyn Fn() -> u64 + Send + Sync>;

/// What a warm-up does, the same each time.
pub(crate) struct Plan {
    pub(crate) config: WarmUpConfig,
    pub(crate) steps: Vec<Step>,
    pub(crate) epoch: Option<Epoch>,
}

impl Plan {
    /// Runs the steps in their own time, and returns the epoch for which they were run.
    async fn run(&self, flight: &mut Flight) -> Result<u64, Landed> {
        for _ in 0..ROUNDS {
            // The first step may connect, and so bring the epoch about. From then on it must hold.
            let mut connected = None;
            for step in &self.steps {
                flight.enter(step.name.clone());
                self.step(step).await?;
                connected.get_or_insert_with(|| self.epoch());
            }
            let epoch = self.epoch();
            if connected == Some(epoch) {
                return Ok(epoch);
            }
        }
        Err(failed(format!(
            "the connection changed during each of {ROUNDS} rounds of the steps"
        )))
    }

    async fn step(&self, step: &Step) -> Result<(), Landed> {
        let name = &step.name;
        let limit = self.config.step_timeout;
        match timeout(limit, step.step.warm_up()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(not_done(name, &error)),
            Err(_) => Err(failed(format!("step {name:?} took longer than {limit:?}"))),
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.as_ref().map_or(0, |epoch| epoch())
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("config", &self.config)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

fn not_done(name: &str, error: &BoxError) -> Landed {
    let text = error_text(&**error);
    let text = format!("step {name:?}: {text}").into();
    match error.as_rejection() {
        Some(rejection) => Landed::Refused {
            error: text,
            rejection: in_step(name, rejection),
        },
        None => Landed::Failed { error: text },
    }
}

/// The refusal of a layer further in, as calls are told of it: its own, and where it was met.
fn in_step(name: &str, rejection: &Rejection) -> Rejection {
    let mut detail = format!("step {name:?} of the warm-up");
    if let Some(said) = rejection.detail() {
        detail.push_str(": ");
        detail.push_str(said);
    }
    rejection.clone().with_detail(detail)
}

fn failed(error: String) -> Landed {
    Landed::Failed {
        error: error.into(),
    }
}

/// Reports to the shared state how a warm-up goes. It says so too if the task panics or is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    shared: Weak<Shared>,
    number: u64,
    step: Option<Arc<str>>,
    landed: Option<Landed>,
}

impl Flight {
    pub(crate) const fn new(shared: Weak<Shared>, number: u64) -> Self {
        Self {
            shared,
            number,
            step: None,
            landed: None,
        }
    }

    /// Runs the plan in a task, which lives as long as the shared state, and `timeout` at most.
    pub(crate) fn launch(mut self, plan: Arc<Plan>) -> AbortHandle {
        let task = async move {
            let limit = plan.config.timeout;
            let landed = match timeout(limit, plan.run(&mut self)).await {
                Ok(Ok(epoch)) => Landed::Warm { epoch },
                Ok(Err(landed)) => landed,
                Err(_) => self.too_long(limit),
            };
            self.finish(landed);
        };
        tokio::spawn(task).abort_handle()
    }

    fn enter(&mut self, step: Arc<str>) {
        self.step = Some(step.clone());
        if let Some(shared) = self.shared.upgrade() {
            shared.enter(self.number, step);
        }
    }

    fn finish(mut self, landed: Landed) {
        self.landed = Some(landed);
    }

    fn too_long(&self, limit: Duration) -> Landed {
        let step = self.step.as_deref().unwrap_or_default();
        failed(format!(
            "not done within {limit:?}; it was at step {step:?}"
        ))
    }

    fn cut_off(&self) -> Landed {
        let step = self.step.as_deref().unwrap_or_default();
        failed(if std::thread::panicking() {
            format!("step {step:?} panicked")
        } else {
            format!("the runtime ended during step {step:?}")
        })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let landed = self.landed.take().unwrap_or_else(|| self.cut_off());
            shared.land(self.number, landed);
        }
    }
}
