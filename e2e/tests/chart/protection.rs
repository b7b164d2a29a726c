//! Who may reach the injector, and whom the API server serves how.

use serde_json::{Value, json};

use super::helm::{Objects, at, render};

/// The rule of the injector's NetworkPolicy for one of its ports.
fn rule(objects: &Objects, port: &str) -> Value {
    let policy = &objects.get("NetworkPolicy", "geth-peering-injector")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress"]), "or the injector could not reach the API server");
    assert_eq!(policy["podSelector"], objects.deployment()["spec"]["selector"]);
    let rules = policy["ingress"].as_array().expect("rules");
    let of = |rule: &&Value| rule["ports"] == json!([{"port": port, "protocol": "TCP"}]);
    let rule = rules.iter().find(of).unwrap_or_else(|| panic!("no rule for {port}"));
    assert_eq!(rules.len(), 2);
    let ports = objects.container()["ports"].as_array().expect("ports");
    assert!(ports.iter().any(|declared| declared["name"] == port), "{port}");
    rule.clone()
}

#[test]
fn can_api_servers_reach_the_injector_through_its_network_policy() {
    let objects = render(&at("networkPolicy.enabled", json!(true)));
    for port in ["https", "http"] {
        assert!(rule(&objects, port).get("from").is_none(), "everybody");
    }
}

#[test]
fn can_the_ports_be_open_to_different_callers() {
    let (api, prometheus) = (json!([{"ipBlock": {"cidr": "10.0.0.0/28"}}]), json!([{"namespaceSelector": {}}]));
    let values = json!({"enabled": true, "webhookFrom": api, "metricsFrom": prometheus});
    let objects = render(&at("networkPolicy", values));
    assert_eq!(rule(&objects, "https")["from"], api);
    assert_eq!(rule(&objects, "http")["from"], prometheus);
}

#[test]
fn is_the_injector_served_before_ordinary_accounts() {
    let objects = render(&at("flowSchema.enabled", json!(true)));
    let schema = &objects.get("FlowSchema", "geth-peering-injector")["spec"];
    let account = json!({"name": "geth-peering-injector", "namespace": "geth-peering"});
    assert_eq!(schema["rules"][0]["subjects"], json!([{"kind": "ServiceAccount", "serviceAccount": account}]));
    assert_eq!(schema["priorityLevelConfiguration"]["name"], "workload-high", "one that every cluster has");
    assert!(schema["matchingPrecedence"].as_u64().expect("a number") < 9000, "service-accounts takes the rest");
    let others = objects.0.iter().filter(|object| object["apiVersion"] == "flowcontrol.apiserver.k8s.io/v1").count();
    assert_eq!(others, 1, "no level for sidecars of no namespace");
}

#[test]
fn do_the_sidecars_of_each_namespace_get_their_share_of_one_level() {
    let objects = render(&at("flowSchema", json!({"enabled": true, "namespaces": ["east", "west"], "shares": 7})));
    let schema = &objects.get("FlowSchema", "geth-peering-sidecar")["spec"];
    let subjects = schema["rules"][0]["subjects"].as_array().expect("subjects");
    let accounts: Vec<_> = subjects.iter().map(|subject| &subject["serviceAccount"]).collect();
    let of = |namespace: &str| json!({"name": "geth-peering", "namespace": namespace});
    assert_eq!(accounts, [&of("east"), &of("west")]);
    assert_eq!(schema["distinguisherMethod"]["type"], "ByUser", "or one network could starve another");
    let level = schema["priorityLevelConfiguration"]["name"].as_str().expect("a name");
    let level = &objects.get("PriorityLevelConfiguration", level)["spec"];
    assert_eq!(level["limited"]["nominalConcurrencyShares"], 7);
    assert_eq!(level["limited"]["borrowingLimitPercent"], 0, "the more write at once, the fewer get through");
    assert_eq!(level["limited"]["limitResponse"]["type"], "Queue", "whoever starts at once waits, and is not refused");
}
