//! A circuit for each key.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use toolweir_circuit_breaker::CircuitBreaker;
use toolweir_core::{
    AsRejection, CarryLease, ErrIsFailure, Facts, Lease, LeaseOwner, LeaseSlot, Rejection,
};

use super::*;

/// A call of a tool, and whether it succeeds.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    tool: String,
    works: bool,
    leases: LeaseSlot,
}

impl CarryLease for Named {
    fn put_lease(&mut self, lease: Lease) {
        self.leases.put_lease(lease);
    }

    fn take_lease(&mut self, owner: &dyn LeaseOwner) -> Option<Lease> {
        self.leases.take_lease(owner)
    }
}

/// The key is the tool's name, and without one there is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool;

impl Facts<Named> for Tool {
    fn key<'r>(&self, call: &'r Named) -> Option<&'r str> {
        (!call.tool.is_empty()).then_some(&call.tool)
    }
}

pub(crate) type Keyed = CircuitBreakerLayer<ErrIsFailure, Tool>;
type Answered = Result<(), BoxError>;

fn named(tool: &str, works: bool) -> Named {
    Named {
        tool: tool.into(),
        works,
        leases: LeaseSlot::new(),
    }
}

fn answer(call: &Named) -> Answered {
    if call.works {
        Ok(())
    } else {
        Err("connection reset".into())
    }
}

fn poll<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it answers at once"),
    }
}

fn refusal(answered: Answered) -> Result<(), Rejection> {
    match answered {
        Err(error) => error.as_rejection().cloned().map_or(Ok(()), Err),
        Ok(()) => Ok(()),
    }
}

/// Makes a call through the whole breaker.
pub(crate) fn call(layer: &Keyed, tool: &str, works: bool) -> Result<(), Rejection> {
    let server = service_fn(|call: Named| std::future::ready(answer(&call)));
    refusal(poll(layer.layer(server).call(named(tool, works))))
}

/// Makes a call through both halves.
fn call_halves(layer: &Keyed, tool: &str, works: bool) -> Result<(), Rejection> {
    let server = service_fn(|call: Named| std::future::ready(answer(&call)));
    let mut halves = layer.admission().layer(layer.observation().layer(server));
    refusal(poll(halves.call(named(tool, works))))
}

/// A call that is under way until it is dropped.
fn begin(layer: &Keyed, tool: &str) -> Result<Pin<Box<dyn Future<Output = Answered>>>, Rejection> {
    let hung = service_fn(|_: Named| std::future::pending::<Answered>());
    let mut breaker: CircuitBreaker<_, _, _> = layer.layer(hung);
    let mut call = Box::pin(breaker.call(named(tool, true)));
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Ok(call),
        Poll::Ready(answered) => Err(refusal(answered).unwrap_err()),
    }
}

fn layer(builder: CircuitBreakerConfigBuilder) -> Keyed {
    CircuitBreakerLayer::new(builder.build().unwrap())
        .name("music")
        .with_facts(Tool)
        .by_key()
}

fn break_tool(layer: &Keyed, tool: &str) {
    for _ in 0..5 {
        call(layer, tool, false).unwrap();
    }
    assert!(layer.handle().for_key(tool).is_open());
}

#[tokio::test(start_paused = true)]
async fn one_tool_that_is_broken_does_not_shut_out_the_others() {
    let layer = layer(config());
    break_tool(&layer, "search");
    let rejection = call(&layer, "search", true).unwrap_err();
    assert_eq!(rejection.reason(), Reason::CircuitOpen);
    assert_eq!(rejection.key(), Some("search"));
    assert_eq!(rejection.retry_after(), Some(OPEN));
    call(&layer, "play", true).unwrap();
    call(&layer, "", true).unwrap();
    assert!(!layer.handle().is_open());
}

#[tokio::test(start_paused = true)]
async fn by_default_there_is_one_circuit_for_all() {
    let config = config().build().unwrap();
    let layer = CircuitBreakerLayer::new(config)
        .name("music")
        .with_facts(Tool);
    for tool in ["search", "play", "login", "like", "list"] {
        call(&layer, tool, false).unwrap();
    }
    let rejection = call(&layer, "share", true).unwrap_err();
    assert_eq!(rejection.key(), Some("music"));
    assert_eq!(layer.handle().keys().keys, 0);
}

#[tokio::test(start_paused = true)]
async fn a_layer_for_a_key_shares_the_circuit_that_requests_find() {
    let layer = layer(config());
    let search = layer.for_key("search");
    break_tool(&layer, "search");
    // Whatever the request says.
    let rejection = call(&search, "play", true).unwrap_err();
    assert_eq!(rejection.key(), Some("search"));
    assert_eq!(search.handle().key(), Some("search"));
    assert!(search.handle().is_open());
    advance(OPEN).await;
    call(&search, "", true).unwrap();
    call(&search, "", true).unwrap();
    call(&layer, "search", true).unwrap();
    assert_eq!(layer.handle().for_key("search").state().window.calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_belongs_to_the_servers_own_circuit() {
    let layer = layer(config());
    for _ in 0..5 {
        call(&layer, "", false).unwrap();
    }
    let rejection = call(&layer, "", true).unwrap_err();
    assert_eq!(rejection.key(), Some("music"));
    assert_eq!(layer.handle().key(), None);
    call(&layer, "search", true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_halves_find_the_same_circuit() {
    let layer = layer(config());
    for _ in 0..5 {
        call_halves(&layer, "search", false).unwrap();
    }
    assert_eq!(
        call_halves(&layer, "search", true).unwrap_err().key(),
        Some("search")
    );
    call_halves(&layer, "play", true).unwrap();
    advance(OPEN).await;
    call_halves(&layer, "search", true).unwrap();
    // A lease was taken: it counts as a probe, which a call without one does not.
    let search = layer.handle().for_key("search");
    assert_eq!(search.state().probes.successes, 1);
}

#[tokio::test(start_paused = true)]
async fn observation_asks_for_the_key_only_where_there_is_no_lease() {
    #[derive(Clone)]
    struct Counts(std::rc::Rc<std::cell::Cell<u32>>);

    impl Facts<Named> for Counts {
        fn key<'r>(&self, call: &'r Named) -> Option<&'r str> {
            self.0.set(self.0.get() + 1);
            Some(&call.tool)
        }
    }

    let asked = std::rc::Rc::new(std::cell::Cell::new(0));
    let layer = layer(config()).with_facts(Counts(asked.clone()));
    let server = service_fn(|call: Named| std::future::ready(answer(&call)));
    let observer = layer.observation().layer(server);
    poll(
        layer
            .admission()
            .layer(observer.clone())
            .call(named("search", true)),
    )
    .unwrap();
    assert_eq!(asked.get(), 1);
    poll(observer.clone().call(named("search", true))).unwrap();
    assert_eq!(asked.get(), 2);
    assert_eq!(layer.handle().for_key("search").state().window.calls, 2);
}

#[tokio::test(start_paused = true)]
async fn a_hold_on_the_server_is_a_hold_on_all_keys() {
    let layer = layer(config());
    break_tool(&layer, "search");
    layer.handle().hold_open("migration", Some(secs(60)));
    for tool in ["search", "play", ""] {
        let rejection = call(&layer, tool, true).unwrap_err();
        assert_eq!(rejection.reason(), Reason::HeldOpen);
        assert_eq!(rejection.detail(), Some("migration"));
    }
    layer.handle().hold_closed("urgent", None);
    call(&layer, "search", true).unwrap();
    layer.handle().release();
    assert_eq!(
        call(&layer, "search", true).unwrap_err().reason(),
        Reason::CircuitOpen
    );
}

#[tokio::test(start_paused = true)]
async fn a_hold_on_the_server_is_a_hold_on_a_layer_for_a_key() {
    let layer = layer(config());
    let search = layer.for_key("search");
    layer.handle().hold_open("migration", Some(secs(60)));
    for made in [call(&search, "", true), call_halves(&search, "", true)] {
        let rejection = made.unwrap_err();
        assert_eq!(rejection.reason(), Reason::HeldOpen);
        assert_eq!(rejection.detail(), Some("migration"));
        assert_eq!(rejection.retry_after(), Some(secs(60)));
    }
    layer.handle().release();
    break_tool(&layer, "search");
    assert!(call(&search, "", true).is_err());
    layer.handle().hold_closed("urgent", None);
    call(&search, "", true).unwrap();
    call_halves(&search, "", true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_handle_of_a_key_tells_of_a_hold_on_the_server() {
    let layer = layer(config());
    let search = layer.handle().for_key("search");
    layer.handle().hold_open("migration", Some(secs(60)));
    assert!(search.is_open());
    assert_eq!(search.reason(), Some(Reason::HeldOpen));
    assert_eq!(search.retry_after(), Some(secs(60)));
    let report = search.report();
    let rejection = call(&layer, "search", true).unwrap_err();
    assert_eq!(report.reason, Some(rejection.to_string()));
    // The state is that of the key's own circuit.
    assert_eq!(search.state().state, Circuit::Closed);

    advance(secs(60)).await;
    assert!(!search.is_open());
    break_tool(&layer, "search");
    assert!(search.is_open());
    layer.handle().hold_closed("urgent", None);
    assert!(!search.is_open());
    assert!(search.report().ready);
}

#[tokio::test(start_paused = true)]
async fn the_first_call_after_a_hold_on_the_server_belongs_to_its_key_again() {
    let layer = layer(config());
    let search = layer.for_key("search");
    break_tool(&layer, "search");
    layer.handle().hold_closed("urgent", Some(secs(10)));
    advance(secs(10)).await;
    for made in [
        call(&layer, "search", true),
        call_halves(&layer, "search", true),
        call(&search, "", true),
    ] {
        assert_eq!(made.unwrap_err().key(), Some("search"));
    }
}

/// Makes a call that waits in a queue after its admission.
fn admit(layer: &Keyed, tool: &str) -> Named {
    let queue = std::sync::Arc::new(std::sync::Mutex::new(None));
    let waiting = queue.clone();
    let outer = service_fn(move |call: Named| {
        *waiting.lock().unwrap() = Some(call);
        std::future::ready(Ok::<_, BoxError>(()))
    });
    poll(layer.admission().layer(outer).call(named(tool, true))).unwrap();
    queue.lock().unwrap().take().unwrap()
}

fn dispatch(layer: &Keyed, queued: Named) -> Result<(), Rejection> {
    let server = service_fn(|call: Named| std::future::ready(answer(&call)));
    refusal(poll(layer.observation().layer(server).call(queued)))
}

#[tokio::test(start_paused = true)]
async fn a_hold_on_the_server_meets_calls_that_wait() {
    let layer = layer(config());
    break_tool(&layer, "search");
    advance(OPEN).await;
    let queued = admit(&layer, "search");
    layer.handle().hold_open("migration", None);
    let rejection = dispatch(&layer, queued).unwrap_err();
    assert_eq!(rejection.reason(), Reason::HeldOpen);
    // Its probe slot is free again.
    let search = layer.handle().for_key("search");
    assert_eq!(search.state().probes.out, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_let_in_by_a_hold_on_the_server_is_its_keys_once_that_is_over() {
    let layer = layer(config());
    break_tool(&layer, "search");
    layer.handle().hold_closed("urgent", Some(secs(10)));
    let (held, keyless) = (admit(&layer, "search"), admit(&layer, ""));
    advance(secs(10)).await;
    let rejection = dispatch(&layer, held).unwrap_err();
    assert_eq!(rejection.key(), Some("search"));
    dispatch(&layer, keyless).unwrap();
    assert_eq!(layer.handle().state().window.calls, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_held_before_its_first_call_and_stays() {
    let layer = layer(config().max_keys(3));
    layer
        .handle()
        .for_key("delete_all")
        .hold_open("dangerous", None);
    for number in 0..100 {
        call(&layer, &number.to_string(), true).unwrap();
    }
    advance(secs(86_400)).await;
    let rejection = call(&layer, "delete_all", true).unwrap_err();
    assert_eq!(rejection.detail(), Some("dangerous"));
    assert_eq!(
        layer.handle().for_key("delete_all").for_server().key(),
        None
    );
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_leaves_where_a_newcomer_needs_room() {
    let layer = layer(config().max_keys(3));
    for tool in ["a", "b", "c"] {
        call(&layer, tool, false).unwrap();
    }
    call(&layer, "a", false).unwrap();
    call(&layer, "d", true).unwrap();
    let mut left: Vec<_> = layer.handle().key_states();
    left.sort_by(|one, other| one.0.cmp(&other.0));
    let left: Vec<_> = left
        .iter()
        .map(|(key, state)| (&**key, state.window.failures))
        .collect();
    assert_eq!(left, [("a", 2), ("c", 1), ("d", 0)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_closed_or_has_a_call_under_way_does_not_leave() {
    let layer = layer(config().max_keys(3));
    break_tool(&layer, "broken");
    let busy = begin(&layer, "busy").unwrap();
    for number in 0..20 {
        call(&layer, &number.to_string(), true).unwrap();
    }
    assert_eq!(
        call(&layer, "broken", true).unwrap_err().reason(),
        Reason::CircuitOpen
    );
    // The call is still that circuit's.
    drop(busy);
    for _ in 0..5 {
        call(&layer, "busy", false).unwrap();
    }
    assert!(call(&layer, "busy", true).is_err());
}

#[tokio::test(start_paused = true)]
async fn newcomers_share_one_circuit_where_none_may_leave_and_never_pass_unlimited() {
    let layer = layer(config().max_keys(2));
    break_tool(&layer, "a");
    break_tool(&layer, "b");
    assert!(layer.handle().overflow().is_none());
    for number in 0..5 {
        call(&layer, &number.to_string(), false).unwrap();
    }
    let rejection = call(&layer, "c", true).unwrap_err();
    assert_eq!(rejection.key(), Some("(other keys)"));
    let overflow = layer.handle().overflow().unwrap();
    assert!(overflow.is_open());
    let figures = layer.handle().keys();
    assert_eq!((figures.keys, figures.max_keys), (2, 2));
    assert_eq!((figures.overflowed, figures.evicted), (6, 0));
    assert_eq!(layer.handle().key_states().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_too_long_is_not_kept() {
    let layer = layer(config());
    call(&layer, &"x".repeat(256), true).unwrap();
    assert_eq!(layer.handle().keys().overflowed, 0);
    call(&layer, &"x".repeat(257), true).unwrap();
    let figures = layer.handle().keys();
    assert_eq!((figures.keys, figures.overflowed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_idle_key_is_forgotten() {
    let layer = layer(config().key_idle(secs(60)));
    for _ in 0..4 {
        call(&layer, "search", false).unwrap();
    }
    advance(secs(60) - MILLI).await;
    call(&layer, "search", false).unwrap();
    assert!(layer.handle().for_key("search").is_open());

    for _ in 0..4 {
        call(&layer, "play", false).unwrap();
    }
    advance(secs(60)).await;
    call(&layer, "play", false).unwrap();
    assert!(!layer.handle().for_key("play").is_open());
}

#[tokio::test(start_paused = true)]
async fn an_idle_key_that_is_open_is_forgotten_only_once_it_would_let_a_call_pass() {
    let config = config()
        .key_idle(secs(60))
        .wait_duration_in_open_state(secs(300));
    let layer = layer(config);
    break_tool(&layer, "search");
    advance(secs(300) - MILLI).await;
    assert!(call(&layer, "search", true).is_err());
    advance(secs(60)).await;
    call(&layer, "search", true).unwrap();
    let state = layer.handle().for_key("search").state();
    assert_eq!((state.state, state.window.calls), (Circuit::Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_listener_keeps_its_key() {
    let layer = layer(config().max_keys(1));
    let mut transitions = layer.handle().for_key("search").subscribe();
    call(&layer, "play", true).unwrap();
    advance(secs(86_400)).await;
    break_tool(&layer, "search");
    assert_eq!(transitions.try_next().unwrap().to, Circuit::Open);
    drop(transitions);
    advance(secs(86_400)).await;
    call(&layer, "play", true).unwrap();
    assert_eq!(layer.handle().key_states()[0].0, "play".into());
}

/// A lease goes back to the circuit that gave it, though its key has been forgotten in between.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_keeps_the_circuit_that_admitted_it() {
    let layer = layer(config().max_keys(1).key_idle(secs(60)));
    break_tool(&layer, "search");
    advance(OPEN).await;
    let queued = admit(&layer, "search");
    advance(secs(29)).await;
    call(&layer, "play", true).unwrap();
    dispatch(&layer, queued).unwrap();
    let search = layer.handle().for_key("search").state();
    assert_eq!(
        (search.state, search.probes.successes),
        (Circuit::HalfOpen, 1)
    );
}
