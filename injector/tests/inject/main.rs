//! What the injector makes of pods: known shapes word for word, refusals sentence by sentence, and rules that hold for
//! any pod.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is how a test fails")]

mod again;
mod defaults;
mod generated;
mod golden;
mod large;
mod left_alone;
mod manifests;
mod refusals;
mod rules;

use injector::inject::{Account, Context, Outcome, Settings, inject};
use serde_json::Value;

/// Settings as the chart has them.
fn settings() -> Settings {
    Settings {
        image: "geth-peering/sidecar:0.1.0".into(),
        image_pull_policy: "IfNotPresent".into(),
        cpu_request: "10m".into(),
        memory_request: "16Mi".into(),
        memory_limit: "64Mi".into(),
        log_level: "INFO".into(),
        configmap_names: vec!["geth-peering".into()],
        registry_namespaces: Vec::new(),
        native_sidecars: true,
        disable_service_links: true,
        version: "0.1.0".into(),
    }
}

fn injected(pod: &Value) -> Outcome {
    inject(pod, &Context { settings: &settings(), account: &Account::Ready })
}

/// The pod with the patch applied, as the API server would do it.
fn patched(pod: &Value, outcome: &Outcome) -> Value {
    // Through text, as it travels.
    let patch: json_patch::Patch = serde_json::from_str(&outcome.patch.to_string()).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap_or_else(|error| panic!("{error}\n{patch:#}\n{pod:#}"));
    pod
}
