//! Manifests in YAML, as people keep them.

use crate::cluster::Namespace;
use anyhow::{Context, Result};
use kube::api::{Api, ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;

/// Creates every object of a YAML text in the namespace, in order.
///
/// # Errors
/// When the text is no manifest, or the API server refuses an object.
pub async fn create(namespace: &Namespace, yaml: &str) -> Result<()> {
    for document in serde_saphyr::from_multiple::<DynamicObject>(yaml).context("a manifest of a test is malformed")? {
        let types = document.types.clone().context("an object without apiVersion and kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let api = Api::<DynamicObject>::namespaced_with(namespace.client.clone(), &namespace.name, &resource);
        let name = document.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &document).await.with_context(|| format!("{} {name}", types.kind))?;
    }
    Ok(())
}
