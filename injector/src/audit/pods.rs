//! Reads the pods that there are, a page at a time, and keeps none: metadata alone where they suffice, else whole pods as
//! raw JSON.

use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::api::{Api, ListParams, Request};
use kube::{Client, Resource as _};
use serde::Deserialize;
use serde_json::Value;

use crate::api::{ApiError, CALL_DEADLINE, within};
use crate::inject::{ENABLED, KEY};

/// How many pods' metadata are read at once.
const PAGE: u32 = 500;
/// How many whole pods are read at once, at first.
const WHOLE_PAGE: u32 = 50;
/// A page of whole pods that is longer is read again as smaller ones: what is parsed can take some eighty times as much
/// memory as its text. A single pod that is longer is passed over; nobody has one of such a size who means well.
const PARSED: usize = 512 * 1024;
/// No page is longer than this, for no pod is.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Calls `see` with the metadata of each pod of a selector.
///
/// # Errors
/// If a page cannot be had.
pub(crate) async fn each(pods: &Api<Pod>, selector: &str, mut see: impl FnMut(&ObjectMeta)) -> Result<(), ApiError> {
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    loop {
        let page = within(CALL_DEADLINE, "look at the pods", pods.list_metadata(&params)).await?;
        page.items.iter().for_each(|pod| see(&pod.metadata));
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

/// Calls `see` with each whole pod of `namespace` that `params` select, and its metadata.
///
/// # Errors
/// If a page cannot be had or read.
pub(crate) async fn each_whole(
    client: &Client,
    namespace: &str,
    params: ListParams,
    mut see: impl FnMut(&ObjectMeta, &Value),
) -> Result<(), ApiError> {
    let mut limit = WHOLE_PAGE;
    let mut params = params.limit(limit);
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
            if let Ok(metadata) = ObjectMeta::deserialize(&pod["metadata"]) {
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
    let request = Request::new(Pod::url_path(&(), Some(namespace))).list(params).map_err(kube::Error::BuildRequest)?;
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
