//! Does cert-manager itself, and not what is thought of it, certify the injectors and keep them certified?
//!
//! Its controllers run beside this test, as they would in pods; its own webhook, which only checks what people write, does
//! not.

use std::fs::File;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::cluster::{NAME, Namespace, RELEASE};
use e2e::definitions::Definitions;
use e2e::network::Network;
use e2e::{away, install, wait};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// The Secret that cert-manager keeps and the injectors serve, and the one of its authority.
const CERTIFICATE: &str = "geth-peering-certificate";
const AUTHORITY: &str = "geth-peering-certificate-ca";

/// By this label the README's command finds what stays.
const STAYS: &str = "app.kubernetes.io/managed-by=geth-peering";

#[tokio::test]
async fn does_cert_manager_certify_the_injectors_and_renew_what_they_serve() -> Result<()> {
    let definitions = Definitions::of_cert_manager()?;
    away::instead_of_the_installation(async |namespace, network, values| {
        let outcome = is_certified(namespace, network, values, &definitions).await;
        let cleaned = clean_up(namespace, &definitions).await;
        outcome.and(cleaned)
    })
    .await
}

async fn is_certified(namespace: &Namespace, network: &Network, values: &str, definitions: &Definitions) -> Result<()> {
    let mut controllers = CertManager::start(definitions).await?;
    let mut values: Value = serde_saphyr::from_str(values)?;
    values["tls"] = json!({"mode": "certManager"});
    // Injectors are not ready without a certificate, and pods of the network wait for one that the API server trusts.
    away::grows_with(namespace, network, &values.to_string()).await.with_context(|| controllers.state())?;
    let client = &namespace.client;
    let (first, trusted) = (install::certificates(client).await?, install::ca_bundles(client).await?);

    // Whatever is lost is made anew.
    let secrets = install::namespace(client).api::<Secret>();
    let lost = secrets.get(CERTIFICATE).await?.metadata.uid;
    secrets.delete(CERTIFICATE, &DeleteParams::default()).await?;
    wait::until("there is another Secret", wait::PODS, async || {
        let now = secrets.get(CERTIFICATE).await?.metadata.uid;
        ensure!(now != lost, "it is the old one");
        Ok(())
    })
    .await
    .with_context(|| controllers.state())?;
    install::bring_secrets().await?;
    wait::until("the injectors serve another certificate", wait::PODS, async || {
        let now = install::certificates(client).await?;
        ensure!(now.iter().all(|certificate| !first.contains(certificate)), "they serve the old one");
        Ok(())
    })
    .await?;
    away::grows_to(namespace, network, 4).await?;

    let emptied = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]);
    let emptied = Patch::Json::<()>(serde_json::from_value(emptied)?);
    install::webhooks(client).patch(NAME, &PatchParams::default(), &emptied).await?;
    wait::until("cert-manager fills the caBundle again", wait::SOON, async || {
        ensure!(install::ca_bundles(client).await? == trusted, "a webhook has another");
        Ok(())
    })
    .await
    .with_context(|| controllers.state())?;

    install::uninstall().await?;
    // Helm leaves the Secrets to cert-manager.
    let left = secrets.list(&ListParams::default().labels(STAYS)).await?;
    let names = left.into_iter().filter_map(|secret| secret.metadata.name).collect::<Vec<_>>();
    ensure!(names == [CERTIFICATE, AUTHORITY], "what stays is {names:?}");
    Ok(())
}

/// Leaves nothing of cert-manager's to the other tests, however far the test came.
async fn clean_up(namespace: &Namespace, definitions: &Definitions) -> Result<()> {
    // First, for helm deletes no objects of kinds that are not there any more.
    let uninstall = ["uninstall", RELEASE, "--namespace", RELEASE, "--wait", "--ignore-not-found"];
    let uninstalled = install::run("helm", &uninstall, "").await.map(drop);
    let secrets = install::namespace(&namespace.client).api::<Secret>();
    let stays = ListParams::default().labels(STAYS);
    let emptied = secrets.delete_collection(&DeleteParams::default(), &stays).await;
    uninstalled.and(emptied.map(drop).map_err(Into::into)).and(definitions.delete().await)
}

/// cert-manager's controllers, until dropped.
struct CertManager([(&'static str, Child); 2]);

impl CertManager {
    async fn start(definitions: &Definitions) -> Result<Self> {
        definitions.apply().await?;
        let metrics = ["--metrics-listen-address=127.0.0.1:0"];
        Ok(Self([controller("cert-manager-controller", &metrics)?, controller("cert-manager-cainjector", &[])?]))
    }

    /// Whether they run, and where their logs are.
    fn state(&mut self) -> String {
        let state = |(program, child): &mut (&'static str, Child)| {
            let ended = child.try_wait().ok().flatten().map_or("runs".to_owned(), |status| status.to_string());
            format!("{program} ({ended}; log: {})", log(program))
        };
        self.0.iter_mut().map(state).collect::<Vec<_>>().join(", ")
    }
}

fn controller(program: &'static str, options: &[&str]) -> Result<(&'static str, Child)> {
    let kubeconfig = std::env::var("KUBECONFIG").context("KUBECONFIG is not set")?;
    let log = File::create(log(program))?;
    let mut command = Command::new(program);
    // Nobody else does what they do.
    command.args(["--leader-elect=false", "--namespace", RELEASE, "--kubeconfig", &kubeconfig]).args(options);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok((program, command.spawn().with_context(|| format!("{program} is not on the PATH: run `make e2e`"))?))
}

/// The file with what one of them says.
fn log(program: &str) -> String {
    format!("{}/{program}.log", env!("CARGO_TARGET_TMPDIR"))
}
