//! What is shown of a namespace whose test failed.

use crate::cluster::{NAME, Namespace};
use crate::{pods, registry};
use k8s_openapi::api::core::v1::{ContainerState, Event, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use std::fmt::Write;

/// How many lines of each log are shown.
const LINES: i64 = 40;

/// How many characters of each value of the registry are shown.
const VALUE: usize = 600;

/// Pods with the states of their containers, events, the registry, and the ends of all logs.
pub async fn of(namespace: &Namespace) -> String {
    let mut text = format!("==== namespace {} ====\n", namespace.name);
    let pods = namespace.api::<Pod>();
    let found = match pods.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => return format!("{text}{error}\n"),
    };
    for pod in &found {
        let _ = writeln!(
            text,
            "pod {} {} ip={} ready={} deleted={}",
            pod.name_any(),
            pods::phase(pod),
            pods::ip(pod).unwrap_or("none"),
            pods::is_ready(pod),
            pod.metadata.deletion_timestamp.is_some(),
        );
        for status in pods::container_statuses(pod) {
            let state = status.state.as_ref().map_or_else(|| "unknown".into(), describe);
            let _ = writeln!(text, "  {}: {state}, restarts {}", status.name, status.restart_count);
        }
    }
    let _ = writeln!(text, "-- events");
    for event in namespace.api::<Event>().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default()
    {
        let (object, reason) = (event.involved_object.name.unwrap_or_default(), event.reason.unwrap_or_default());
        // What every pod goes through.
        if !matches!(&*reason, "Scheduled" | "Pulled" | "Created" | "Started" | "SuccessfulCreate") {
            let _ = writeln!(text, "{object} {reason}: {}", event.message.unwrap_or_default());
        }
    }
    let _ = writeln!(text, "-- ConfigMap {NAME}");
    match registry::api(namespace).get_opt(NAME).await {
        Ok(Some(map)) => {
            for (key, value) in map.data.unwrap_or_default() {
                let start: String = value.chars().take(VALUE).collect();
                let _ = writeln!(text, "{key}: {start}");
            }
        }
        Ok(None) => text.push_str("(none)\n"),
        Err(error) => {
            let _ = writeln!(text, "{error}");
        }
    }
    for pod in &found {
        for container in pods::containers(pod) {
            let parameters =
                LogParams { container: Some(container.name.clone()), tail_lines: Some(LINES), ..LogParams::default() };
            let log = pods.logs(&pod.name_any(), &parameters).await.unwrap_or_else(|error| format!("{error}\n"));
            let _ = writeln!(text, "-- log of {}/{}\n{}", pod.name_any(), container.name, log.trim_end());
        }
    }
    text
}

fn describe(state: &ContainerState) -> String {
    if state.running.is_some() {
        return "running".into();
    }
    if let Some(waiting) = &state.waiting {
        let (reason, message) = (waiting.reason.as_deref(), waiting.message.as_deref());
        return format!("waiting {} {}", reason.unwrap_or_default(), message.unwrap_or_default());
    }
    let end = state.terminated.as_ref();
    let reason = end.and_then(|end| end.reason.as_deref()).unwrap_or_default();
    format!("terminated {reason} {}", end.map_or(-1, |end| end.exit_code))
}
