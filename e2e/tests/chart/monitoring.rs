//! Do alerts and dashboards ask for what the two programs export, and does every alert say what to do?

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fs;
use std::time::Duration;

use injector::audit::Flaw;
use injector::decision::Decision;
use injector::handler::INTERNAL_ERROR;
use jiff::Timestamp;
use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr};
use promql_parser::util::{ExprVisitor, walk_expr};
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

/// All series: by name, of each label its values.
type Series = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The series that are exported.
fn series() -> Series {
    let mut found = Series::new();
    for line in exported().lines().filter(|line| !line.starts_with('#')) {
        let (selector, _) = line.rsplit_once(' ').expect("a number");
        let Ok(Expr::VectorSelector(selector)) = parser::parse(selector) else { panic!("no series: {line}") };
        let labels = found.entry(selector.name.expect("a name")).or_default();
        for Matcher { name, value, .. } in selector.matchers.matchers {
            labels.entry(name).or_default().insert(value);
        }
    }
    found
}

/// Panics unless this is PromQL, as Grafana may have it, and everything in it exists.
fn check(expression: &str, series: &Series) {
    let asked = expression.replace("$__rate_interval", "5m");
    let asked = parser::parse(&asked).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let Ok(_) = walk_expr(&mut Known { series, expression }, &asked);
}

/// Panics at what does not exist.
struct Known<'a> {
    series: &'a Series,
    expression: &'a str,
}

impl ExprVisitor for Known<'_> {
    type Error = Infallible;

    fn pre_visit(&mut self, part: &Expr) -> Result<bool, Infallible> {
        let Self { series, expression } = self;
        let selector = match part {
            Expr::VectorSelector(selector) => selector,
            Expr::MatrixSelector(matrix) => &matrix.vs,
            _ => return Ok(true),
        };
        let name = selector.name.as_deref().expect("a name");
        let labels = series.get(name).unwrap_or_else(|| panic!("there is no {name} ({expression})"));
        // These two are Prometheus' own.
        let own = |matcher: &&Matcher| !["namespace", "pod"].contains(&matcher.name.as_str());
        for Matcher { op, name, value } in selector.matchers.matchers.iter().filter(own) {
            let known = labels.get(name).unwrap_or_else(|| panic!("no label {name} in {expression}"));
            let values = match op {
                MatchOp::Equal | MatchOp::NotEqual => vec![value.as_str()],
                MatchOp::Re(_) | MatchOp::NotRe(_) => value.split('|').collect(),
            };
            for value in values {
                assert!(known.contains(value), "{name} is never {value} ({expression})");
            }
        }
        Ok(true)
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
            if variable["type"] == "datasource" {
                continue;
            }
            // `label_values(SERIES, LABEL)`, which is Grafana's own.
            let query = variable["query"]["query"].as_str().expect("a query");
            let arguments = query.strip_prefix("label_values(").unwrap_or_else(|| panic!("{query}"));
            check(arguments.rsplit_once(',').expect("two arguments").0, &series);
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
