//! Events on the workload that owns a pod: the API server hands warnings and refusals to whoever creates the pod, and
//! for most pods that is a controller, which shows them to nobody. And on a namespace whose label means nothing.
//!
//! Events are a courtesy. They are written beside the requests, never more than a few a second, and lost rather than
//! queued without end.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::{CALL_DEADLINE, managed_by_us, within};
use crate::decision::Decision;
use crate::owner::workload;

/// How many Events may wait to be written.
const QUEUE: usize = 64;
/// How long the same Event is not repeated for the same owner. Controllers create a refused pod again and again, in the
/// end every few minutes; the Event itself lives for an hour (kube-apiserver `--event-ttl`).
const QUIET: Duration = Duration::from_secs(300);
/// How many different Events are remembered for [`QUIET`]; more are not written.
const REMEMBERED: usize = 1000;
/// How many Events may be written in each [`WINDOW`].
const PER_WINDOW: usize = 20;
/// See [`PER_WINDOW`].
const WINDOW: Duration = Duration::from_secs(10);
/// The longest note the API server takes, in bytes (`pkg/apis/core/validation/events.go`, `NoteLengthLimit`).
const NOTE_LIMIT: usize = 1024;
/// The longest name of an object (RFC 1123 subdomain), and longer than kinds, versions and uids are.
const FIELD_LIMIT: usize = 253;
/// What the names of the chart's webhooks end with.
const WEBHOOK_SUFFIX: &str = ".injector.geth-peering";
/// Who reports.
const CONTROLLER: &str = "geth-peering-injector";

/// Something the owner of a pod should know.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// The workload; or the namespace, of what is about that.
    pub owner: ObjectReference,
    /// The word of the decision.
    pub word: &'static str,
    /// The sentence, no longer than an Event can hold.
    pub note: String,
    /// What its Event is called, so that all who write the same make one; for others, a name is found.
    pub name: Option<String>,
}

impl Notice {
    /// A notice for the controller of `pod`, which is about to be created in `namespace`; `None` for a pod without one:
    /// who creates such a pod is told directly.
    ///
    /// The pod was not validated yet, and notices are kept for a while: what could be of any length is cut or refused here.
    pub fn for_owner_of(pod: &Value, namespace: &str, word: &'static str, note: &str) -> Option<Self> {
        let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
        let owner = owners.iter().find(|owner| owner["controller"] == Value::Bool(true))?;
        let text = |field: &str| owner[field].as_str().filter(|text| text.len() <= FIELD_LIMIT).map(str::to_owned);
        let owner = ObjectReference {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: Some(text("name")?),
            uid: text("uid"),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        };
        Some(Self { owner, word, note: cut(note).to_owned(), name: None })
    }
}

/// As much of `note` as an Event can hold.
fn cut(note: &str) -> &str {
    let end = (0..=NOTE_LIMIT.min(note.len())).rev().find(|end| note.is_char_boundary(*end));
    &note[..end.unwrap_or_default()]
}

/// An Event on `owner`, with the word as its reason, by the injector that is called `instance`.
pub(crate) fn event(
    name: &str,
    owner: ObjectReference,
    word: &str,
    note: String,
    instance: &str,
    now: Timestamp,
) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: owner.namespace.clone(),
            labels: Some(managed_by_us()),
            ..ObjectMeta::default()
        },
        action: Some("Inject".to_owned()),
        reason: Some(word.to_owned()),
        note: Some(note),
        type_: Some("Warning".to_owned()),
        event_time: Some(MicroTime(now)),
        regarding: Some(owner),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

/// What the configurations say of who else changes pods.
fn suspects(configurations: &[MutatingWebhookConfiguration]) -> String {
    let any = |list: &Option<Vec<String>>, item: &str| list.iter().flatten().any(|entry| entry == item || entry == "*");
    let names: Vec<String> = configurations
        .iter()
        .filter(|configuration| !is_ours(configuration))
        .filter(|configuration| {
            let mut rules = configuration.webhooks.iter().flatten().flat_map(|webhook| webhook.rules.iter().flatten());
            rules.any(|rule| {
                any(&rule.resources, "pods") && any(&rule.operations, "CREATE") && any(&rule.api_groups, "")
            })
        })
        .map(ResourceExt::name_any)
        .collect();
    match names.as_slice() {
        [] => "no other webhook configuration is about pods, so it may be a MutatingAdmissionPolicy".to_owned(),
        [name] => format!("the only other webhook configuration that is about pods is {name}"),
        names => format!("the other webhook configurations that are about pods are {}", names.join(", ")),
    }
}

/// Whether the webhooks of a configuration are the chart's.
pub(crate) fn is_ours(configuration: &MutatingWebhookConfiguration) -> bool {
    configuration.webhooks.iter().flatten().any(|webhook| webhook.name.ends_with(WEBHOOK_SUFFIX))
}

/// Decides which Events are worth writing.
#[derive(Debug, Default)]
struct Limiter {
    written: HashMap<(Option<String>, &'static str, String), Instant>,
}

impl Limiter {
    /// Whether `notice` may be written at `now`; if so, it counts.
    fn admits(&mut self, notice: &Notice, now: Instant) -> bool {
        self.written.retain(|_, time| now.duration_since(*time) < QUIET);
        let recent = self.written.values().filter(|time| now.duration_since(**time) < WINDOW).count();
        let key = (notice.owner.uid.clone(), notice.word, notice.note.clone());
        if recent >= PER_WINDOW || self.written.len() >= REMEMBERED || self.written.contains_key(&key) {
            return false;
        }
        self.written.insert(key, now);
        true
    }
}

/// Where requests leave their notices.
#[derive(Debug, Clone)]
pub struct Notices(mpsc::Sender<Notice>);

impl Notices {
    /// Never waits; a notice too many is dropped.
    pub fn send(&self, notice: Notice) {
        if self.0.try_send(notice).is_err() {
            tracing::debug!("too many Events at once; one is dropped");
        }
    }
}

/// Writes the Events.
pub struct Reporter {
    client: Client,
    instance: String,
    notices: mpsc::Receiver<Notice>,
}

/// Both ends: what requests use, and what [`Reporter::run`] writes as `instance`, the name of this pod.
pub fn channel(client: Client, instance: &str) -> (Notices, Reporter) {
    let (sender, notices) = mpsc::channel(QUEUE);
    (Notices(sender), Reporter { client, instance: instance.to_owned(), notices })
}

impl Reporter {
    /// Writes Events until nobody can send any more.
    pub async fn run(mut self) {
        let mut limiter = Limiter::default();
        while let Some(notice) = self.notices.recv().await {
            if !limiter.admits(&notice, Instant::now()) {
                continue;
            }
            let namespace = notice.owner.namespace.clone().unwrap_or_default();
            let Notice { owner, word, note, name } = self.with_suspects(notice).await;
            let owner = workload(&self.client, owner).await;
            let now = Timestamp::now();
            // As client-go names Events: unique per object and moment.
            let unique = || format!("{}.{:x}", owner.name.as_deref().unwrap_or_default(), now.as_nanosecond());
            let name = name.unwrap_or_else(unique);
            let event = event(&name, owner, word, note, &self.instance, now);
            let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
            let params = PostParams::default();
            let call = events.create(&params, &event);
            match within(CALL_DEADLINE, format!("write an Event in {namespace}"), call).await {
                Err(error) if !error.is_already_exists() => tracing::warn!("{error}"),
                _ => {}
            }
        }
    }

    /// Names, where another webhook spoils injections, those that could be it. Who changed a pod is not in what an API server
    /// asks a webhook; only its audit log tells (`patch.webhook.admission.k8s.io/…`).
    async fn with_suspects(&self, notice: Notice) -> Notice {
        if notice.word != Decision::Repaired.word() {
            return notice;
        }
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let params = ListParams::default();
        match within(CALL_DEADLINE, "list webhook configurations", api.list(&params)).await {
            Ok(list) => {
                Notice { note: cut(&format!("{}; {}", notice.note, suspects(&list.items))).to_owned(), ..notice }
            }
            Err(error) => {
                tracing::warn!("{error}");
                notice
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn notice(uid: usize, note: &str) -> Notice {
        let pod = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "x"},
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "geth", "uid": uid.to_string(), "controller": true},
        ]}});
        Notice::for_owner_of(&pod, "chain", "no-geth-container", note).unwrap()
    }

    #[test]
    fn are_the_webhooks_named_that_could_have_spoilt_a_pod() {
        let configuration = |name: &str, webhook: &str, resource: &str, operation: &str| {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": name},
                "webhooks": [{"name": webhook, "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": [resource], "operations": [operation]}]}],
            }))
            .unwrap()
        };
        let ours = configuration("geth-peering", "labelled-pods.injector.geth-peering", "pods", "CREATE");
        let others = [
            configuration("a", "a.example.org", "pods", "*"),
            configuration("b", "b.example.org", "services", "CREATE"),
            configuration("c", "c.example.org", "pods", "UPDATE"),
            configuration("d", "d.example.org", "*", "CREATE"),
        ];
        assert!(suspects(std::slice::from_ref(&ours)).starts_with("no other webhook configuration"));
        assert!(suspects(&[ours, others[0].clone()]).ends_with("about pods is a"));
        assert!(suspects(&others).ends_with("are a, d"));
    }

    #[test]
    fn is_it_the_controller_that_is_told() {
        let owner = notice(7, "").owner;
        assert_eq!((owner.kind.as_deref(), owner.name.as_deref()), (Some("StatefulSet"), Some("geth")));
        assert_eq!((owner.uid.as_deref(), owner.namespace.as_deref()), (Some("7"), Some("chain")));
        for pod in
            [json!({}), json!({"metadata": {"ownerReferences": "?"}}), json!({"metadata": {"ownerReferences": []}})]
        {
            assert_eq!(Notice::for_owner_of(&pod, "chain", "injected", ""), None);
        }
    }

    #[test]
    fn can_no_pod_make_what_is_remembered_of_it_large() {
        // Two bytes a letter, so that the limit falls between letters.
        let long = "é".repeat(1_000_000);
        let (short, shorter) = (notice(1, &format!("a{long}")), notice(1, &format!("a{long} and so on")));
        assert_eq!(short.note.len(), NOTE_LIMIT - 1);
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        assert!(limiter.admits(&short, now));
        assert!(!limiter.admits(&shorter, now), "they are the same where an Event ends");

        let owned_by = |name: &str, uid: &str| {
            let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "controller": true});
            Notice::for_owner_of(&json!({"metadata": {"ownerReferences": [owner]}}), "chain", "injected", "")
        };
        assert_eq!(owned_by(&long, "1"), None, "no object is called that");
        assert_eq!(owned_by("geth", &long).unwrap().owner.uid, None);
    }

    #[test]
    fn is_the_same_thing_said_once_in_five_minutes_and_another_at_once() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        assert!(limiter.admits(&notice(1, "a"), start));
        assert!(!limiter.admits(&notice(1, "a"), start + QUIET - Duration::from_secs(1)));
        assert!(limiter.admits(&notice(1, "b"), start), "another sentence");
        assert!(limiter.admits(&notice(2, "a"), start), "another owner");
        assert!(limiter.admits(&notice(1, "a"), start + QUIET));
    }

    #[test]
    fn does_a_storm_of_refusals_stay_a_trickle_of_events() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let written = |limiter: &mut Limiter, from: usize, now: Instant| {
            (from..from + 500).filter(|uid| limiter.admits(&notice(*uid, "a"), now)).count()
        };
        assert_eq!(written(&mut limiter, 0, start), PER_WINDOW);
        assert_eq!(written(&mut limiter, 1000, start + WINDOW), PER_WINDOW);
        assert_eq!(limiter.written.len(), 2 * PER_WINDOW);
    }
}
