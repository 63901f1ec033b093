//! One answer from all layers: would a call go through now?

use std::time::Duration;

use toolweir_core::{AsRejection as _, BoxError, Rejection, ReportState, time::millis_ceil};
use toolweir_mcp::Entry;
use toolweir_workflow::{Check, PreflightReport};

/// The layers whose state is only read.
const READ: [&str; 3] = ["circuit-breaker", "semaphore", "rate-limit"];
const WARM_UP: &str = "warm-up";
const TOKEN_FRESHNESS: &str = "token-freshness";
const HEALTH_GATE: &str = "health-gate";
/// A token that ends sooner than this is refreshed now.
const MIN_TTL: Duration = Duration::ZERO;

/// Asks the layers from the cheapest answer on. A cold server is warmed, a token refreshed, and a
/// server whose health is not known probed: what a run would have to wait for is done before it.
pub(crate) async fn report(entry: &Entry) -> PreflightReport {
    let mut checks = read(entry);
    // An open circuit or a pause says enough. Calls would only make it worse.
    if checks.iter().all(|check| check.ready) {
        checks.push(warm_up(entry).await);
        checks.push(token(entry).await);
        checks.push(health(entry).await);
    }
    PreflightReport::from_checks(checks)
}

fn read(entry: &Entry) -> Vec<Check> {
    let reports: Vec<_> = entry.states().map(ReportState::report).collect();
    let mut checks: Vec<Check> = READ
        .iter()
        .filter(|name| reports.iter().all(|report| report.layer != **name))
        .map(|name| Check::not_configured(*name))
        .collect();
    // The layers that are asked below answer for themselves.
    let asked = [WARM_UP, TOKEN_FRESHNESS, HEALTH_GATE];
    checks.extend(
        reports
            .into_iter()
            .filter(|report| !asked.contains(&report.layer.as_ref()))
            .map(|report| {
                if report.ready {
                    // A layer may let calls through and still have something to say: that the
                    // server asked for a pause, which another keeps.
                    let mut check = Check::ready(report.layer);
                    check.reason = report.reason;
                    check.retry_after_ms = report.retry_after_ms;
                    return check;
                }
                let reason = report.reason.unwrap_or_else(|| report.layer.to_string());
                Check::refusing(report.layer, reason, report.retry_after_ms)
            }),
    );
    checks
}

async fn warm_up(entry: &Entry) -> Check {
    let Some(warm_up) = entry.warm_up() else {
        return Check::not_configured(WARM_UP);
    };
    of_result(WARM_UP, warm_up.warm_up().await)
}

async fn token(entry: &Entry) -> Check {
    let Some(token) = entry.token() else {
        return Check::not_configured(TOKEN_FRESHNESS);
    };
    let fresh = token.ensure_fresh(MIN_TTL).await;
    of_result(TOKEN_FRESHNESS, fresh.map_err(BoxError::from))
}

async fn health(entry: &Entry) -> Check {
    let Some(health) = entry.health() else {
        return Check::not_configured(HEALTH_GATE);
    };
    let report = health.check_health().await;
    if report.is_healthy {
        return Check::ready(HEALTH_GATE);
    }
    let reason = report
        .error
        .unwrap_or_else(|| "the server is unhealthy".to_owned());
    Check::refusing(HEALTH_GATE, reason, report.retry_after_ms)
}

fn of_result(name: &str, result: Result<(), BoxError>) -> Check {
    match result {
        Ok(()) => Check::ready(name),
        Err(error) => {
            let retry_after = error.as_rejection().and_then(Rejection::retry_after);
            Check::refusing(name, error.to_string(), retry_after.map(millis_ceil))
        }
    }
}
