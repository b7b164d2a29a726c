//! Do alerts and dashboards ask for what the two programs export, and does every alert say what to do?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use injector::audit::Flaw;
use injector::decision::Decision;
use injector::handler::INTERNAL_ERROR;
use jiff::Timestamp;
use serde_json::{Value, json};
use sidecar::status::Status;

use super::helm::{at, chart, render, settings};

/// What both programs export once they have counted everything that they count.
pub(super) fn exported() -> String {
    let (sidecar, injector) = (sidecar::metrics::Metrics::default(), injector::metrics::Metrics::default());
    sidecar.geth_calls().count("admin_peers", &Ok(()));
    sidecar.api_requests().count("list", "configmaps", "ok");
    for decision in Decision::ALL.map(Decision::word).into_iter().chain([INTERNAL_ERROR]) {
        for webhook in ["pods", "workloads"] {
            injector.decided(webhook, decision, Duration::ZERO);
        }
    }
    injector.prepared(true);
    injector.prepared(false);
    Flaw::ALL.into_iter().for_each(|flaw| injector.found(flaw, 1));
    sidecar.render(&Status::new("geth-0", Timestamp::UNIX_EPOCH)) + &injector.text().expect("text")
}

/// The names of all series, each with the values of its labels.
fn series() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut found: BTreeMap<_, BTreeMap<_, BTreeSet<_>>> = BTreeMap::new();
    for line in exported().lines().filter(|line| !line.starts_with('#')) {
        let name = &line[..line.find(['{', ' ']).expect("a number")];
        let labels = found.entry(name.to_owned()).or_default();
        for (label, _, value) in selectors(&line[name.len()..]) {
            labels.entry(label).or_default().insert(value);
        }
    }
    found
}

/// The selectors in braces at the beginning of `text`: label, operator, value.
fn selectors(text: &str) -> Vec<(String, String, String)> {
    let Some((inside, _)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) else { return Vec::new() };
    let parts: Vec<_> = inside.split('"').collect();
    let of = |pair: &[&str]| {
        let (label, operator) = pair[0].split_at(pair[0].find(['=', '!']).expect("an operator"));
        (label.trim_start_matches([',', ' ']).to_owned(), operator.to_owned(), pair[1].to_owned())
    };
    parts.chunks_exact(2).map(of).collect()
}

/// Panics unless everything in this PromQL exists.
fn check(expression: &str, series: &BTreeMap<String, BTreeMap<String, BTreeSet<String>>>) {
    let mut rest = expression;
    while let Some(start) = rest.find("geth_peering_") {
        rest = &rest[start..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let labels = series.get(&rest[..end]).unwrap_or_else(|| panic!("there is no {} ({expression})", &rest[..end]));
        for (label, operator, value) in selectors(&rest[end..]) {
            // These two are Prometheus' own.
            if ["namespace", "pod"].contains(&label.as_str()) {
                continue;
            }
            let known = labels.get(&label).unwrap_or_else(|| panic!("no label {label} in {expression}"));
            let values = if operator.ends_with('~') { value.split('|').collect() } else { vec![value.as_str()] };
            for value in values {
                assert!(known.contains(value), "{label} is never {value} ({expression})");
            }
        }
        rest = &rest[end..];
    }
}

/// The rules as they are installed.
fn alerts(runbooks: &str) -> Vec<Value> {
    let objects = render(&json!({"prometheusRule": {"enabled": true, "runbooks": runbooks}}));
    let groups = objects.get("PrometheusRule", "geth-peering")["spec"]["groups"].as_array().expect("groups").clone();
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

#[test]
fn does_every_alert_ask_for_what_is_exported() {
    let series = series();
    let alerts = alerts("");
    assert!(alerts.len() > 8, "{alerts:?}");
    for alert in alerts {
        let expression = alert["expr"].as_str().expect("an expression");
        assert!(expression.contains("geth_peering_"), "{expression}");
        check(expression, &series);
    }
}

#[test]
fn does_every_panel_of_a_dashboard_ask_for_what_is_exported() {
    let series = series();
    let objects = render(&at("dashboards.enabled", json!(true)));
    let mut asked = String::new();
    for name in ["network", "injector"] {
        let map = objects.get("ConfigMap", &format!("geth-peering-dashboard-{name}"));
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1", "or Grafana does not find it");
        let text = map["data"][format!("{name}.json")].as_str().expect("a file");
        let dashboard: Value = serde_json::from_str(text).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let expression = target["expr"].as_str().expect("an expression");
                check(expression, &series);
                asked.push_str(expression);
            }
        }
        for variable in dashboard["templating"]["list"].as_array().expect("variables") {
            check(variable["query"]["query"].as_str().unwrap_or_default(), &series);
        }
    }
    let forgotten = series.keys().filter(|name| !name.ends_with("_count") && !name.ends_with("_sum"));
    for name in forgotten {
        assert!(asked.contains(name.as_str()), "no panel shows {name}");
    }
}

#[test]
fn does_every_alert_say_what_happened_and_lead_to_its_runbook() {
    let runbooks = fs::read_to_string(chart().join("../docs/runbooks.md")).expect("runbooks");
    let headings: BTreeSet<_> = runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts = self::alerts("https://example.org/runbooks.md");
    let names: BTreeSet<_> = alerts.iter().map(|alert| alert["alert"].as_str().expect("a name")).collect();
    assert_eq!(headings, names);
    for alert in &alerts {
        let name = alert["alert"].as_str().expect("a name");
        assert!(alert["annotations"]["summary"].is_string(), "{name}");
        assert!(["warning", "critical"].contains(&alert["labels"]["severity"].as_str().expect("a severity")), "{name}");
        let link = format!("https://example.org/runbooks.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], link);
    }
    for section in runbooks.split("\n## ").skip(1) {
        assert!(section.contains("**Means**: ") && section.contains("**Do**: "), "{section}");
    }
    assert!(self::alerts("").iter().all(|alert| alert["annotations"]["runbook_url"].is_null()));
}

#[test]
fn are_the_ports_scraped_that_the_pods_have() {
    let objects = render(&at("podMonitor.enabled", json!(true)));
    let injectors = &objects.get("PodMonitor", "geth-peering-injector")["spec"];
    assert_eq!(injectors["selector"], objects.deployment()["spec"]["selector"]);
    assert_eq!(injectors["podMetricsEndpoints"][0]["port"], "http");
    let port = json!({"name": "http", "containerPort": 8080});
    assert!(objects.container()["ports"].as_array().expect("ports").contains(&port));

    let pod = json!({
        "metadata": {"labels": {"geth-peering": "enabled"}},
        "spec": {"containers": [{"name": "geth", "image": "ethereum/client-go"}]},
    });
    let settings = settings();
    let account = injector::inject::Account::Ready;
    let context = injector::inject::Context { settings: &settings, account: &account };
    let mut injected = pod.clone();
    json_patch::patch(&mut injected, &injector::inject::inject(&pod, &context).patch).expect("a patch");
    let sidecar = &injected["spec"]["initContainers"][0];
    let sidecars = &objects.get("PodMonitor", "geth-peering-sidecar")["spec"];
    assert_eq!(sidecars["namespaceSelector"], json!({"any": true}));
    assert_eq!(sidecars["selector"], json!({}), "injected pods have no label in common");
    let endpoint = &sidecars["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], sidecar["ports"][0]["name"]);
    assert_eq!(endpoint["relabelings"][0]["regex"], sidecar["name"]);
}

#[test]
fn can_the_scraped_namespaces_be_chosen() {
    let objects = render(&at("podMonitor", json!({"enabled": true, "namespaces": ["east"], "interval": "15s"})));
    let sidecars = &objects.get("PodMonitor", "geth-peering-sidecar")["spec"];
    assert_eq!(sidecars["namespaceSelector"], json!({"matchNames": ["east"]}));
    for name in ["geth-peering-sidecar", "geth-peering-injector"] {
        assert_eq!(objects.get("PodMonitor", name)["spec"]["podMetricsEndpoints"][0]["interval"], "15s");
    }
}
