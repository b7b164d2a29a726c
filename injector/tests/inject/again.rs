//! A pod that comes a second time, when more is known or somebody else has changed it.

use injector::decision::Decision;
use injector::inject::{Account, Context, Lack, Outcome, inject};
use serde_json::{Value, json};

use crate::{patched, settings};

const UNBOUND: &str = "geth-peering/unbound";

fn decided(pod: &Value, account: &Account) -> Outcome {
    inject(pod, &Context { settings: &settings(), account })
}

/// A pod that was let in while its account was in this state.
fn let_in(account: &Account) -> Value {
    let pod = json!({
        "metadata": {"name": "geth-0", "labels": {"geth-peering": "enabled"}},
        "spec": {"serviceAccountName": "default", "containers": [{"name": "geth", "image": "ethereum/client-go"}]},
    });
    let outcome = decided(&pod, account);
    assert_eq!(outcome.decision, Decision::Injected);
    patched(&pod, &outcome)
}

fn lack() -> Lack {
    Lack { why: "the API server hangs".to_owned(), owed: true }
}

#[test]
fn is_an_account_that_becomes_ready_between_two_calls_given_and_nobody_blamed() {
    let missing = let_in(&Account::Missing(lack()));
    assert_eq!(missing["metadata"]["annotations"][UNBOUND], "default");
    for state in [Account::Ready, Account::Unbound(lack())] {
        let outcome = decided(&missing, &state);
        assert_eq!((outcome.decision, &outcome.message), (Decision::AlreadyInjected, &None), "{state:?}");
        let after = patched(&missing, &outcome);
        assert_eq!(after["spec"]["serviceAccountName"], "geth-peering");
        let unbound = (state != Account::Ready).then(|| json!("geth-peering"));
        assert_eq!(after["metadata"]["annotations"].get(UNBOUND), unbound.as_ref(), "what it says is true");
        assert!(decided(&after, &state).patch.is_empty());
    }

    let ready = let_in(&Account::Ready);
    let outcome = decided(&ready, &Account::Unbound(lack()));
    assert_eq!(outcome.decision, Decision::AlreadyInjected, "somebody took the rights, not a part of the pod");
    assert_eq!(patched(&ready, &outcome)["metadata"]["annotations"][UNBOUND], "geth-peering");
}

#[test]
fn is_another_webhook_blamed_for_all_that_it_took_out_and_for_nothing_else() {
    let take_out = |mut pod: Value| {
        pod["spec"]["serviceAccountName"] = json!("default");
        pod["spec"]["initContainers"][0]["restartPolicy"] = Value::Null;
        pod
    };
    for (pod, account) in [(let_in(&Account::Ready), true), (let_in(&Account::Missing(lack())), false)] {
        let pod = take_out(pod);
        let outcome = decided(&pod, &Account::Ready);
        assert_eq!(outcome.decision, Decision::Repaired);
        let message = outcome.message.as_deref().unwrap();
        assert!(message.contains("/spec/initContainers/0/restartPolicy"), "{message}");
        assert_eq!(message.contains("serviceAccountName"), account, "{message}");
        assert!(!message.contains("unbound"), "{message}");
        assert_eq!(patched(&pod, &outcome)["spec"]["serviceAccountName"], "geth-peering");
    }
}
