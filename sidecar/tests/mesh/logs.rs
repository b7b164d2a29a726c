//! What do the sidecars log? One line a change, none when nothing changes, and no more of what goes on failing.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Once;
use std::time::Duration;

use fakes::apiserver::{Fault, Verb};
use fakes::geth::Stop;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use sidecar::config::LogFormat;
use sidecar::telemetry;
use tokio::time::sleep;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use crate::network::{NAMESPACE, Network, PodUnderTest};

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is logged on this thread, which is where all of a test runs.
///
/// One subscriber serves all threads: with one for each, `tracing` may ask none or the
/// wrong one whether a line is wanted at all, and remembers the answer.
#[derive(Clone, Copy)]
struct Log;

impl Log {
    fn capture() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            tracing::subscriber::set_global_default(telemetry::subscriber(Level::INFO, LogFormat::Json, Self)).unwrap();
        });
        LOGGED.take();
        Self
    }

    /// The lines since it was last asked, each an object of JSON, as their messages.
    fn messages(&self) -> Vec<String> {
        let lines = String::from_utf8(LOGGED.take()).unwrap();
        let message = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
            line["message"].as_str().unwrap().to_owned()
        };
        lines.lines().map(message).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

const MINUTES: Duration = Duration::from_secs(600);
const VERBS: [Verb; 5] = [Verb::Get, Verb::List, Verb::Watch, Verb::Create, Verb::Patch];

/// A network of three that has been a mesh for a minute, and what it logged until then forgotten.
async fn stable(log: &Log) -> (Network, Vec<PodUnderTest>) {
    let network = Network::new();
    let pods = network.start_many(3);
    network.mesh(3).await;
    sleep(Duration::from_secs(60)).await;
    log.messages();
    (network, pods)
}

fn with<'a>(messages: &'a [String], words: &str) -> Vec<&'a String> {
    messages.iter().filter(|message| message.contains(words)).collect()
}

#[tokio::test(start_paused = true)]
async fn does_a_stable_network_log_nothing_after_one_line_a_link() {
    let log = Log::capture();
    let network = Network::new();
    let _pods = network.start_many(3);
    network.mesh(3).await;
    sleep(Duration::from_secs(60)).await;
    let messages = log.messages();
    assert_eq!(with(&messages, "link connected").len(), 6, "{messages:#?}");
    assert_eq!(with(&messages, "Geth answers").len(), 3, "{messages:#?}");
    sleep(MINUTES).await;
    assert_eq!(log.messages(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn is_an_api_server_that_is_down_for_ten_minutes_logged_once_and_once_that_it_is_back() {
    let log = Log::capture();
    let (network, pods) = stable(&log).await;
    // It fails now in this way and now in that.
    for _ in 0..1000 {
        for verb in VERBS {
            for fault in [Fault::Status(503), Fault::Hang, Fault::Status(429)] {
                network.server.fault(verb, "configmaps", fault, 1);
            }
        }
    }
    network.server.close_watches();
    sleep(MINUTES).await;
    let messages = log.messages();
    assert_eq!((messages.len(), with(&messages, "the links stay as they are").len()), (3, 3), "{messages:#?}");
    network.server.heal();
    sleep(MINUTES).await;
    let messages = log.messages();
    assert_eq!((messages.len(), with(&messages, "the registry is in sight").len()), (3, 3), "{messages:#?}");
    drop(pods);
}

#[tokio::test(start_paused = true)]
async fn is_a_watch_that_never_lasts_logged_a_few_times_and_not_at_each_try() {
    let log = Log::capture();
    let (network, _pods) = stable(&log).await;
    network.server.fault(Verb::Watch, "configmaps", Fault::EndAtOnce, usize::MAX);
    network.server.close_watches();
    sleep(MINUTES).await;
    let messages = log.messages();
    assert!((3..=18).contains(&messages.len()), "{messages:#?}");
}

#[tokio::test(start_paused = true)]
async fn is_a_geth_that_falls_mute_logged_once_and_once_that_it_answers_again() {
    let log = Log::capture();
    let (_network, pods) = stable(&log).await;
    pods[0].geth.quirks(|quirks| quirks.mute = true);
    sleep(MINUTES).await;
    let messages = log.messages();
    assert_eq!(with(&messages, "Geth did not answer").len(), 1, "{messages:#?}");
    // And one that its two links are no longer known to be up.
    assert_eq!(messages.len(), 3, "{messages:#?}");
    pods[0].geth.quirks(|quirks| quirks.mute = false);
    sleep(MINUTES).await;
    let messages = log.messages();
    assert_eq!(with(&messages, "Geth answers again").len(), 1, "{messages:#?}");
    assert_eq!(messages.len(), 3, "{messages:#?}");
}

#[tokio::test(start_paused = true)]
async fn is_a_sidecar_without_any_right_logged_once_and_shown_as_blind() {
    let log = Log::capture();
    let network = Network::new();
    VERBS.into_iter().for_each(|verb| network.server.forbid(verb, "configmaps"));
    let pod = network.start(0);
    sleep(MINUTES).await;
    assert_eq!(pod.sidecar.status.borrow().registry.shown.state, "blind");
    let messages = log.messages();
    assert_eq!(messages.len(), 1, "{messages:#?}");
    network.server.heal();
    sleep(MINUTES).await;
    assert_eq!(pod.sidecar.status.borrow().registry.shown.state, "watching");
}

#[tokio::test(start_paused = true)]
async fn is_a_dead_pods_entry_that_cannot_be_removed_logged_once() {
    let log = Log::capture();
    let (network, mut pods) = stable(&log).await;
    let mut lost = pods.remove(0);
    network.server.forbid(Verb::Patch, "configmaps");
    lost.geth.stop(Stop::Kill).await;
    drop(lost.sidecar);
    network.server.delete::<Pod>(NAMESPACE, "geth-0");
    log.messages();
    sleep(MINUTES).await;
    let messages = log.messages();
    assert_eq!(with(&messages, "cannot remove the entry").len(), 2, "one of each sidecar: {messages:#?}");
    assert!(network.server.count(Verb::Patch, "configmaps") > 4, "it was tried");
    network.server.heal();
    network.until("the entry's removal", || network.value(0).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn are_two_sidecars_that_fight_for_one_entry_logged_a_few_times() {
    let log = Log::capture();
    let network = Network::new();
    let _first = network.start(0);
    network.until("the entry", || network.entry(0).is_some()).await;
    let config = fakes::geth::Config { socket: network.folder.path().join("other.ipc"), ..network.geth_config(9) };
    let _other_geth = network.world.start(config.clone());
    let _other = network.start_sidecar(&config, 0, "another-uid");
    sleep(MINUTES).await;
    let messages = log.messages();
    let said = with(&messages, "second sidecar").len();
    assert!((1..=6).contains(&said), "{messages:#?}");
}
