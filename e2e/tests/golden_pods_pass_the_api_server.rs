//! Does a real API server make of the injector's golden pods what their files say?
//!
//! The files are those of `injector/tests/golden`, which the webhook's code and the command `inject` are held to as well. An API
//! server completes a pod, so what a file says has to be in its answer, and more may be.

use anyhow::{Context, Result, ensure};
use e2e::admission::dry_run;
use e2e::cluster::{NAME, Namespace, OPT_IN, in_namespace};
use e2e::wait;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../injector/tests/golden");

/// What the tests' installation sets otherwise than the golden files' settings do.
const SETTINGS: [&str; 3] = ["image", "imagePullPolicy", "resources"];

/// How fields end that no API server knows yet, which drops them.
const UNKNOWN: &str = "OfTomorrow";

/// The input and the result of each golden pair with the usual settings.
fn pairs() -> Result<BTreeMap<String, (Value, Value)>> {
    let mut pairs = BTreeMap::new();
    for entry in fs::read_dir(GOLDEN)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let Some(name) = file.strip_suffix(".input.yaml") else { continue };
        let folder = Path::new(GOLDEN);
        if folder.join(format!("{name}.context.yaml")).exists() {
            continue;
        }
        let read = |kind: &str| -> Result<Value> {
            let text = fs::read_to_string(folder.join(format!("{name}.{kind}.yaml")))?;
            serde_saphyr::from_str(&text).with_context(|| format!("{name}.{kind}"))
        };
        pairs.insert(name.to_owned(), (read("input")?, read("injected")?));
    }
    Ok(pairs)
}

/// The pod as somebody posts it here: what only exists elsewhere is made to exist, and what no API server takes is left out.
async fn posted(namespace: &Namespace, name: &str, input: &Value) -> Result<Value> {
    let mut pod = input.clone();
    (pod["apiVersion"], pod["kind"]) = (json!("v1"), json!("Pod"));
    let metadata = pod["metadata"].as_object_mut().context("metadata")?;
    metadata.retain(|field, value| ["annotations", "labels"].contains(&field.as_str()) && !value.is_null());
    metadata.insert("name".into(), json!(name));
    for field in ["serviceAccountName", "serviceAccount"] {
        if let Some(account) = pod["spec"][field].as_str().filter(|account| !["", "default", NAME].contains(account)) {
            let account = json!({"metadata": {"name": account}});
            match namespace.create::<ServiceAccount>(account).await {
                Ok(_) => {}
                // Another pair has it too.
                Err(error) if error.to_string().contains("already exists") => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(pod)
}

/// Where `expected` is not part of `actual`. Items of lists are found by their name, or are equal.
fn missing(path: &str, expected: &Value, actual: &Value) -> Option<String> {
    match (expected, actual) {
        (Value::Null, _) => None,
        (Value::Object(expected), Value::Object(actual)) => expected
            .iter()
            .filter(|(field, _)| !(path.ends_with("/geth-peering") && SETTINGS.contains(&field.as_str())))
            .filter(|(field, _)| !field.ends_with(UNKNOWN))
            .find_map(|(field, value)| {
                missing(&format!("{path}/{field}"), value, actual.get(field).unwrap_or(&Value::Null))
            }),
        (Value::Array(expected), Value::Array(actual)) => expected.iter().find_map(|item| {
            let key = ["mountPath", "name"].into_iter().find(|key| !item[*key].is_null());
            let Some(key) = key else {
                let found = actual.iter().any(|other| missing(path, item, other).is_none());
                return (!found).then(|| format!("{path} lacks {item}"));
            };
            let path = format!("{path}/{}", item[key].as_str().unwrap_or_default());
            let Some(found) = actual.iter().find(|other| other[key] == item[key]) else {
                return Some(format!("no {path}"));
            };
            missing(&path, item, found)
        }),
        (expected, actual) => (expected != actual).then(|| format!("{path} is {actual}, not {expected}")),
    }
}

#[tokio::test]
async fn does_an_api_server_make_of_golden_pods_what_their_files_say() -> Result<()> {
    in_namespace(async |namespace| {
        namespace.label(json!({OPT_IN: "enabled"})).await?;
        wait::until("the namespace is prepared", wait::SOON, async || {
            Ok(namespace.api::<ServiceAccount>().get(NAME).await?)
        })
        .await?;
        let pairs = pairs()?;
        ensure!(pairs.len() >= 40, "only {} golden pairs", pairs.len());
        let (mut wrong, mut passed) = (Vec::new(), 0);
        for (name, (input, injected)) in &pairs {
            let pod = posted(namespace, name, input).await?;
            match dry_run(namespace, &pod).await {
                Ok(actual) => match missing("/spec", &injected["spec"], &actual["spec"]) {
                    None => passed += 1,
                    Some(what) => wrong.push(format!("{name}: {what}")),
                },
                Err(error) => wrong.push(format!("{name}: {error:#}")),
            }
        }
        e2e::measure::figure("golden pods that an API server made what their files say", passed);
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    })
    .await
}
