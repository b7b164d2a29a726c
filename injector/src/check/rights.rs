//! What the injector may do, asked of the API server.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, PostParams};

use super::{Finding, pods};
use crate::api::{CALL_DEADLINE, within};
use crate::prepare::NAME;

/// API group, resource, name, verb.
type Right<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Whether the account of an injector has the rights without which it cannot do its work.
pub(super) async fn examine(client: &Client, pod: &Pod) -> Finding {
    let flag = |name: &str| {
        let prefix = format!("--{name}=");
        let mut arguments = pods::container(pod).into_iter().flat_map(|container| container.args.iter().flatten());
        arguments.find_map(|argument| Some(argument.strip_prefix(&prefix)?.to_owned())).unwrap_or_default()
    };
    let (role, configuration) = (flag("sidecar-cluster-role"), flag("webhook-configuration"));
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let user = format!("system:serviceaccount:{namespace}:{account}");

    let rbac = "rbac.authorization.k8s.io";
    let admission = "admissionregistration.k8s.io";
    let rights: Vec<Right<'_>> = vec![
        ("", "namespaces", "", "watch"),
        ("", "serviceaccounts", "", "create"),
        (rbac, "rolebindings", "", "create"),
        (rbac, "rolebindings", NAME, "patch"),
        (rbac, "clusterroles", &role, "bind"),
        ("events.k8s.io", "events", "", "create"),
        (admission, "mutatingwebhookconfigurations", &configuration, "patch"),
    ];
    let mut missing = Vec::new();
    // With certificates of somebody else's it writes no webhook configuration, and names none.
    for right in rights.into_iter().filter(|(group, _, name, _)| *group != admission || !name.is_empty()) {
        let (_, resource, _, verb) = right;
        match may(client, &user, right).await {
            Ok(true) => {}
            Ok(false) => missing.push(format!("{verb} {resource}")),
            Err(finding) => return finding,
        }
    }
    if missing.is_empty() {
        Finding::good(format!("{user} has its rights"))
    } else {
        Finding::wrong(
            format!("{user} may not {}", missing.join(", ")),
            "upgrade the chart, which writes its ClusterRole and the binding anew",
        )
    }
}

async fn may(client: &Client, user: &str, (group, resource, name, verb): Right<'_>) -> Result<bool, Finding> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(ResourceAttributes {
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
