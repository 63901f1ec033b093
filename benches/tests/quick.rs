//! The bench runs and writes what it promises. What it measures in a moment says nothing.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's own helpers a failure is the test's"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_mcp-bench"))
}

fn quick(json: &Path, options: &[&str]) -> (String, Value) {
    let output = bench()
        .args(["--quick", "--json"])
        .arg(json)
        .args(options)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table = String::from_utf8(output.stdout).unwrap();
    let figures = std::fs::read_to_string(json).unwrap();
    (table, serde_json::from_str(&figures).unwrap())
}

#[test]
fn every_way_is_measured_and_memory_is_flat() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--transport", "memory", "--in-flight", "1,3"];
    let (table, figures) = quick(&directory.path().join("figures.json"), &options);

    let cases = figures["cases"].as_array().unwrap();
    let cells: Vec<Value> = cases
        .iter()
        .map(|case| json!([case["transport"], case["in_flight"], case["name"]]))
        .collect();
    let expected = json!([
        ["memory", 1, "bare"],
        ["memory", 1, "timed"],
        ["memory", 1, "mcp"],
        ["memory", 1, "full"],
        ["memory", 3, "bare"],
        ["memory", 3, "timed"],
        ["memory", 3, "mcp"],
        ["memory", 3, "full"],
    ]);
    assert_eq!(Value::from(cells), expected);
    for case in cases {
        for figure in ["p50_us", "p99_us", "allocs", "calls_per_second"] {
            assert!(case[figure].as_f64().unwrap() > 0.0, "{figure} of {case}");
        }
    }
    // Measured over stdio and HTTP alone.
    assert_eq!(figures["ratios"]["stdio_1_p50_full_vs_bare"], Value::Null);
    assert_eq!(figures["targets"], json!([]));
    assert_eq!(figures["comparisons"].as_array().unwrap().len(), 8);
    let memory = &figures["memory"];
    assert!(memory["calls"].as_u64().unwrap() >= 500, "{memory}");
    assert!(
        memory["live_bytes_before"].as_i64().unwrap() > 0,
        "{memory}"
    );
    assert!(table.contains("memory             3  full"), "{table}");
    assert!(table.contains(": flat"), "{table}");
}

#[test]
fn the_ratios_with_a_target_are_measured_over_processes() {
    let directory = tempfile::tempdir().unwrap();
    let options = ["--transport", "stdio,http", "--in-flight", "1,16,256"];
    let (_, figures) = quick(&directory.path().join("figures.json"), &options);

    let targets = figures["targets"].as_array().unwrap();
    let ratios: Vec<&str> = targets
        .iter()
        .map(|target| target["ratio"].as_str().unwrap())
        .collect();
    let expected = [
        "stdio_1_p50_full_vs_bare",
        "stdio_256_throughput_full_vs_bare",
        "http_16_p50_full_vs_bare",
    ];
    assert_eq!(ratios, expected);
    for ratio in expected {
        assert!(figures["ratios"][ratio].as_f64().unwrap() > 0.0, "{ratio}");
    }
}

#[test]
fn servers_end_when_their_stdin_does() {
    for serve in ["serve-stdio", "serve-http"] {
        let mut server = bench()
            .arg(serve)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(server.stdin.take());
        server.wait().unwrap();
    }
}

/// As by Ctrl-C, or worse.
#[test]
fn a_bench_that_is_killed_leaves_no_server_behind() {
    let mut bench = bench()
        .args(["--transport", "http", "--in-flight", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(bench.stderr.take().unwrap());
    errors.read_line(&mut String::new()).unwrap();
    bench.kill().unwrap();
    bench.wait().unwrap();
    // The servers have the same stderr: it ends when the last of them has.
    errors.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn too_few_runs_are_refused() {
    let output = bench().args(["--runs", "4"]).output().unwrap();
    assert!(!output.status.success());
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("4 is not in 5..=999"), "{errors}");
}
