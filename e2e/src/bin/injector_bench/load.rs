//! What is measured while wrk sends one review again and again.

use crate::servers::Server;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// How the reviews are sent, and how wrk tells what it saw.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/review.lua");

/// One way to load a server.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    /// The file with the review.
    pub(crate) review: &'a Path,
    /// How many connections send at the same time.
    pub(crate) connections: usize,
    /// Whether each request has a connection of its own, with a TLS handshake.
    pub(crate) new_connections: bool,
    /// For how long.
    pub(crate) duration: Duration,
}

/// What was seen of one load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    /// Half of the requests took no longer, milliseconds.
    pub(crate) p50: f64,
    /// 99 in 100 took no longer, milliseconds.
    pub(crate) p99: f64,
    /// Requests in a second.
    pub(crate) rate: f64,
    /// Processor time of the server for one request, microseconds.
    pub(crate) cpu: f64,
}

impl Load<'_> {
    /// Puts the load on a server.
    ///
    /// # Errors
    /// When wrk cannot run, or a request was not answered by 200.
    pub(crate) async fn run(&self, server: &Server) -> Result<Seen> {
        let before = server.processor_time()?;
        let output = Command::new("wrk")
            .arg("--threads=1")
            .arg(format!("--connections={}", self.connections))
            .arg(format!("--duration={}s", self.duration.as_secs()))
            .args(["--timeout=10s", "--script", SCRIPT, &server.webhook.url(), "--"])
            .arg(self.review)
            .args(self.new_connections.then_some("close"))
            .output()
            .await
            .context("wrk")?;
        let cpu = server.processor_time()?.saturating_sub(before);
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
        let (seen, requests) = read(&text).with_context(|| format!("wrk: {text}"))?;
        Ok(Seen { cpu: cpu.as_secs_f64() * 1e6 / requests, ..seen })
    }
}

/// What wrk saw, and how many requests there were; none if one failed.
fn read(text: &str) -> Option<(Seen, f64)> {
    let line = text.lines().find_map(|line| line.strip_prefix("seen: "))?;
    let number =
        |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse::<f64>().ok());
    let requests = number("requests").filter(|requests| *requests > 0.0 && number("failed") == Some(0.0))?;
    let seen = Seen {
        p50: number("p50")? / 1e3,
        p99: number("p99")? / 1e3,
        rate: requests / (number("duration")? / 1e6),
        cpu: 0.0,
    };
    Some((seen, requests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_a_failed_request_spoil_the_run() {
        let text =
            |failed| format!("Running 1s test\nseen: p50=60 p99=900 requests=20 duration=2000000 failed={failed}\n");
        let seen = Seen { p50: 0.06, p99: 0.9, rate: 10.0, cpu: 0.0 };
        assert_eq!(read(&text(0)), Some((seen, 20.0)));
        assert_eq!(read(&text(1)), None);
        assert_eq!(read("wrk: unable to connect"), None);
    }
}
