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
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams};
use kube::core::ObjectList;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use crate::api::{ApiError, CALL_DEADLINE, at_pods, within};
use crate::audit::{Which, asking, each, each_whole, judge, judge_whole};
use crate::config::Config;
use crate::inject::{Defaults, ENABLED, KEY};
use crate::scope::Scope;
use webhooks::Installation;

pub use finding::{Finding, Verdict};

/// Examines the installation with this MutatingWebhookConfiguration, or the only one, and tries a pod in `namespace`.
pub async fn examine(client: &Client, configuration: Option<&str>, namespace: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut config = None;
    if let Some(installation) = webhook(client, configuration, &mut findings).await {
        let pods = injectors(client, &installation, &mut findings).await;
        for pod in &pods {
            findings.push(certificate(client, &installation, pod).await);
        }
        if let Some(pod) = pods.first() {
            findings.push(rights::examine(client, pod).await);
            config = pods::told(pod);
        }
    }
    findings.push(injection(client, namespace).await);
    findings.extend(uninjected(client, config.as_ref()).await);
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
async fn injectors(client: &Client, installation: &Installation, findings: &mut Vec<Finding>) -> Vec<pods::Pod> {
    let listed = async {
        let services: Api<Service> = Api::namespaced(client.clone(), &installation.namespace);
        let name = &installation.service;
        let service = within(CALL_DEADLINE, format!("read the Service {name}"), services.get(name)).await?;
        let selector = service.spec.and_then(|spec| spec.selector).unwrap_or_default();
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let params = ListParams::default().labels(&labels.join(","));
        let list = async {
            let request = at_pods(&installation.namespace).list(&params).map_err(kube::Error::BuildRequest)?;
            client.request::<ObjectList<pods::Pod>>(request).await
        };
        Ok::<_, ApiError>(within(CALL_DEADLINE, "list the injectors", list).await?.items)
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
async fn certificate(client: &Client, installation: &Installation, pod: &pods::Pod) -> Finding {
    let name = pod.metadata.name.clone().unwrap_or_default();
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
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let create = async {
        let pod = pods::example().to_string().into_bytes();
        let request = at_pods(namespace).create(&params, pod).map_err(kube::Error::BuildRequest)?;
        client.request(request).await
    };
    let created = within(CALL_DEADLINE, format!("create a pod in {namespace}"), create).await;
    match created {
        Ok(pod) => pods::judge_injected(namespace, &pod),
        Err(error) if error.is_forbidden_by_rbac() => Finding::unseen(&format!("an injection in {namespace}"), &error),
        Err(error) => Finding::wrong(
            format!("a pod with the label {KEY}={ENABLED} cannot be created in namespace {namespace}: {error}"),
            "the injectors' log and Events say more; `kubectl -n NAMESPACE get events`",
        ),
    }
}

/// Pods that are to have the sidecar and have none, or an old one. Which of them run Geth in a labelled namespace, only
/// the settings of an injector tell.
async fn uninjected(client: &Client, config: Option<&Config>) -> Vec<Finding> {
    let mut seen = Vec::new();
    let looked = async {
        let api: Api<Pod> = Api::all(client.clone());
        let see = |pod: &ObjectMeta| seen.push(pods::Seen::of(pod, judge(pod, pods::VERSION)));
        let scope = config.map(|config| config.scope.clone()).unwrap_or_default();
        each(&api, &scope, see).await?;
        let Some(config) = config else { return Ok(()) };
        for (namespace, defaults) in labelled(client, &scope).await? {
            let see = |metadata: &ObjectMeta, pod: &Value| {
                let flaw = judge_whole(metadata, pod, &config.inject, &defaults);
                seen.extend(pods::Seen::of_unlabelled(metadata, flaw));
            };
            each_whole(client, &scope, &namespace, Which::Unlabelled, see).await?;
        }
        Ok::<_, ApiError>(())
    };
    match looked.await {
        Ok(()) => pods::judge_population(&seen),
        Err(error) => vec![Finding::unseen("the pods that are to have a sidecar", &error)],
    }
}

/// The namespaces whose label asks for peering, of those in which the injectors work, and what each says for its pods.
async fn labelled(client: &Client, scope: &Scope) -> Result<Vec<(String, Defaults)>, ApiError> {
    if let Some(only) = &scope.only {
        // Whose annotations injectors do not see.
        return Ok(asking(client, only).await.into_iter().map(|namespace| (namespace, Defaults::default())).collect());
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let params = ListParams::default().labels(&format!("{KEY}={ENABLED}"));
    let list = within(CALL_DEADLINE, "list the labelled namespaces", api.list_metadata(&params)).await?;
    let named = list.iter().map(|namespace| {
        let name = namespace.name_any();
        let defaults = Defaults::of(&name, namespace.annotations());
        (name, defaults)
    });
    Ok(named.filter(|(name, _)| scope.has(name)).collect())
}
