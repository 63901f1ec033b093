//! The bench of the limits runs, and all that it shows of ours holds. Its times mean nothing here.

#[path = "../benches/layers/mod.rs"]
mod layers;

use std::path::Path;

use clap::Parser as _;
use layers::{Arguments, figures::Spread, ratios::Ratio, rounds::Shown, rounds::whose_turn};
use serde_json::Value;

#[expect(
    clippy::unwrap_used,
    reason = "in a test's own helpers a failure is the test's"
)]
fn run(options: &[&str], json: &Path) -> (Vec<String>, Value) {
    let mut all = vec!["layers", "--json", json.to_str().unwrap()];
    all.extend(options);
    let complaints = layers::run(&Arguments::parse_from(all)).unwrap();
    let figures = std::fs::read_to_string(json).unwrap();
    (complaints, serde_json::from_str(&figures).unwrap())
}

#[test]
fn ours_behaves_and_never_allocates_where_nothing_waits() {
    let directory = tempfile::tempdir().unwrap();
    let (complaints, figures) = run(&["--quick"], &directory.path().join("layers.json"));
    assert_eq!(complaints, [""; 0]);

    let keys: Vec<&String> = figures.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["behaviour", "cases", "ratios"]);
    let ratios: Vec<&String> = figures["ratios"].as_object().unwrap().keys().collect();
    let expected = [
        "breaker_open_vs_tr",
        "breaker_time_10000_vs_100",
        "breaker_vs_tr",
        "rate_limit_vs_governor",
        "semaphore_vs_tower",
        "shared_throughput_vs_tr",
        "stack_vs_tr",
    ];
    assert_eq!(ratios, expected);
    for case in figures["cases"].as_array().unwrap() {
        assert!(case["ns"].as_f64().unwrap() > 0.0, "{case}");
        let name = case["name"].as_str().unwrap();
        if ["breaker", "semaphore", "rate_limit", "stack"]
            .iter()
            .any(|ours| name.starts_with(ours))
        {
            assert_eq!(case["allocs"].as_f64(), Some(0.0), "{case}");
        }
    }
    let behaviour = figures["behaviour"].as_array().unwrap();
    for peer in [
        "tower",
        "tower-resilience",
        "failsafe",
        "recloser",
        "governor",
    ] {
        assert!(behaviour.iter().any(|row| row["peer"] == peer), "{peer}");
    }
    for row in behaviour {
        assert_eq!(row["ours_holds"], true, "{row}");
    }
}

#[test]
fn a_place_where_nothing_can_be_written_is_named_before_anything_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("no/such/file.json");
    let options = ["layers", "--json", nowhere.to_str().unwrap()];
    let error = layers::run(&Arguments::parse_from(options)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot write {}", nowhere.display())
    );
}

#[test]
fn each_case_has_one_turn_in_a_round_and_neighbours_stay_so() {
    for round in 0..10 {
        let order: Vec<usize> = (0..5).map(|place| whose_turn(round, place, 5)).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4]);
        for pair in order.windows(2) {
            assert!(matches!(pair[0].abs_diff(pair[1]), 1 | 4), "{order:?}");
        }
    }
}

#[test]
fn the_median_and_the_quartiles_are_those_of_the_sorted_figures() {
    let spread = Spread::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
    let expected = Spread {
        lower_quartile: 2.0,
        median: 3.0,
        upper_quartile: 4.0,
    };
    assert_eq!(spread, expected);
}

fn shown(name: &'static str, nanos: &[f64]) -> Shown {
    Shown {
        name,
        ours: true,
        nanos: nanos.to_vec(),
        allocations: None,
    }
}

#[test]
fn a_ratio_is_the_median_of_what_each_round_showed() {
    let ratios = Ratio::all(&[
        shown("breaker", &[40.0, 90.0, 80.0]),
        shown("tr_breaker", &[100.0, 100.0, 400.0]),
    ]);
    let [ratio] = &ratios[..] else {
        panic!("{ratios:?}")
    };
    assert_eq!(ratio.target.name, "breaker_vs_tr");
    assert!((ratio.spread.median - 0.4).abs() < 1e-9);
    assert!(ratio.is_met());
}

#[test]
fn of_throughput_more_is_better() {
    let met = |ours, theirs| {
        let shown = [
            shown("shared_breaker", &[ours]),
            shown("tr_shared_breaker", &[theirs]),
        ];
        Ratio::all(&shown)[0].is_met()
    };
    assert!(met(100.0, 301.0));
    assert!(!met(100.0, 299.0));
}
