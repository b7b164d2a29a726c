//! Does what comes of a pod hold when it is asked for as an API server asks? The pairs are those of `tests/golden`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

/// What sidecars get in the pairs.
const RESOURCES: [&str; 3] =
    ["--sidecar-cpu-request=10m", "--sidecar-memory-request=16Mi", "--sidecar-memory-limit=64Mi"];

/// The flags that stand for the settings of a `NAME.context.yaml`; `None` for what no flag can cause.
fn flags(context: &Value) -> Option<Vec<String>> {
    let flag = |(key, value): (&String, &Value)| {
        let list = || value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned());
        match key.as_str() {
            "nativeSidecars" => Some(vec![format!("--native-sidecars={value}")]),
            "disableServiceLinks" => Some(vec![format!("--disable-service-links={value}")]),
            "configmapNames" => Some(list().map(|name| format!("--configmap={name}")).collect()),
            "registryNamespaces" => Some(list().map(|name| format!("--registry-namespace={name}")).collect()),
            _ => None,
        }
    };
    context.as_object().unwrap().iter().map(flag).collect::<Option<Vec<_>>>().map(|flags| flags.concat())
}

/// One pair: its name, the pod, what becomes of it, and the warnings.
struct Pair {
    name: String,
    input: Value,
    injected: Value,
    warnings: Vec<String>,
}

/// The pairs by the flags that they need.
fn pairs() -> BTreeMap<Vec<String>, Vec<Pair>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut pairs: BTreeMap<_, Vec<Pair>> = BTreeMap::new();
    for file in fs::read_dir(&folder).unwrap() {
        let Some(name) =
            file.unwrap().file_name().to_str().and_then(|name| Some(name.strip_suffix(".input.yaml")?.to_owned()))
        else {
            continue;
        };
        let text = |kind: &str| fs::read_to_string(folder.join(format!("{name}.{kind}.yaml"))).ok();
        let yaml = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap();
        let context = text("context").map_or_else(|| Value::Object(serde_json::Map::new()), |text| yaml(&text));
        let Some(flags) = flags(&context) else { continue };
        let injected = text("injected").unwrap();
        let warnings = injected
            .lines()
            .filter_map(|line| line.strip_prefix("# warning: ").map(|warning| format!("geth-peering: {warning}")))
            .collect();
        let (input, injected) = (yaml(&text("input").unwrap()), yaml(&injected));
        pairs.entry(flags).or_default().push(Pair { name, input, injected, warnings });
    }
    pairs
}

#[tokio::test]
async fn does_every_known_shape_come_out_as_it_should_through_the_webhook() {
    let mut asked = 0;
    for (flags, pairs) in pairs() {
        let server = cluster();
        let flags: Vec<_> = RESOURCES.into_iter().chain(flags.iter().map(String::as_str)).collect();
        let replica = Replica::launch_with(&server, &flags).await;
        replica.until_ready().await;
        let api_server = replica.api_server(&server).await;
        for Pair { name, input, injected, warnings } in pairs {
            let response = api_server.review("/mutate/pods", &review("chain", input.clone())).await;
            assert_eq!(patched(input, &response), injected, "{name}");
            let said: Vec<_> =
                response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            assert_eq!(said, warnings, "{name}");
            asked += 1;
        }
    }
    assert!(asked >= 50, "{asked}");
}

#[tokio::test]
async fn is_every_known_pod_that_gets_no_sidecar_told_so_through_the_webhook() {
    let server = cluster();
    let replica = Replica::start(&server).await;
    let api_server = replica.api_server(&server).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/left-alone");
    let mut asked = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".input.yaml") else { continue };
        let read = |kind: &str| -> Value {
            serde_saphyr::from_str(&fs::read_to_string(folder.join(format!("{name}.{kind}.yaml"))).unwrap()).unwrap()
        };
        let (pod, decided) = (read("input"), read("decision"));
        let response = api_server.review("/mutate/pods", &review("chain", pod)).await;
        assert_eq!(response["allowed"] == false, decided["denied"] == true, "{name}: {response}");
        assert_eq!(response["auditAnnotations"]["decision"], decided["decision"], "{name}");
        assert_eq!(response.get("patch"), None, "{name}");
        if decided["denied"] == true {
            assert_eq!(response["status"]["message"], decided["message"], "{name}");
        }
        let texts = |list: &Value| {
            list.as_array().into_iter().flatten().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let warnings: Vec<_> = texts(&decided["warnings"]).iter().map(|text| format!("geth-peering: {text}")).collect();
        assert_eq!(texts(&response["warnings"]), warnings, "{name}");
        asked += 1;
    }
    assert!(asked >= 16, "{asked}");
}
