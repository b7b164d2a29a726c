//! Kubernetes Events on the own pod: the few things that a person must act on, where
//! people look first.
//!
//! They are a courtesy: written beside everything else, and seldom; where the account has no right
//! to (`create` on `events`), that is tried as seldom.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use kube::{Client, Error as KubeError};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::clock::Clock;
use crate::registry::store::DEADLINE;
use crate::status::Status;

/// How long something lasts before it is worth an Event: what passes by itself needs nobody.
const HOLD: Duration = Duration::from_secs(30);
/// Something that was away for less has not ended.
const GAP: Duration = Duration::from_secs(60);
/// When the Event is written again while the matter lasts: after the API server has
/// forgotten the one before, an hour (kube-apiserver `--event-ttl`) and up to a minute
/// later (apiserver/pkg/storage/etcd3/lease_manager.go).
const REPEAT: Duration = Duration::from_secs(65 * 60);
/// How long after a write that failed the next is tried.
const RETRY: Duration = Duration::from_secs(60);
/// The longest text, in bytes: what the newer Events API allows (pkg/apis/core/validation/events.go, `NoteLengthLimit`).
const MESSAGE_LIMIT: usize = 1024;
/// The words for a Geth that is `denied` and for one that is `unpeerable`, see [`Status::geth`].
pub const GETH_WORDS: [&str; 2] = ["GethDenied", "GethUnpeerable"];
/// The word for a registry that is `unwritable`, see [`Status::registry`].
pub const REGISTRY_WORD: &str = "RegistryUnwritable";
/// Who reports.
const COMPONENT: &str = "geth-peering";

/// Something a person must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// One word, the Event's reason.
    pub reason: &'static str,
    /// The sentence that says what to do.
    pub message: String,
}

/// What in `status` a person must act on; one for each reason.
pub fn notices(status: &Status) -> Vec<Notice> {
    let [denied, unpeerable] = GETH_WORDS;
    let of_geth = match status.geth.state {
        "denied" => Some(denied),
        "unpeerable" => Some(unpeerable),
        _ => None,
    };
    let geth = of_geth.map(|reason| (reason, status.geth.reason.clone()));
    let registry = status.registry.unwritable.clone().map(|message| (REGISTRY_WORD, message));
    let concerns = status.concerns.iter().map(|concern| (concern.word(), concern.to_string()));
    let mut notices: Vec<Notice> = Vec::new();
    for (reason, message) in geth.into_iter().chain(registry).chain(concerns) {
        match notices.iter_mut().find(|notice| notice.reason == reason) {
            Some(notice) => notice.message = format!("{}; {message}", notice.message),
            None => notices.push(Notice { reason, message }),
        }
    }
    notices
}

/// Decides which notices to write, and when.
#[derive(Debug, Default)]
pub struct Schedule(BTreeMap<&'static str, Matter>);

/// What is known of one reason.
#[derive(Debug)]
struct Matter {
    /// Whether it lasts.
    lasts: bool,
    since: Duration,
    /// When it was last seen to last.
    seen: Duration,
    /// No Event of it before.
    next: Duration,
}

impl Matter {
    fn due(&self) -> Duration {
        (self.since + HOLD).max(self.next)
    }
}

impl Schedule {
    /// Those of `notices` that are to be written at `now`; each counts as written.
    pub fn due(&mut self, notices: Vec<Notice>, now: Duration) -> Vec<Notice> {
        for (reason, matter) in &mut self.0 {
            if matter.lasts {
                matter.seen = now;
            }
            matter.lasts = notices.iter().any(|notice| notice.reason == *reason);
            if matter.lasts && now > matter.seen + GAP {
                matter.since = now;
            }
        }
        let is_due = |notice: &Notice| {
            let begun = Matter { lasts: true, since: now, seen: now, next: now };
            let matter = self.0.entry(notice.reason).or_insert(begun);
            let due = now >= matter.due();
            if due {
                matter.next = now + REPEAT;
            }
            due
        };
        notices.into_iter().filter(is_due).collect()
    }

    /// Takes note that an Event of `reason` could not be written.
    pub fn failed(&mut self, reason: &'static str, now: Duration) {
        if let Some(matter) = self.0.get_mut(reason) {
            matter.next = now + RETRY;
        }
    }

    /// When something is due though nothing changes.
    pub fn wake(&self) -> Option<Duration> {
        self.0.values().filter(|matter| matter.lasts).map(Matter::due).min()
    }
}

/// The pod that the Events are about.
#[derive(Debug, Clone)]
pub struct OwnPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, without which nobody finds its Events.
    pub uid: String,
}

/// Writes Events on `pod` as `status` changes, until nobody changes it any more.
pub async fn run(client: Client, pod: OwnPod, mut status: watch::Receiver<Status>, clock: Clock) {
    let events: Api<Event> = Api::namespaced(client, &pod.namespace);
    let mut schedule = Schedule::default();
    loop {
        let notices = notices(&status.borrow_and_update());
        for notice in schedule.due(notices, clock.now().elapsed) {
            let reason = notice.reason;
            let event = event(&pod, notice, clock.now().wall);
            match timeout(DEADLINE, events.create(&PostParams::default(), &event)).await {
                // An earlier run of this sidecar has said so within the hour.
                Ok(Err(KubeError::Api(status))) if status.code == 409 => {}
                // Rights may come at any time; until then it is not tried more often than it would be said.
                Ok(Err(KubeError::Api(status))) if status.code == 403 => {
                    debug!(reason, "may not write an Event: {}", status.message);
                }
                Ok(Ok(_)) => debug!(reason, "wrote an Event"),
                failed => {
                    debug!(reason, ?failed, "cannot write an Event");
                    schedule.failed(reason, clock.now().elapsed);
                }
            }
        }
        let pause = schedule.wake().map(|wake| wake.saturating_sub(clock.now().elapsed));
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = sleep(pause.unwrap_or(REPEAT)) => {}
        }
    }
}

/// One name for a pod and a reason: the API server itself then refuses a second Event
/// while it remembers the first, also from a sidecar that is restarted again and again.
fn event(pod: &OwnPod, notice: Notice, now: Timestamp) -> Event {
    let Notice { reason, mut message } = notice;
    if message.len() > MESSAGE_LIMIT {
        let end = (0..=MESSAGE_LIMIT).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
    }
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{COMPONENT}.{}.{}", pod.uid, reason.to_lowercase())),
            namespace: Some(pod.namespace.clone()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/managed-by".into(), COMPONENT.into())])),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(reason.into()),
        message: Some(message),
        type_: Some("Warning".into()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: None }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(pod.name.clone()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::concern::Concern;

    const HOUR: u64 = 3600;

    fn notice(reason: &'static str) -> Notice {
        Notice { reason, message: "do something".into() }
    }

    /// How many Events come of `there`, asked every second for so many hours.
    fn written(schedule: &mut Schedule, hours: u64, there: impl Fn(u64) -> bool) -> Vec<u64> {
        let is_written = |second: &u64| {
            let notices = if there(*second) { vec![notice("GethDenied")] } else { Vec::new() };
            !schedule.due(notices, Duration::from_secs(*second)).is_empty()
        };
        (0..hours * HOUR).filter(is_written).collect()
    }

    #[test]
    fn is_what_lasts_said_once_soon_and_then_at_most_every_hour() {
        let times = written(&mut Schedule::default(), 3, |_| true);
        assert_eq!(times, [30, 30 + REPEAT.as_secs(), 30 + 2 * REPEAT.as_secs()]);
    }

    #[test]
    fn is_what_passes_by_itself_not_said() {
        assert_eq!(written(&mut Schedule::default(), 1, |second| second < 29), [0; 0]);
        assert_eq!(written(&mut Schedule::default(), 1, |second| second % 300 < 29), [0; 0]);
    }

    #[test]
    fn is_what_flaps_said_as_seldom_as_what_lasts() {
        let times = written(&mut Schedule::default(), 2, |second| second % 10 < 3);
        assert_eq!(times.len(), 2, "{times:?}");
    }

    #[test]
    fn is_an_event_that_could_not_be_written_tried_again() {
        let mut schedule = Schedule::default();
        let due = |schedule: &mut Schedule, at| schedule.due(vec![notice("GethDenied")], Duration::from_secs(at));
        assert_eq!(due(&mut schedule, 0), []);
        assert_eq!(schedule.wake(), Some(HOLD));
        assert_eq!(due(&mut schedule, 30).len(), 1);
        schedule.failed("GethDenied", Duration::from_secs(35));
        assert_eq!(schedule.wake(), Some(Duration::from_secs(95)));
        assert_eq!(due(&mut schedule, 95).len(), 1);
    }

    #[test]
    fn has_each_thing_that_a_person_must_act_on_a_word_and_its_sentence() {
        let now = Timestamp::UNIX_EPOCH;
        let mut status = Status::new("geth-0", now);
        assert_eq!(notices(&status), [], "a start is no trouble");
        status.geth.set("denied", "user 1 may not", now);
        status.registry.wrote(Some("cannot write".into()), now);
        let duplicate = |pod: &str| Concern::DuplicateNodeKey { pod: pod.into() };
        status.concerns = vec![duplicate("geth-1"), duplicate("geth-2"), Concern::EntryContested];
        let notices = notices(&status);
        let words: Vec<_> = notices.iter().map(|notice| notice.reason).collect();
        assert_eq!(words, ["GethDenied", "RegistryUnwritable", "DuplicateNodeKey", "EntryContested"]);
        assert_eq!(notices[0].message, "user 1 may not");
        assert!(notices[2].message.contains("geth-1") && notices[2].message.contains("geth-2"));
    }

    #[test]
    fn does_no_sentence_become_longer_than_an_event_can_be() {
        let pod = OwnPod { namespace: "chain".into(), name: "geth-0".into(), uid: "c0ffee".into() };
        let long = Notice { reason: "GethDenied", message: format!("a{}", "é".repeat(10_000)) };
        assert_eq!(event(&pod, long, Timestamp::UNIX_EPOCH).message.unwrap().len(), MESSAGE_LIMIT - 1);
    }
}
