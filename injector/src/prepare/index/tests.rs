//! What follows from what the watches show?

use super::*;
use serde_json::{Value, json};

const ROLE: &str = "geth-peering-sidecar";

fn from<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn namespace(name: &str) -> PartialObjectMeta<Namespace> {
    from(json!({"metadata": {"name": name}}))
}

fn account(namespace: &str) -> PartialObjectMeta<ServiceAccount> {
    from(json!({"metadata": {"name": NAME, "namespace": namespace}}))
}

fn binding(namespace: &str, role: &str, ours: bool, accounts: &[&str]) -> RoleBinding {
    let subjects: Vec<_> = accounts
        .iter()
        .map(|account| json!({"kind": "ServiceAccount", "name": account, "namespace": namespace}))
        .collect();
    let labels = if ours { json!({MANAGED_BY.0: MANAGED_BY.1}) } else { json!({"app.kubernetes.io/managed-by": "x"}) };
    from(json!({
        "metadata": {"name": NAME, "namespace": namespace, "labels": labels},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    }))
}

/// An index that has seen the namespace `a`, labelled, with an account and `binding`.
fn index(binding: Option<RoleBinding>) -> Index {
    let mut index = Index::new(ROLE, Scope::all_but(["vault".to_owned()].into()));
    for event in [Event::Init, Event::InitApply(namespace("a")), Event::InitDone] {
        index.see_namespace(event);
    }
    for event in [Event::Init, Event::InitApply(account("a")), Event::InitDone] {
        index.see_account(event);
    }
    let listed = binding.map(Event::InitApply);
    for event in [Event::Init].into_iter().chain(listed).chain([Event::InitDone]) {
        index.see_binding(event);
    }
    index
}

#[test]
fn what_does_a_namespace_need() {
    let foreign = Need::Foreign { role: "view".into() };
    for (what, binding, account, expected) in [
        ("no binding", None, NAME, Need::Write),
        ("complete", Some(binding("a", ROLE, true, &[NAME])), NAME, Need::Nothing),
        ("an account of the user's", Some(binding("a", ROLE, true, &[NAME])), "mine", Need::Write),
        ("that is bound", Some(binding("a", ROLE, true, &["mine", NAME])), "mine", Need::Nothing),
        ("ours is missing", Some(binding("a", ROLE, true, &["mine"])), "mine", Need::Write),
        ("made by hand, complete", Some(binding("a", ROLE, false, &[NAME])), NAME, Need::Nothing),
        ("our binding of an older release", Some(binding("a", "old", true, &[NAME])), NAME, Need::Write),
        ("somebody's binding", Some(binding("a", "view", false, &[NAME])), NAME, foreign),
    ] {
        assert_eq!(index(binding).need("a", &Holder::new("a", account)), expected, "{what}");
    }
    let mut index = index(Some(binding("a", ROLE, true, &[NAME])));
    index.see_account(Event::Delete(account("a")));
    assert_eq!(index.need("a", &Holder::new("a", NAME)), Need::Write, "the account is gone");
}

#[test]
fn is_an_account_of_another_namespace_no_subject() {
    let mut binding = binding("a", ROLE, true, &[NAME]);
    binding.subjects.iter_mut().flatten().for_each(|subject| subject.namespace = Some("b".into()));
    assert_eq!(index(Some(binding)).need("a", &Holder::new("a", NAME)), Need::Write);
}

#[test]
fn does_an_account_of_another_namespace_need_a_subject_of_its_own_and_keep_it() {
    let mut index = index(Some(binding("a", ROLE, true, &[NAME])));
    let strange = Holder::new("b", NAME);
    assert_eq!(index.need("a", &strange), Need::Write, "the one of the same name is another");
    let mut both = binding("a", ROLE, true, &[NAME, NAME]);
    both.subjects.iter_mut().flatten().skip(1).for_each(|subject| subject.namespace = Some("b".into()));
    index.put_binding(both.clone());
    assert_eq!(index.need("a", &strange), Need::Nothing);
    index.see_binding(Event::Delete(both));
    assert!(index.wanted("a", &Holder::new("a", NAME)).contains(&strange));
}

#[test]
fn which_namespaces_are_prepared_without_a_pod() {
    let mut index = index(None);
    assert_eq!(index.unprepared(), ["a"]);
    let mut ending = namespace("a");
    ending.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    index.see_namespace(Event::Apply(ending));
    assert!(index.unprepared().is_empty(), "nothing can be made in a namespace that is being deleted");
    index.see_namespace(Event::Apply(namespace("b")));
    index.see_namespace(Event::Apply(namespace("vault")));
    assert_eq!(index.unprepared(), ["b"], "and not what is excluded");
    index.see_namespace(Event::Delete(namespace("b")));
    assert!(index.unprepared().is_empty(), "the label was taken off");
}

#[test]
fn are_rights_that_a_pod_is_owed_given_where_nothing_else_asks_for_them_and_no_longer_owed_then() {
    let (mut index, mine) = (index(None), Holder::new("b", "mine"));
    index.put_binding(binding("a", ROLE, true, &[NAME]));
    index.owe("b", &mine);
    index.owe("vault", &mine);
    assert_eq!(index.unprepared(), ["b"], "nothing is made where it is excluded");
    assert_eq!(index.lacking("b"), Some(mine.clone()));
    assert!(index.wanted("b", &Holder::new("b", NAME)).contains(&mine), "one write gives them to all");
    index.put_account("b");
    index.put_binding(binding("b", ROLE, true, &["mine", NAME]));
    assert!(index.unprepared().is_empty());
    index.see_binding(Event::Delete(binding("b", ROLE, true, &["mine", NAME])));
    assert!(index.unprepared().is_empty(), "whoever deletes a binding later means it");

    index.owe("b", &mine);
    index.forgive("b");
    assert!(index.unprepared().is_empty(), "the namespace is gone");
}

#[test]
fn are_the_accounts_of_a_namespace_that_never_asked_kept_when_its_label_is_seen_to_say_something_else() {
    let mut index = index(None);
    index.see_binding(Event::Apply(binding("b", ROLE, true, &["mine"])));
    index.see_namespace(Event::Delete(namespace("b")));
    assert!(index.wanted("b", &Holder::new("b", NAME)).contains(&Holder::new("b", "mine")));
}

#[test]
fn is_it_synced_only_after_all_three_lists() {
    let mut index = Index::new(ROLE, Scope::all_but(["vault".to_owned()].into()));
    index.see_namespace(Event::InitDone);
    index.see_account(Event::InitDone);
    index.see_binding(Event::Init);
    index.see_binding(Event::InitApply(binding("a", ROLE, true, &[NAME])));
    assert!(!index.is_synced());
    assert_eq!(index.need("a", &Holder::new("a", NAME)), Need::Write, "a list that is not complete says nothing");
    index.see_binding(Event::InitDone);
    assert!(index.is_synced());
}

#[test]
fn does_a_new_list_forget_what_it_does_not_hold() {
    let mut index = index(Some(binding("a", ROLE, true, &[NAME])));
    index.see_account(Event::Init);
    assert_eq!(
        index.need("a", &Holder::new("a", NAME)),
        Need::Nothing,
        "until the list is complete, the old one counts"
    );
    index.see_account(Event::InitDone);
    assert_eq!(index.need("a", &Holder::new("a", NAME)), Need::Write);
}

#[test]
fn do_the_accounts_of_a_deleted_binding_come_back_where_it_does() {
    let wanted = |index: &Index| {
        index.wanted("a", &Holder::new("a", NAME)).into_iter().map(|holder| holder.name).collect::<Vec<_>>()
    };
    let before = binding("a", ROLE, true, &[NAME, "mine"]);
    let mut labelled = index(Some(before.clone()));
    labelled.see_binding(Event::Delete(before.clone()));
    assert_eq!(wanted(&labelled), [NAME, "mine"]);

    let mut unlabelled = index(Some(before.clone()));
    unlabelled.see_namespace(Event::Delete(namespace("a")));
    unlabelled.see_binding(Event::Delete(before));
    assert_eq!(wanted(&unlabelled), [NAME], "or else a later namespace of that name would inherit them");
}

#[test]
fn does_a_namespace_say_something_for_its_pods_only_while_it_is_labelled() {
    let said = |value: &str| BTreeMap::from([("geth-peering/network".to_owned(), value.to_owned())]);
    let a = |label: &str, network: &str| -> PartialObjectMeta<Namespace> {
        from(json!({"metadata": {"name": "a", "labels": {KEY: label}, "annotations": said(network)}}))
    };
    let mut index = index(None);
    assert_eq!(*index.defaults("a"), Defaults::default());
    for (event, expected) in [
        (Event::Apply(a(ENABLED, "x")), Defaults::of("a", &said("x"))),
        (Event::Apply(a(ENABLED, "y")), Defaults::of("a", &said("y"))),
        (Event::Apply(a("other", "z")), Defaults::default()),
        (Event::Apply(a(ENABLED, "y")), Defaults::of("a", &said("y"))),
        (Event::Delete(a(ENABLED, "y")), Defaults::default()),
    ] {
        index.see_namespace(event);
        assert_eq!(*index.defaults("a"), expected);
    }
}
