//! Pods with thousands of variables. What is counted is the work that is done, since time depends on the machine.

use injector::decision::Decision;
use injector::inject::Outcome;
use serde_json::{Value, json};

use crate::injected;

/// What comes of a pod of so many variables, all of which its script refers to.
fn of(variables: usize) -> Outcome {
    let env: Vec<Value> = (0..variables).map(|n| json!({"name": format!("V{n}"), "value": "x"})).collect();
    let references: String = (0..variables).map(|n| format!(" $V{n}")).collect();
    let outcome = injected(&json!({
        "metadata": {"name": "geth-0", "labels": {"geth-peering": "enabled"}},
        "spec": {"containers": [{
            "name": "geth", "image": "ethereum/client-go", "env": env,
            "command": ["sh", "-c", format!("echo{references}; exec geth --ipcdisable --datadir=/data")],
        }]},
    }));
    assert_eq!(outcome.decision, Decision::Injected, "{:?}", outcome.message);
    outcome
}

#[test]
fn does_a_pod_of_twice_as_many_variables_get_as_many_changes_none_of_which_writes_them_again() {
    // Each change costs at most one pass over the pod, so as long as their number stays, twice the variables cost twice.
    let places = |outcome: &Outcome| outcome.patch.iter().map(|change| change.path().to_string()).collect::<Vec<_>>();
    let added = |outcome: &Outcome| {
        let is_script = |path: &str| path.starts_with("/spec/containers/0/command");
        let others = outcome.patch.iter().filter(|change| !is_script(change.path().as_str()));
        others.map(|change| serde_json::to_string(change).unwrap().len()).sum::<usize>()
    };
    let (small, large) = (of(1_000), of(2_000));
    assert_eq!(places(&small), places(&large));
    assert_eq!(added(&small), added(&large), "bytes");
}
