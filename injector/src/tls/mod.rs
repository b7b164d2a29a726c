//! TLS, unless told otherwise ([`folder`]), without anybody's help: the injector makes its own authority, tells the API
//! servers to trust it, and serves certificates that it renews by itself.
//!
//! [`ca`] decides, [`store`] and [`bundle`] hold what is shared between replicas,
//! [`resolver`] is what rustls asks; the [`Keeper`] brings them together. Its order on a
//! rotation is what keeps every call working: first all API servers trust the old and the
//! new authority, only then does a replica serve a certificate of the new one.

pub mod algorithm;
pub mod bundle;
pub mod ca;
pub mod folder;
pub mod resolver;
pub mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::watch_object;
use kube::{Client, ResourceExt as _};

use crate::api::{CALL_DEADLINE, steady, within};
use crate::metrics::Metrics;
use crate::readiness::Latch;
use ca::{Decision, Leaf, Material, Stored};
use resolver::Resolver;
use store::Store;

/// How often the clock is looked at. Timers do not run while a machine is suspended, so a
/// single long one would miss an expiry.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// How long a new bundle is left to spread before a certificate that needs it is served: each API
/// server learns of it through a watch of its own.
const SETTLE: SignedDuration = SignedDuration::from_secs(30);
/// The first pause after a failure; doubled up to [`CHECK_EVERY`].
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// More steps than a pass can need; reaching it means that somebody undoes what we do.
const MAX_STEPS: usize = 8;

/// What the API servers trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// There is no webhook configuration, or it was not seen yet.
    Nowhere,
    /// A webhook has another bundle than ours.
    Differs,
    /// All webhooks have had our bundle since then.
    Since(Timestamp),
}

/// What the [`Keeper`] does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing until something changes or time has passed.
    Rest,
    /// Change the Secret.
    Write(Decision),
    /// Patch the webhook configuration.
    Publish,
    /// Make and serve a certificate of the current authority.
    Serve,
}

/// What has to be done first at `now`, given the Secret (`None`: not seen yet), what is published,
/// and the certificate that is being served.
pub fn next(now: Timestamp, stored: Option<&Stored>, published: Published, leaf: Option<&Leaf>) -> Step {
    let Some(stored) = stored else { return Step::Rest };
    let material = match (ca::decide(now, stored), stored) {
        (Decision::Keep, Stored::Held(material)) => material,
        (decision, _) => return Step::Write(decision),
    };
    let renewed = match leaf {
        // Nobody relies on a replica that served nothing so far: it is not ready.
        None => true,
        Some(leaf) if leaf.signed_by == material.current.certificate => leaf.is_due(now),
        // An authority that is not trusted everywhere is better than a certificate that is valid nowhere.
        Some(leaf) => {
            leaf.is_ending(now) || matches!(published, Published::Since(time) if now.duration_since(time) >= SETTLE)
        }
    };
    match published {
        _ if renewed => Step::Serve,
        Published::Differs => Step::Publish,
        Published::Nowhere | Published::Since(_) => Step::Rest,
    }
}

/// The name by which API servers call a Service (apiserver `util/webhook/client.go`).
pub fn server_name(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}.svc")
}

/// Where the serving certificate comes from.
#[derive(Debug)]
pub enum Source {
    /// From an authority of the injector's own.
    Own(Settings),
    /// From somebody else, who also tells the API servers whom to trust.
    Folder(folder::Settings),
}

/// What a [`Keeper`] has to know.
#[derive(Debug)]
pub struct Settings {
    /// The injector's namespace.
    pub namespace: String,
    /// Its Service: what API servers call it.
    pub service: String,
    /// Its Deployment: what owns the Secret.
    pub deployment: String,
    /// The Secret that holds the authority.
    pub secret: String,
    /// The MutatingWebhookConfiguration.
    pub configuration: String,
}

/// Keeps authority, bundle and certificate in order, for as long as the process lives.
pub struct Keeper {
    service: String,
    /// The names that API servers may expect.
    names: Vec<String>,
    store: Store,
    configurations: Api<MutatingWebhookConfiguration>,
    configuration: String,
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    certificate_ready: Latch,
    bundle_ready: Latch,
    seen: Seen,
}

/// Everything the [`Keeper`] saw and did last.
#[derive(Default)]
struct Seen {
    /// The outer `None`: not looked yet.
    secret: Option<Option<Secret>>,
    configuration: Option<MutatingWebhookConfiguration>,
    leaf: Option<Leaf>,
    /// A bundle and since when it has been seen in all webhooks.
    published: Option<(String, Timestamp)>,
}

impl Keeper {
    /// One that serves through `resolver` and opens its latches when a certificate is being served
    /// and when its bundle was seen in the webhook configuration.
    pub fn new(
        client: Client,
        settings: Settings,
        resolver: Arc<Resolver>,
        metrics: Arc<Metrics>,
        certificate_ready: Latch,
        bundle_ready: Latch,
    ) -> Self {
        let Settings { namespace, service, deployment, secret, configuration } = settings;
        let name = server_name(&service, &namespace);
        Self {
            names: vec![name.clone(), format!("{name}.cluster.local")],
            store: Store::new(client.clone(), &namespace, &secret, &deployment),
            service,
            configurations: Api::all(client),
            configuration,
            resolver,
            metrics,
            certificate_ready,
            bundle_ready,
            seen: Seen::default(),
        }
    }

    /// Works until it is dropped.
    ///
    /// # Errors
    /// Only if a watch ends, which watches do not.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut secrets = steady("the Secret of the authority", watch_object(self.store.api(), self.store.name()));
        let mut configurations =
            steady("the webhook configuration", watch_object(self.configurations.clone(), &self.configuration));
        let mut pause = RETRY_AFTER;
        loop {
            let until_next = match self.work().await {
                Ok(()) => {
                    pause = RETRY_AFTER;
                    CHECK_EVERY
                }
                Err(error) => {
                    tracing::warn!("{error:#}; trying again in {} s", pause.as_secs());
                    let longer = (pause * 2).min(CHECK_EVERY);
                    std::mem::replace(&mut pause, longer)
                }
            };
            tokio::select! {
                secret = secrets.next() => self.seen.secret = Some(secret.context("the watch of the Secret ended")?),
                configuration = configurations.next() => {
                    let found = configuration.context("the watch of the webhook configuration ended")?;
                    if found.is_none() {
                        tracing::warn!(configuration = %self.configuration,
                            "there is no such MutatingWebhookConfiguration, so nobody calls this injector; waiting for it");
                    }
                    self.seen.configuration = found;
                }
                () = tokio::time::sleep(until_next) => {}
            }
        }
    }

    /// Does everything that can be done now.
    async fn work(&mut self) -> anyhow::Result<()> {
        for _ in 0..MAX_STEPS {
            let now = Timestamp::now();
            let stored = self.seen.secret.as_ref().map(|secret| store::read(secret.as_ref()));
            let published = self.published(now, stored.as_ref());
            match (next(now, stored.as_ref(), published, self.seen.leaf.as_ref()), stored) {
                (Step::Rest, _) | (_, None) => return Ok(()),
                (Step::Write(decision), Some(stored)) => self.write(now, decision, stored).await?,
                (Step::Publish, Some(Stored::Held(material))) => self.publish(&material).await?,
                (Step::Serve, Some(Stored::Held(material))) => self.serve(now, &material)?,
                (Step::Publish | Step::Serve, Some(_)) => return Ok(()),
            }
        }
        bail!("Secret or webhook configuration change as fast as they are written")
    }

    /// What the API servers were last seen to trust, compared with the bundle of `stored`.
    fn published(&mut self, now: Timestamp, stored: Option<&Stored>) -> Published {
        let (Some(Stored::Held(material)), Some(configuration)) = (stored, &self.seen.configuration) else {
            return Published::Nowhere;
        };
        let bundle = material.bundle();
        if bundle::patch(configuration, &bundle).is_some() {
            self.seen.published = None;
            return Published::Differs;
        }
        self.bundle_ready.open();
        match &self.seen.published {
            Some((seen, since)) if *seen == bundle => Published::Since(*since),
            _ => {
                self.seen.published = Some((bundle, now));
                Published::Since(now)
            }
        }
    }

    async fn write(&mut self, now: Timestamp, decision: Decision, stored: Stored) -> anyhow::Result<()> {
        let served = self.seen.leaf.as_ref().map(|leaf| leaf.signed_by.clone());
        let material = match (decision, stored) {
            (Decision::Rotate, Stored::Held(old)) => {
                tracing::info!(valid_until = %old.current.validity.not_after, "the authority grows old; making a new one");
                Material::make(now, &self.service, Some(old.current.certificate))?
            }
            (Decision::Retire, Stored::Held(old)) => {
                tracing::info!("no certificate of the previous authority is valid any more; trust in it ends");
                Material { previous: None, ..old }
            }
            (Decision::Keep, _) => return Ok(()),
            (_, Stored::Garbage(reason)) => {
                tracing::warn!(secret = self.store.name(), %reason,
                    "the Secret cannot be used; its content is replaced by a new authority");
                Material::make(now, &self.service, served)?
            }
            // Who is serving when the Secret disappears goes on until the new authority is trusted.
            (_, Stored::Missing | Stored::Held(_)) => Material::make(now, &self.service, served)?,
        };
        let seen = self.seen.secret.take().flatten();
        match self.store.write(seen.as_ref(), &material).await {
            Ok(secret) => {
                self.seen.secret = Some(secret);
                Ok(())
            }
            Err(error) => {
                self.seen.secret = Some(seen);
                Err(error.into())
            }
        }
    }

    async fn publish(&mut self, material: &Material) -> anyhow::Result<()> {
        let bundle = material.bundle();
        let Some(patch) = self.seen.configuration.as_ref().and_then(|seen| bundle::patch(seen, &bundle)) else {
            return Ok(());
        };
        // What differs may be newer than what is known here: a watch can lag behind, and the bundle of a replica that has
        // just changed the authority must not be undone.
        let stored = self.store.look().await?;
        let version = |secret: &Option<Secret>| secret.as_ref().and_then(|secret| secret.resource_version());
        if self.seen.secret.as_ref().map(version) != Some(version(&stored)) {
            self.seen.secret = Some(stored);
            return Ok(());
        }
        let name = &self.configuration;
        let (params, patch) = (PatchParams::default(), Patch::<MutatingWebhookConfiguration>::Json(patch));
        let call = self.configurations.patch(name, &params, &patch);
        match within(CALL_DEADLINE, format!("write the caBundle of {name}"), call).await {
            Ok(configuration) => {
                tracing::info!(configuration = %name, "API servers were told to trust this injector");
                self.seen.configuration = Some(configuration);
                Ok(())
            }
            Err(error) if error.is_failed_test() || error.is_not_found() => {
                let call = self.configurations.get_opt(name);
                self.seen.configuration = within(CALL_DEADLINE, format!("read {name}"), call).await?;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn serve(&mut self, now: Timestamp, material: &Material) -> anyhow::Result<()> {
        let leaf = Leaf::mint(now, &material.current, &self.names)?;
        self.resolver.serve(leaf.key.clone());
        tracing::info!(valid_until = %leaf.validity.not_after, "serving a new certificate");
        self.metrics.authority_expires(material.current.validity.not_after);
        self.metrics.certificate_expires(leaf.validity.not_after);
        self.seen.leaf = Some(leaf);
        self.certificate_ready.open();
        Ok(())
    }
}
