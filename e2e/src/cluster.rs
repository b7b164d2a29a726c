//! The cluster under test, and a namespace of its own for every test.

use crate::{report, wait};
use anyhow::{Context, Result, anyhow, ensure};
use futures::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

/// The release and its namespace, as `make install` makes them.
pub const RELEASE: &str = "geth-peering";

/// What every object of the product that lies beside a network is called: ServiceAccount, RoleBinding, ConfigMap.
pub const NAME: &str = "geth-peering";

/// The label (of pods and namespaces) and the annotation (of workloads) that ask for peering.
pub const OPT_IN: &str = "geth-peering";

/// Names another kind cluster than `geth-peering`, as it does for make.
const CLUSTER_VARIABLE: &str = "GETH_PEERING_CLUSTER";

/// If set, namespaces of tests that failed are kept.
const KEEP_VARIABLE: &str = "E2E_KEEP";

/// The label that tells a test's namespaces from others; its value is the name of the test.
const TEST_LABEL: &str = "e2e-test";

/// What kind calls the cluster under test.
pub fn name() -> String {
    std::env::var(CLUSTER_VARIABLE).unwrap_or_else(|_| "geth-peering".into())
}

/// A client of the cluster under test.
///
/// It never tries again by itself: kube's own retries hide a 503 for minutes, and [`wait::until`] asks again anyway.
///
/// # Errors
/// When there is no kubeconfig, or it leads to a cluster that is not the project's own.
pub async fn client() -> Result<Client> {
    Ok(Client::try_from(config().await?)?)
}

/// How the cluster under test is reached, by an administrator.
async fn config() -> Result<Config> {
    let hint = "run the tests through `make e2e`, which makes the cluster and sets KUBECONFIG";
    ensure!(std::env::var_os("KUBECONFIG").is_some(), "KUBECONFIG is not set: {hint}");
    let kubeconfig = Kubeconfig::read().with_context(|| format!("no usable KUBECONFIG: {hint}"))?;
    let cluster = name();
    let context = kubeconfig.current_context.clone().unwrap_or_default();
    // These tests uninstall the product and kill processes on nodes.
    ensure!(context == format!("kind-{cluster}"), "KUBECONFIG leads to {context:?}, not to kind-{cluster}: {hint}");
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    config.read_timeout = Some(Duration::from_secs(30));
    Ok(config)
}

/// A namespace that exists as long as one test runs.
pub struct Namespace {
    /// The cluster that it is in.
    pub client: Client,
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// The objects of one type in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates an object that is written as JSON.
    ///
    /// # Errors
    /// When it is not an object of type `K`, or the API server refuses it.
    pub async fn create<K>(&self, object: Value) -> Result<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let object = serde_json::from_value(object).context("an object of a test is malformed")?;
        Ok(self.api().create(&PostParams::default(), &object).await?)
    }

    /// A client that is the ServiceAccount `name` of this namespace for the next hour.
    ///
    /// # Errors
    /// When there is no such account, or as of [`client`].
    pub async fn client_of(&self, name: &str) -> Result<Client> {
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let accounts = self.api::<ServiceAccount>();
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        let token = answer.status.context("no token")?.token;
        let mut config = config().await?;
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        Ok(Client::try_from(config)?)
    }

    /// Puts labels onto the namespace itself, as `kubectl label namespace` does.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn label(&self, labels: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        Api::<KubeNamespace>::all(self.client.clone()).patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    async fn make(client: Client) -> Result<Self> {
        // Under libtest the thread bears the name of the test (`main` with one thread).
        let test = std::thread::current().name().unwrap_or("main").rsplit("::").next().unwrap_or("main").to_owned();
        let label: String = test.chars().take(63).collect::<String>().trim_matches('_').into();
        let name = format!("e2e-{:08x}", rand::random::<u32>());
        let object = json!({"metadata": {"name": name, "labels": {TEST_LABEL: label}}});
        Api::<KubeNamespace>::all(client.clone())
            .create(&PostParams::default(), &serde_json::from_value(object)?)
            .await?;
        let namespace = Self { client, name };
        // Without it the API server refuses every pod.
        wait::until("the namespace has its default ServiceAccount", wait::SOON, async || {
            Ok(namespace.api::<ServiceAccount>().get("default").await?)
        })
        .await?;
        Ok(namespace)
    }

    async fn delete(&self) -> Result<()> {
        Api::<KubeNamespace>::all(self.client.clone()).delete(&self.name, &DeleteParams::background()).await?;
        Ok(())
    }
}

/// Runs a test in a fresh namespace, which is described if the test fails and deleted in any case.
///
/// # Errors
/// Those of the test; and when the product is not installed.
pub async fn in_namespace<T>(test: impl AsyncFnOnce(&Namespace) -> Result<T>) -> Result<T> {
    let client = client().await?;
    crate::install::ensure_installed(&client).await?;
    let namespace = Namespace::make(client).await?;
    let outcome = AssertUnwindSafe(test(&namespace)).catch_unwind().await;
    let failed = !matches!(outcome, Ok(Ok(_)));
    if failed {
        eprintln!("{}", report::of(&namespace).await);
    }
    if failed && std::env::var_os(KEEP_VARIABLE).is_some() {
        eprintln!("namespace {} is kept", namespace.name);
    } else {
        namespace.delete().await.map_err(|error| anyhow!("namespace {} stays behind: {error}", namespace.name))?;
    }
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Waits until the namespaces of tests before this one are gone; while they go, much is deleted.
///
/// # Errors
/// When they stay.
pub async fn other_tests_are_gone(client: &Client) -> Result<()> {
    let (namespaces, parameters) =
        (Api::<KubeNamespace>::all(client.clone()), ListParams::default().labels(TEST_LABEL));
    wait::until("other tests' namespaces are gone", wait::PODS, async || {
        let mut going = namespaces.list(&parameters).await?.items;
        going.retain(|found| found.metadata.deletion_timestamp.is_some());
        ensure!(going.is_empty(), "{} are on their way", going.len());
        Ok(())
    })
    .await
}
