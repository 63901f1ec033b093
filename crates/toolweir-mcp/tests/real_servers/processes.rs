//! The system's processes.

use tokio::process::Command;

/// Sends a signal to one process.
pub(crate) async fn signal(name: &str, process: u32) {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, &process.to_string()]);
    let sent = kill.status().await.unwrap();
    assert!(sent.success(), "{name} does not reach {process}");
}

/// The processes of a group that run, with their commands. One that has ended and was not waited for
/// does not run.
pub(crate) async fn group(leader: u32) -> Vec<String> {
    let mut ps = Command::new("ps");
    ps.args(["-A", "-o", "pgid=,stat=,args="]);
    let listed = String::from_utf8_lossy(&ps.output().await.unwrap().stdout).into_owned();
    let of_group = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_of_group = words.next()?.parse() == Ok(leader);
        let runs = !words.next()?.starts_with('Z');
        (is_of_group && runs).then(|| Vec::from_iter(words).join(" "))
    });
    of_group.collect()
}
