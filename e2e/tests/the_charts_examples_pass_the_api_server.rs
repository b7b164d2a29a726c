//! Does a real API server take what the chart renders with each of its examples?

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, in_namespace};
use e2e::definitions::Definitions;
use e2e::install;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;

/// Sets of values that are rendered and linted without a cluster.
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../chart/ci");

#[tokio::test]
async fn does_an_api_server_take_all_that_the_chart_renders_with_its_examples() -> Result<()> {
    in_namespace(async |namespace| {
        let definitions = [Definitions::of_cert_manager()?, Definitions::of_prometheus_operator()?];
        let outcome = are_taken(namespace, &definitions).await;
        let mut cleaned = Ok(());
        for kinds in &definitions {
            cleaned = cleaned.and(kinds.delete().await);
        }
        outcome.and(cleaned)
    })
    .await
}

async fn are_taken(namespace: &Namespace, definitions: &[Definitions]) -> Result<()> {
    for kinds in definitions {
        kinds.apply().await?;
    }
    let (mut refused, mut taken) = (Vec::new(), BTreeSet::new());
    for entry in fs::read_dir(EXAMPLES)? {
        let path = entry?.path();
        let name = path.file_stem().context("a file")?.to_string_lossy().into_owned();
        // Of another name than the installation, because what exists is changed, and not checked as a whole.
        let text = install::render_elsewhere("example", &namespace.name, &fs::read_to_string(&path)?).await?;
        let mut objects: Vec<Value> = serde_saphyr::from_multiple(&text).context("helm renders YAML")?;
        objects.retain(|object| !object.is_null());
        for object in &mut objects {
            // The namespaces that an example names do not exist.
            if let Some(place) = object.pointer_mut("/metadata/namespace") {
                *place = json!(namespace.name);
            }
        }
        let kinds = objects.iter().filter_map(|object| object["kind"].as_str().map(str::to_owned));
        let kinds: Vec<_> = kinds.collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let asked = ["apply", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "--filename=-"];
        match install::run("kubectl", &asked, &list).await {
            Ok(_) => taken.extend(kinds),
            Err(error) => refused.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(refused.is_empty(), "{}", refused.join("\n"));
    for kind in ["Deployment", "Certificate", "Issuer", "PodMonitor", "PrometheusRule"] {
        ensure!(taken.contains(kind), "no example in {EXAMPLES} has a {kind}");
    }
    Ok(())
}
