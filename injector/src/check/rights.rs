//! What the injector may do, asked of the API server.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};

use super::{Finding, pods};
use crate::api::{CALL_DEADLINE, within};
use crate::prepare::NAME;

/// API group, resource, name, verb.
type Right<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Whether the account of an injector has the rights without which it cannot do its work.
pub(super) async fn examine(client: &Client, pod: &pods::Pod) -> Finding {
    let flags = |name: &str| -> Vec<String> {
        let prefix = format!("--{name}=");
        let arguments = pods::container(pod).into_iter().flat_map(|container| &container.args);
        arguments.filter_map(|argument| Some(argument.strip_prefix(&prefix)?.to_owned())).collect()
    };
    let flag = |name: &str| flags(name).pop().unwrap_or_default();
    let (role, configuration, only) = (flag("sidecar-role"), flag("webhook-configuration"), flags("only-namespace"));
    let account = &pod.spec.service_account_name;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let user = format!("system:serviceaccount:{namespace}:{account}");

    let rbac = "rbac.authorization.k8s.io";
    let admission = "admissionregistration.k8s.io";
    let of_role = if only.is_empty() { "clusterroles" } else { "roles" };
    let in_namespaces: [Right<'_>; 6] = [
        ("", "serviceaccounts", "", "create"),
        (rbac, "rolebindings", "", "create"),
        (rbac, "rolebindings", NAME, "patch"),
        (rbac, of_role, &role, "bind"),
        ("events.k8s.io", "events", "", "create"),
        ("apps", "replicasets", "", "get"),
    ];
    let mut needed: Vec<(&str, Right<'_>)> = Vec::new();
    if only.is_empty() {
        needed.push(("", ("", "namespaces", "", "watch")));
    }
    let places = if only.is_empty() { vec![""] } else { only.iter().map(String::as_str).collect() };
    needed.extend(places.into_iter().flat_map(|place| in_namespaces.map(|right| (place, right))));
    // With certificates of somebody else's it writes no webhook configuration, and names none.
    if !configuration.is_empty() {
        needed.push(("", (admission, "mutatingwebhookconfigurations", &configuration, "patch")));
    }
    let mut missing = Vec::new();
    for (namespace, right) in needed {
        let (_, resource, _, verb) = right;
        let place = if namespace.is_empty() { String::new() } else { format!(" in {namespace}") };
        match may(client, &user, namespace, right).await {
            Ok(true) => {}
            Ok(false) => missing.push(format!("{verb} {resource}{place}")),
            Err(finding) => return finding,
        }
    }
    if missing.is_empty() {
        Finding::good(format!("{user} has its rights"))
    } else {
        Finding::wrong(
            format!("{user} may not {}", missing.join(", ")),
            "upgrade the chart, which writes its roles and their bindings anew; with rbac.create=false, whoever made them has to",
        )
    }
}

async fn may(
    client: &Client,
    user: &str,
    namespace: &str,
    (group, resource, name, verb): Right<'_>,
) -> Result<bool, Finding> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                name: (!name.is_empty()).then(|| name.to_owned()),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let params = PostParams::default();
    match within(CALL_DEADLINE, "ask for the injector's rights", api.create(&params, &review)).await {
        Ok(answer) => Ok(answer.status.is_some_and(|status| status.allowed)),
        Err(error) => Err(Finding::unseen("the injector's rights", &error)),
    }
}
