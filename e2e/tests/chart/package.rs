//! What is delivered with the chart: examples of values, and what a catalogue shows of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::helm::{Objects, RELEASE, chart, helm, metadata, own_values, render};

/// One that has everything for which some value needs a newer one than the chart does.
const KUBERNETES: &str = "1.34.0";

/// The files of values: one for each feature, and the one for high availability.
fn examples() -> Vec<PathBuf> {
    let files = fs::read_dir(chart().join("ci")).expect("the examples").map(|entry| entry.expect("a file").path());
    let mut files: Vec<_> = files.chain([chart().join("values-ha.yaml")]).collect();
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    files
}

fn run(arguments: &[&str], file: &PathBuf) -> String {
    let values: Value = serde_saphyr::from_str(&fs::read_to_string(file).expect("a text")).expect("YAML");
    let folder = chart();
    let mut all = arguments.to_vec();
    all.extend([folder.to_str().expect("UTF-8"), "--namespace", RELEASE, "--kube-version", KUBERNETES]);
    helm(&all, &values).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn does_every_example_of_values_render_without_complaint() {
    for file in examples() {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&run(&["template", RELEASE], &file)).expect("YAML");
        let values: Value = serde_saphyr::from_str(&fs::read_to_string(&file).expect("a text")).expect("YAML");
        // Without account, roles and bindings, four are left.
        let least = if values["rbac"]["create"] == false { 4 } else { 8 };
        assert!(objects.len() >= least, "{}", file.display());
        run(&["lint", "--strict"], &file);
    }
}

#[test]
fn does_some_example_switch_every_feature_on() {
    let texts = examples().into_iter().map(|file| fs::read_to_string(file).expect("a text"));
    let values: Vec<Value> = texts.map(|text| serde_saphyr::from_str(&text).expect("YAML")).collect();
    let own = own_values();
    let features: BTreeSet<_> =
        own.as_object().expect("values").keys().filter(|key| own[key]["enabled"] == false).collect();
    assert!(features.len() > 3, "{features:?}");
    for feature in features {
        assert!(values.iter().any(|values| values[feature]["enabled"] == true), "{feature}");
    }
}

#[test]
fn do_three_injectors_outlive_any_node_with_the_values_for_high_availability() {
    let text = fs::read_to_string(chart().join("values-ha.yaml")).expect("a text");
    let values: Value = serde_saphyr::from_str(&text).expect("YAML");
    let objects: Objects = render(&values);
    assert_eq!(objects.deployment()["spec"]["replicas"], 3);
    let pod = &objects.pod()["spec"];
    assert_eq!(pod["priorityClassName"], "system-cluster-critical");
    let nodes = &pod["topologySpreadConstraints"][0];
    let (key, otherwise) = (&nodes["topologyKey"], &nodes["whenUnsatisfiable"]);
    assert_eq!((key, otherwise), (&json!("kubernetes.io/hostname"), &json!("DoNotSchedule")));
    assert_eq!(objects.get("PodDisruptionBudget", "geth-peering-injector")["spec"]["maxUnavailable"], 1);
}

#[test]
fn does_helm_show_the_readme_of_the_chart() {
    let shown = Command::new("helm").args(["show", "readme"]).arg(chart()).output().expect("helm");
    let readme = String::from_utf8(shown.stdout).expect("a text");
    assert!(readme.contains("helm upgrade --install geth-peering chart"), "{readme}");
}

#[test]
fn does_a_catalogue_show_the_images_that_are_used() {
    let annotations = &metadata()["annotations"];
    let list: Vec<Value> =
        serde_saphyr::from_str(annotations["artifacthub.io/images"].as_str().expect("a list")).expect("YAML");
    let shown: BTreeSet<_> = list.iter().map(|image| image["image"].as_str().expect("an image").to_owned()).collect();
    let objects = render(&json!({}));
    let used = [objects.container()["image"].as_str().expect("an image").to_owned(), objects.flag("sidecar-image")];
    assert_eq!(shown, used.into());
}

#[test]
fn is_what_a_catalogue_reads_written_as_it_wants_it() {
    let annotations = &metadata()["annotations"];
    let list = |key: &str| -> Vec<Value> {
        let text = annotations[format!("artifacthub.io/{key}")].as_str().unwrap_or_else(|| panic!("no {key}"));
        serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{key}: {error}"))
    };
    for change in list("changes") {
        let kinds = ["added", "changed", "deprecated", "removed", "fixed", "security"];
        assert!(kinds.contains(&change["kind"].as_str().expect("a kind")), "{change}");
        assert!(change["description"].is_string(), "{change}");
    }
    for link in list("links") {
        assert!(
            link["name"].is_string() && link["url"].as_str().is_some_and(|url| url.starts_with("https://")),
            "{link}"
        );
    }
    for flag in ["operator", "prerelease"] {
        let flag = annotations[format!("artifacthub.io/{flag}")].as_str();
        assert!(flag.is_some_and(|flag| ["true", "false"].contains(&flag)), "annotations are texts");
    }
}
