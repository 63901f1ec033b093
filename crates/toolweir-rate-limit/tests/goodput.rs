//! A thousand calls at once against servers with a limit, on a paused clock: how many are one too
//! many, how often each comes, and how long it all takes.

#![expect(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use toolweir_core::{Classify, Delivery, Facts, Observation, Outcome, Rejection};
use toolweir_rate_limit::{RateLimitConfig, RateLimitHandle, RateLimitLayer};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// How the server counts.
#[derive(Debug, Clone, Copy)]
enum Counts {
    /// So many come back in a second, and so many are kept.
    Bucket { rate: f64, burst: f64 },
    /// So many in each second.
    Window { calls: u64 },
}

#[derive(Debug)]
struct Server {
    begun: Instant,
    counts: Counts,
    /// From when on it has which rate.
    changes: Vec<(Duration, f64)>,
    cells: f64,
    at: Duration,
    window: (u64, u64),
    served: Vec<Duration>,
    refused: Vec<Duration>,
}

impl Server {
    fn new(counts: Counts) -> Self {
        Self {
            begun: Instant::now(),
            counts,
            changes: Vec::new(),
            cells: if let Counts::Bucket { burst, .. } = counts {
                burst
            } else {
                0.0
            },
            at: Duration::ZERO,
            window: (0, 0),
            served: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// When to come back, if this call is one too many.
    fn answer(&mut self) -> Option<Duration> {
        let now = self.begun.elapsed();
        let is_served = match self.counts {
            Counts::Bucket { rate, burst } => {
                let mut past = self.changes.iter().filter(|change| change.0 <= now);
                let rate = past.next_back().map_or(rate, |change| change.1);
                let back = (now - self.at).as_secs_f64() * rate;
                self.cells = (self.cells + back).min(burst);
                let is_served = self.cells > 1.0 - 1e-9;
                self.cells -= f64::from(u8::from(is_served));
                is_served
            }
            Counts::Window { calls } => {
                if self.window.0 != now.as_secs() {
                    self.window = (now.as_secs(), 0);
                }
                self.window.1 += 1;
                self.window.1 <= calls
            }
        };
        self.at = now;
        if is_served {
            self.served.push(now);
            return None;
        }
        self.refused.push(now);
        Some(SECOND)
    }
}

/// Chance that is the same each time.
#[derive(Debug, Default)]
struct Chance(AtomicU64);

impl Chance {
    fn up_to(&self, most: Duration) -> Duration {
        let mut bits = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let part = u32::try_from((bits ^ (bits >> 31)) >> 40).unwrap();
        most * part / (1 << 24)
    }
}

#[derive(Debug, Clone, Copy)]
struct Ids(bool);

impl Facts<Arc<str>> for Ids {
    fn call_id<'r>(&self, call: &'r Arc<str>) -> Option<&'r str> {
        self.0.then_some(call)
    }
}

#[derive(Debug, Clone, Copy)]
struct ReadAnswer;

impl Classify<Option<Duration>, Rejection> for ReadAnswer {
    fn classify(&self, result: Result<&Option<Duration>, &Rejection>) -> Observation {
        let outcome = match result {
            Ok(None) => Outcome::Success,
            Ok(retry_after) => Outcome::Throttled {
                retry_after: *retry_after,
            },
            Err(_) => Outcome::Failure,
        };
        Observation::new(outcome, Delivery::Executed)
    }
}

#[derive(Debug)]
struct Run {
    throttled: usize,
    makespan: f64,
    attempts: Vec<u32>,
    served: Vec<Duration>,
    handle: RateLimitHandle,
}

impl Run {
    fn mean_attempts(&self) -> f64 {
        let calls = u32::try_from(self.attempts.len()).unwrap();
        f64::from(self.attempts.iter().sum::<u32>()) / f64::from(calls)
    }

    fn most_attempts(&self) -> u32 {
        *self.attempts.iter().max().unwrap()
    }

    fn served_between(&self, from: u64, to: u64) -> usize {
        let all = self.served.iter();
        all.filter(|at| (from..to).contains(&at.as_secs())).count()
    }
}

type Service = BoxCloneSyncService<Arc<str>, Option<Duration>, Rejection>;

/// One limiter, and a server behind it. Calls and answers are on their way for 5 to 15 milliseconds
/// each.
struct Client {
    service: Service,
    handle: RateLimitHandle,
    server: Arc<Mutex<Server>>,
    chance: Arc<Chance>,
}

impl Client {
    fn new(config: RateLimitConfig, server: Server, ids: bool) -> Self {
        let layer = RateLimitLayer::new(config)
            .with_facts(Ids(ids))
            .with_classifier(ReadAnswer);
        let (server, chance) = (Arc::new(Mutex::new(server)), Arc::new(Chance::default()));
        let service = layer.layer(service_fn({
            let (server, chance) = (server.clone(), chance.clone());
            move |_: Arc<str>| {
                let (server, chance) = (server.clone(), chance.clone());
                async move {
                    sleep(5 * MILLI + chance.up_to(10 * MILLI)).await;
                    let answer = server.lock().unwrap().answer();
                    sleep(5 * MILLI + chance.up_to(10 * MILLI)).await;
                    Ok::<_, Rejection>(answer)
                }
            }
        }));
        Self {
            service: BoxCloneSyncService::new(service),
            handle: layer.handle(),
            server,
            chance,
        }
    }

    /// Makes all calls at once. Whoever is refused comes back when told, and a little late.
    async fn make(&self, calls: usize) -> Run {
        let (begin, served, refused) = {
            let server = self.server.lock().unwrap();
            let begin = server.begun.elapsed();
            (begin, server.served.len(), server.refused.len())
        };
        let callers: Vec<_> = (0..calls)
            .map(|number| {
                let id: Arc<str> = format!("call-{number}").into();
                tokio::spawn(call(self.service.clone(), id, self.chance.clone()))
            })
            .collect();
        let mut attempts = Vec::new();
        for caller in callers {
            attempts.push(caller.await.unwrap());
        }
        let server = self.server.lock().unwrap();
        let served = server.served[served..].iter().map(|at| *at - begin);
        let served: Vec<_> = served.collect();
        assert_eq!(served.len(), calls);
        Run {
            throttled: server.refused.len() - refused,
            makespan: served.last().unwrap().as_secs_f64(),
            attempts,
            served,
            handle: self.handle.clone(),
        }
    }
}

/// How often a call is made.
async fn call(service: Service, id: Arc<str>, chance: Arc<Chance>) -> u32 {
    for attempt in 1.. {
        let wait = match service.clone().oneshot(id.clone()).await {
            Ok(None) => return attempt,
            Ok(Some(wait)) => wait,
            Err(refusal) => refusal.retry_after().unwrap(),
        };
        sleep(wait + chance.up_to(20 * MILLI)).await;
    }
    unreachable!()
}

async fn run(config: RateLimitConfig, server: Server, calls: usize, ids: bool) -> Run {
    Client::new(config, server, ids).make(calls).await
}

fn learned() -> RateLimitConfig {
    RateLimitConfig::builder().learned().build().unwrap()
}

const fn bucket(rate: f64, burst: f64) -> Counts {
    Counts::Bucket { rate, burst }
}

/// The shortest time in which a server of ten a second and a burst of ten takes a thousand calls.
const IDEAL: f64 = 99.0;

/// Two percent of a thousand.
const FEW: usize = 20;

/// The server's own quota, less a margin for calls that are on their way for longer or shorter.
fn known() -> RateLimitConfig {
    let quota = RateLimitConfig::builder().quota(98, 10 * SECOND).burst(9);
    quota.build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn with_the_quota_known_no_call_is_one_too_many_and_each_comes_twice_at_most() {
    let run = run(known(), Server::new(bucket(10.0, 10.0)), 1000, true).await;
    assert_eq!(run.throttled, 0);
    assert!(run.makespan <= 1.05 * IDEAL, "{} s", run.makespan);
    assert_eq!(run.most_attempts(), 2);
    let state = run.handle.state();
    assert_eq!((state.booked_calls, state.redeemed_bookings), (989, 989));
    assert_eq!((state.bookings, state.lapsed_bookings), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_learned_rate_is_near_the_servers_own_with_few_calls_too_many() {
    let run = run(learned(), Server::new(bucket(10.0, 10.0)), 1000, true).await;
    assert!(run.throttled <= FEW, "{} throttled", run.throttled);
    assert!(run.makespan <= 1.15 * IDEAL, "{} s", run.makespan);
    // A time that is told before the rate is known is a guess.
    assert!(run.mean_attempts() <= 4.0, "{}", run.mean_attempts());
    assert_eq!(run.handle.state().lapsed_bookings, 0);
}

#[tokio::test(start_paused = true)]
async fn once_the_rate_is_learned_each_comes_twice_at_most() {
    let client = Client::new(learned(), Server::new(bucket(10.0, 10.0)), true);
    client.make(1000).await;
    for rest in [Duration::ZERO, 7 * SECOND, 3600 * SECOND] {
        sleep(rest).await;
        let run = client.make(1000).await;
        assert_eq!(run.throttled, 0);
        assert!(run.makespan <= 1.15 * IDEAL, "{} s", run.makespan);
        assert_eq!(run.most_attempts(), 2);
    }
    let state = client.handle.state();
    assert_eq!((state.bookings, state.lapsed_bookings), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_server_moves_no_slot_that_was_told() {
    let client = Client::new(learned(), Server::new(bucket(10.0, 10.0)), true);
    client.make(1000).await;
    let pause = async {
        sleep(10 * SECOND).await;
        client.handle.pause(SECOND);
    };
    let (run, ()) = tokio::join!(client.make(1000), pause);
    assert!(run.makespan <= 1.15 * IDEAL, "{} s", run.makespan);
    // Those who are late until all has caught up are told again.
    assert!(run.mean_attempts() <= 2.5, "{}", run.mean_attempts());
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_learned_without_bookings_too() {
    let run = run(learned(), Server::new(bucket(10.0, 10.0)), 1000, false).await;
    assert!(run.throttled <= FEW, "{} throttled", run.throttled);
    assert!(run.makespan <= 1.15 * IDEAL, "{} s", run.makespan);
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_a_server_that_counts_in_seconds_is_learned() {
    let server = Server::new(Counts::Window { calls: 10 });
    let run = run(learned(), server, 1000, true).await;
    assert!(run.throttled <= FEW, "{} throttled", run.throttled);
    assert!(run.makespan <= 1.15 * IDEAL, "{} s", run.makespan);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_becomes_slower_and_faster_is_followed() {
    let mut server = Server::new(bucket(10.0, 10.0));
    server.changes = vec![(30 * SECOND, 5.0), (90 * SECOND, 20.0)];
    let run = run(learned(), server, 2000, true).await;
    assert!(run.throttled <= 2 * FEW, "{} throttled", run.throttled);
    let [before, slower] = [run.served_between(10, 30), run.served_between(40, 90)];
    assert!((180..=220).contains(&before), "{before} of 200");
    assert!((225..=260).contains(&slower), "{slower} of 250");
    let [at_first, later] = [run.served_between(90, 110), run.served_between(140, 160)];
    assert!(later > at_first, "{at_first}, and then {later}");
}
