//! The Secret that holds the authority: read, created and changed so that of any
//! number of replicas exactly one succeeds, and the others take what it wrote.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Client, Resource};

use super::ca::{Authority, Material, Stored, check_certificate};
use crate::api::{ApiError, CALL_DEADLINE, managed_by_us, within};

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const PREVIOUS: &str = "previous.crt";

/// What the Secret's data says.
pub fn read(secret: Option<&Secret>) -> Stored {
    let Some(secret) = secret else { return Stored::Missing };
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key))?;
        Some(String::from_utf8_lossy(&bytes.0).into_owned())
    };
    let (Some(certificate), Some(key)) = (text(CERTIFICATE), text(KEY)) else {
        return Stored::Garbage(format!("it lacks {CERTIFICATE} or {KEY}"));
    };
    let previous = text(PREVIOUS);
    let current = Authority::read(&certificate, &key);
    match (current, previous.as_deref().map(check_certificate).transpose()) {
        (Ok(current), Ok(_)) => Stored::Held(Material { current, previous }),
        (Err(error), _) => Stored::Garbage(error.to_string()),
        (_, Err(error)) => Stored::Garbage(format!("{PREVIOUS}: {error}")),
    }
}

fn data(material: &Material) -> BTreeMap<String, ByteString> {
    let Material { current: Authority { certificate, key, validity: _ }, previous } = material;
    [(CERTIFICATE, Some(certificate)), (KEY, Some(key)), (PREVIOUS, previous.as_ref())]
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), ByteString(text?.clone().into_bytes()))))
        .collect()
}

/// Where the Secret is, and to whom it belongs.
pub struct Store {
    secrets: Api<Secret>,
    deployments: Api<Deployment>,
    secret: String,
    deployment: String,
}

impl Store {
    /// The Secret `secret` in `namespace`; it belongs to `deployment` there and goes with it.
    pub fn new(client: Client, namespace: &str, secret: &str, deployment: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            deployments: Api::namespaced(client, namespace),
            secret: secret.to_owned(),
            deployment: deployment.to_owned(),
        }
    }

    /// The Secret's name.
    pub fn name(&self) -> &str {
        &self.secret
    }

    /// For watching.
    pub fn api(&self) -> Api<Secret> {
        self.secrets.clone()
    }

    /// The Secret as it is now.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn look(&self) -> Result<Option<Secret>, ApiError> {
        let name = &self.secret;
        within(CALL_DEADLINE, format!("read the Secret {name}"), self.secrets.get_opt(name)).await
    }

    /// Writes `material` over `seen`, and returns the Secret as it is now. That is somebody else's
    /// if `seen` was no longer current: whoever is first wins.
    ///
    /// # Errors
    /// If the API server refuses or does not answer.
    pub async fn write(&self, seen: Option<&Secret>, material: &Material) -> Result<Option<Secret>, ApiError> {
        let name = &self.secret;
        let params = PostParams::default();
        let written = match seen {
            None => {
                let secret = self.fresh(material).await?;
                let call = self.secrets.create(&params, &secret);
                within(CALL_DEADLINE, format!("create the Secret {name}"), call).await
            }
            Some(seen) => {
                // The resourceVersion in its metadata makes this a compare-and-swap.
                let secret = Secret { data: Some(data(material)), ..seen.clone() };
                let call = self.secrets.replace(name, &params, &secret);
                within(CALL_DEADLINE, format!("update the Secret {name}"), call).await
            }
        };
        match written {
            Ok(secret) => Ok(Some(secret)),
            Err(error) if error.is_already_exists() || error.is_conflict() || error.is_not_found() => {
                tracing::info!(secret = %name, "another replica was faster; taking what it wrote");
                self.look().await
            }
            Err(error) => Err(error),
        }
    }

    async fn fresh(&self, material: &Material) -> Result<Secret, ApiError> {
        // Where there is none, it was uninstalled and this process ends soon: what it made now would stay for ever.
        let what = format!("read the Deployment {}, which the Secret is to belong to", self.deployment);
        let deployment = within(CALL_DEADLINE, what, self.deployments.get_metadata(&self.deployment)).await?;
        let owner = deployment.owner_ref(&());
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(self.secret.clone()),
                labels: Some(managed_by_us()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(data(material)),
            ..Secret::default()
        })
    }
}
