//! Reads the pods that there are, a page at a time, and keeps none: metadata alone where they suffice, else whole pods as
//! raw JSON. Pods that creating them anew would not change are passed over: nobody could do anything about them, so nobody
//! is to hear of them.

use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::Client;
use kube::api::{Api, ListParams};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{ApiError, CALL_DEADLINE, at_pods, within};
use crate::inject::{ENABLED, KEY, MIRROR};
use crate::scope::Scope;

/// Selects the pods of which anything runs, or will: a Job's, for example, stay when they have ended.
const UNFINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// How many pods' metadata are read at once.
const PAGE: u32 = 500;
/// How many whole pods are read at once, at first.
const WHOLE_PAGE: u32 = 50;
/// A page of whole pods that is longer is read again as smaller ones: what is parsed can take some eighty times as much
/// memory as its text. A single pod that is longer is passed over; nobody has one of such a size who means well.
const PARSED: usize = 512 * 1024;
/// No page is longer than this, for no pod is.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Whether an injector would be asked, and could do something, if this pod were created anew.
fn is_in_reach(pod: &ObjectMeta, scope: &Scope) -> bool {
    let in_scope = pod.namespace.as_deref().is_some_and(|namespace| scope.has(namespace));
    let mirrors = pod.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR));
    in_scope && !mirrors && pod.deletion_timestamp.is_none()
}

/// Calls `see` with the metadata of each pod in reach that has the label.
///
/// # Errors
/// If a page cannot be had.
pub(crate) async fn each(pods: &Api<Pod>, scope: &Scope, mut see: impl FnMut(&ObjectMeta)) -> Result<(), ApiError> {
    let mut params = ListParams::default().labels(&format!("{KEY}={ENABLED}")).fields(UNFINISHED).limit(PAGE);
    loop {
        let page = within(CALL_DEADLINE, "look at the pods", pods.list_metadata(&params)).await?;
        page.items.iter().map(|pod| &pod.metadata).filter(|pod| is_in_reach(pod, scope)).for_each(&mut see);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// A page of whole pods.
#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
    items: Vec<Value>,
}

/// A page of which only the end is of interest.
#[derive(Deserialize)]
struct End {
    metadata: ListMeta,
}

/// Which pods are read whole.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    /// Those without the label.
    Unlabelled,
    /// The one of this name.
    Named(&'a str),
}

impl Which<'_> {
    fn params(self) -> ListParams {
        match self {
            Self::Unlabelled => ListParams::default().labels(&format!("!{KEY}")).fields(UNFINISHED),
            Self::Named(name) => ListParams::default().fields(&format!("metadata.name={name},{UNFINISHED}")),
        }
    }
}

/// Calls `see` with each of these pods of `namespace` that is in reach, whole, and its metadata.
///
/// # Errors
/// If a page cannot be had or read.
pub(crate) async fn each_whole(
    client: &Client,
    scope: &Scope,
    namespace: &str,
    which: Which<'_>,
    mut see: impl FnMut(&ObjectMeta, &Value),
) -> Result<(), ApiError> {
    let mut limit = WHOLE_PAGE;
    let mut params = which.params().limit(limit);
    loop {
        let text = within(CALL_DEADLINE, format!("look at the pods of {namespace}"), text(client, namespace, &params));
        let text = text.await?;
        let parsed = if text.len() <= PARSED {
            serde_json::from_slice(&text)
        } else if limit > 1 {
            limit /= 2;
            params = params.limit(limit);
            continue;
        } else {
            serde_json::from_slice(&text).map(|End { metadata }| Page { metadata, items: Vec::new() })
        };
        let what = || format!("read the pods of {namespace}");
        let page = parsed.map_err(|error| ApiError::failed(what(), kube::Error::SerdeError(error)))?;
        for pod in &page.items {
            // Who cannot be read as any object is none of ours.
            if let Ok(metadata) = ObjectMeta::deserialize(&pod["metadata"])
                && is_in_reach(&metadata, scope)
            {
                see(&metadata, pod);
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// The text of one page.
async fn text(client: &Client, namespace: &str, params: &ListParams) -> kube::Result<Vec<u8>> {
    let request = at_pods(namespace).list(params).map_err(kube::Error::BuildRequest)?;
    let body = client.request_stream(request).await?;
    let mut text = Vec::new();
    body.take(LONGEST).read_to_end(&mut text).await.map_err(kube::Error::ReadEvents)?;
    Ok(text)
}

/// Those of `namespaces` whose label asks for peering, where nobody may watch namespaces and each is looked at by itself. One
/// that cannot be looked at counts as not asking: better to say nothing than what may be wrong.
pub(crate) async fn asking(client: &Client, namespaces: impl IntoIterator<Item = &String>) -> Vec<String> {
    let api: Api<Namespace> = Api::all(client.clone());
    let mut asking = Vec::new();
    for name in namespaces {
        match within(CALL_DEADLINE, format!("read the labels of namespace {name}"), api.get_metadata(name)).await {
            Ok(namespace) => {
                let labels = namespace.metadata.labels.unwrap_or_default();
                asking.extend(labels.get(KEY).filter(|value| *value == ENABLED).map(|_| name.clone()));
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }
    asking
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn is_only_a_pod_looked_at_that_creating_it_anew_could_change() {
        let scope = Scope::all_but(["vault".to_owned()].into());
        for (metadata, expected) in [
            (json!({"namespace": "chain"}), true),
            (json!({"namespace": "chain", "annotations": {"kubernetes.io/config.hash": "x"}}), true),
            (json!({"namespace": "vault"}), false),
            (json!({"namespace": "chain", "annotations": {"kubernetes.io/config.mirror": "x"}}), false),
            (json!({"namespace": "chain", "deletionTimestamp": "2026-11-21T00:00:00Z"}), false),
        ] {
            let pod: ObjectMeta = serde_json::from_value(metadata.clone()).unwrap();
            assert_eq!(is_in_reach(&pod, &scope), expected, "{metadata}");
        }
    }
}
