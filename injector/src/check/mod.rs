//! `injector check`: is an installation what it should be, and if not, what is to be done?
//!
//! What was found is judged by pure functions ([`webhooks`], [`pods`]); what asks the API server is here and in
//! [`rights`]. Whoever runs it may not be allowed to look at everything: such a check is left out and says so.

mod finding;
mod pods;
mod rights;
mod webhooks;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};

use crate::api::{ApiError, CALL_DEADLINE, within};
use crate::audit::each;
use crate::inject::{ENABLED, KEY};
use webhooks::Installation;

pub use finding::{Finding, Verdict};

/// Examines the installation with this MutatingWebhookConfiguration, or the only one, and tries a pod in `namespace`.
pub async fn examine(client: &Client, configuration: Option<&str>, namespace: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(installation) = webhook(client, configuration, &mut findings).await {
        let pods = injectors(client, &installation, &mut findings).await;
        for pod in &pods {
            findings.push(certificate(client, &installation, pod).await);
        }
        if let Some(pod) = pods.first() {
            findings.push(rights::examine(client, pod).await);
        }
    }
    findings.push(injection(client, namespace).await);
    findings.extend(uninjected(client).await);
    findings
}

/// The webhook configuration and what it says of the rest.
async fn webhook(client: &Client, name: Option<&str>, findings: &mut Vec<Finding>) -> Option<Installation> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let listed = within(CALL_DEADLINE, "list MutatingWebhookConfigurations", api.list(&ListParams::default())).await;
    let found = match listed {
        Ok(list) => webhooks::find(list.items, name),
        Err(error) => Err(Finding::unseen("the webhook configuration", &error)),
    };
    match found {
        Ok(installation) => {
            findings.extend(installation.judge(Timestamp::now()));
            Some(installation)
        }
        Err(finding) => {
            findings.push(finding);
            None
        }
    }
}

/// The pods that answer the webhooks, and whether there are enough of them.
async fn injectors(client: &Client, installation: &Installation, findings: &mut Vec<Finding>) -> Vec<Pod> {
    let listed = async {
        let services: Api<Service> = Api::namespaced(client.clone(), &installation.namespace);
        let name = &installation.service;
        let service = within(CALL_DEADLINE, format!("read the Service {name}"), services.get(name)).await?;
        let selector = service.spec.and_then(|spec| spec.selector).unwrap_or_default();
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let pods: Api<Pod> = Api::namespaced(client.clone(), &installation.namespace);
        let params = ListParams::default().labels(&labels.join(","));
        Ok::<_, ApiError>(within(CALL_DEADLINE, "list the injectors", pods.list(&params)).await?.items)
    };
    match listed.await {
        Ok(pods) => {
            findings.push(pods::judge_injectors(&pods));
            pods.into_iter().filter(pods::is_ready).collect()
        }
        Err(error) => {
            findings.push(Finding::unseen("the injectors", &error));
            Vec::new()
        }
    }
}

/// Whether the API servers will trust what an injector serves.
async fn certificate(client: &Client, installation: &Installation, pod: &Pod) -> Finding {
    let name = pod.name_any();
    let path = format!(
        "/api/v1/namespaces/{}/pods/{name}:{}/proxy/certificate",
        installation.namespace,
        pods::http_port(pod).unwrap_or_default()
    );
    let read = async {
        let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        client.request_text(request).await
    };
    match within(CALL_DEADLINE, format!("read the certificate of {name}"), read).await {
        Ok(chain) => installation.judge_certificate(&name, &chain, Timestamp::now()),
        Err(error) => Finding::unseen(&format!("the certificate that {name} serves"), &error),
    }
}

/// Whether a pod that asks for the sidecar gets it.
async fn injection(client: &Client, namespace: &str) -> Finding {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let pod = match serde_json::from_value(pods::example()) {
        Ok(pod) => pod,
        Err(error) => return Finding::wrong(format!("the pod to try cannot be made: {error}"), "report this"),
    };
    let created = within(CALL_DEADLINE, format!("create a pod in {namespace}"), api.create(&params, &pod)).await;
    match created {
        Ok(pod) => pods::judge_injected(namespace, &pod),
        Err(error) if error.is_forbidden_by_rbac() => Finding::unseen(&format!("an injection in {namespace}"), &error),
        Err(error) => Finding::wrong(
            format!("a pod with the label {KEY}={ENABLED} cannot be created in namespace {namespace}: {error}"),
            "the injectors' log and Events say more; `kubectl -n NAMESPACE get events`",
        ),
    }
}

/// Opted-in pods without the sidecar, or with an old one.
async fn uninjected(client: &Client) -> Vec<Finding> {
    let api: Api<Pod> = Api::all(client.clone());
    let mut pods = Vec::new();
    match each(&api, &format!("{KEY}={ENABLED}"), |pod| pods.extend(pods::Seen::of(pod))).await {
        Ok(()) => pods::judge_population(&pods),
        Err(error) => vec![Finding::unseen("the labelled pods", &error)],
    }
}
