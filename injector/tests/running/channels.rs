//! Is whatever does not come out as it was asked told in all places where somebody may look, by the same word?

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use injector::decision::Decision;
use injector::inject::OptIn;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};
use sidecar::config::LogFormat;

use crate::support::*;

/// What is logged, in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Whether a line says that this was decided about the object of this name.
    fn has(&self, name: &str, word: &str) -> bool {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.any(|line| line["message"] == "decided" && line["name"] == name && line["decision"] == word)
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What makes of [`geth_pod`] one that is refused or left out; none for what is done as it was asked.
fn spoilt(decision: Decision) -> Option<Value> {
    let geth = |more: Value| {
        let mut container = json!({"name": "geth", "image": "ethereum/client-go:v1.17.5"});
        json_patch::merge(&mut container, &more);
        json!({"spec": {"containers": [container]}})
    };
    let metadata = |more: Value| json!({"metadata": more});
    Some(match decision {
        Decision::Disabled => metadata(json!({"labels": {"geth-peering": "disabled"}})),
        Decision::BadLabel => metadata(json!({"labels": {"geth-peering": "true"}})),
        Decision::InvalidAnnotation => metadata(json!({"annotations": {"geth-peering/colour": "red"}})),
        Decision::NoGethContainer => json!({"spec": {"containers": [{"name": "web", "image": "nginx"}]}}),
        Decision::SeveralGethContainers => {
            json!({"spec": {"containers": [{"name": "a", "image": "geth"}, {"name": "b", "image": "geth"}]}})
        }
        Decision::IpcPathUnknown => geth(json!({"args": ["--ipcpath=$(DIR)/geth.ipc"]})),
        Decision::IpcPathImpossible => geth(json!({"args": ["--ipcpath=/geth.ipc"]})),
        Decision::UserUnknown => geth(json!({"securityContext": {"runAsNonRoot": true}})),
        Decision::NameTaken => json!({"spec": {"volumes": [{"name": "geth-peering-ipc", "emptyDir": {}}]}}),
        Decision::MirrorPod => metadata(json!({"annotations": {"kubernetes.io/config.mirror": "x"}})),
        Decision::WindowsPod => json!({"spec": {"os": {"name": "windows"}}}),
        Decision::NotApplicable => metadata(json!({"deletionTimestamp": "2026-11-21T00:00:00Z"})),
        Decision::MalformedObject => geth(json!({"env": "none"})),
        Decision::BadWorkloadAnnotation => {
            json!({"metadata": {"annotations": {"geth-peering": "true"}}, "spec": {"template": {"spec": {}}}})
        }
        Decision::Injected
        | Decision::Repaired
        | Decision::AlreadyInjected
        | Decision::TemplateLabelled
        | Decision::TemplateUnlabelled
        | Decision::WorkloadUnchanged => return None,
    })
}

/// How whoever creates the object hears of it.
#[derive(Debug, PartialEq)]
enum Answer {
    Refused,
    Warned,
    /// As nobody asked for anything else. No Event either.
    Silent,
}

fn expected(decision: Decision, opt_in: OptIn) -> Answer {
    match decision {
        Decision::Disabled | Decision::NotApplicable => Answer::Silent,
        Decision::NoGethContainer if opt_in == OptIn::NamespaceLabel => Answer::Silent,
        // These values are the object's own, whatever its namespace says.
        Decision::BadLabel | Decision::BadWorkloadAnnotation => Answer::Refused,
        Decision::MirrorPod => Answer::Warned,
        _ if opt_in == OptIn::PodLabel => Answer::Refused,
        _ => Answer::Warned,
    }
}

async fn check_all(opt_in: OptIn) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = sidecar::telemetry::subscriber(tracing::Level::INFO, LogFormat::Json, move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber);
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let mut told = Vec::new();
    for (decision, spoilt) in Decision::ALL.iter().filter_map(|decision| Some((*decision, spoilt(*decision)?))) {
        let word = decision.word();
        let labels = if opt_in == OptIn::PodLabel { json!({"geth-peering": "enabled"}) } else { json!({}) };
        let mut object = geth_pod(labels);
        json_patch::merge(&mut object, &spoilt);
        object["metadata"]["name"] = json!(format!("of-{word}"));
        object["metadata"]["ownerReferences"][0]["name"] = json!(format!("owner-of-{word}"));
        let webhook = if decision == Decision::BadWorkloadAnnotation { "workloads" } else { "pods" };
        let response = api_server.review(&format!("/mutate/{webhook}"), &review("chain", object)).await;

        let said = |text: &Value| text.as_str().is_some_and(|text| text.len() > 20);
        let answer = match (&response["allowed"], &response["warnings"]) {
            (Value::Bool(false), _) if said(&response["status"]["message"]) => Answer::Refused,
            (Value::Bool(true), Value::Array(warnings)) if warnings.iter().all(said) => Answer::Warned,
            (Value::Bool(true), Value::Null) => Answer::Silent,
            _ => panic!("{word}: {response}"),
        };
        assert_eq!(answer, expected(decision, opt_in), "{word}");
        assert_eq!(response["auditAnnotations"]["decision"], word);
        let metric = format!(r#"geth_peering_injector_decisions_total{{webhook="{webhook}",decision="{word}"}}"#);
        assert_eq!(replica.metric(&metric).await, Some(1.0), "{word}");
        assert!(log.has(&format!("of-{word}"), word), "{word} is not in the log");
        if answer != Answer::Silent {
            told.push((word.to_owned(), format!("owner-of-{word}")));
        }
    }
    told.sort();
    let events = || {
        let of = |event: Event| Some((event.reason?, event.regarding?.name?));
        let mut events: Vec<_> = server.list::<Event>("chain").into_iter().filter_map(of).collect();
        events.sort();
        events
    };
    until("the Events", async || events().len() >= told.len()).await;
    assert_eq!(events(), told);
}

#[tokio::test]
async fn is_all_that_a_pod_asked_for_in_vain_told_in_answer_audit_metric_log_and_event() {
    check_all(OptIn::PodLabel).await;
}

#[tokio::test]
async fn is_all_that_a_namespace_asked_for_in_vain_told_in_answer_audit_metric_log_and_event() {
    check_all(OptIn::NamespaceLabel).await;
}
