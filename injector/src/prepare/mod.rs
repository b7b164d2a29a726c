//! What a namespace needs so that its sidecars may do their work: a ServiceAccount, and one RoleBinding that gives it,
//! and every other account that injected pods run under, the sidecars' role.
//!
//! A pod whose registry is in another namespace needs its account bound there, too.
//!
//! Namespaces with the label are prepared as soon as they are seen, and again whenever something is taken away. Any
//! other is prepared when its first pod is created, inside that request. A pod that could not wait for its rights is owed
//! them, and gets them later; its annotation says so, by which the [audit](crate::audit) of an injector that starts anew
//! finds what another owed. [`index`] decides; what is here acts. Several replicas do the same at the same time: everything
//! is idempotent, and a change is made only to the version that was read.

mod binding;
pub mod index;
mod mislabelled;
mod not_ready;
mod pauses;
mod watches;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef};
use kube::Client;
use kube::api::{Api, PostParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::{ApiError, CALL_DEADLINE, managed_by_us, within};
use crate::events::Notices;
use crate::inject::Defaults;
use crate::metrics::Metrics;
use crate::readiness::Latch;
use crate::scope::Scope;
use binding::{change_subjects, delete_binding, is_gone, subject, with_accounts};
use index::{Holder, Index, Need};
use mislabelled::{Mislabelled, asking};
pub use not_ready::NotReady;
use pauses::{Next, Pauses};

/// Name of the ServiceAccount and of the RoleBinding in every namespace with injected pods.
pub use crate::inject::ACCOUNT_NAME as NAME;
/// How long a request waits for its namespace to be prepared: well below the 5 s that the API server waits for the
/// answer, so that a slow API server costs a pod its rights for a while and not its life.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);
/// How many labelled namespaces are prepared at the same time.
const AT_ONCE: usize = 8;
/// How often a change is tried that others overtake.
const ATTEMPTS: usize = 5;

type Turn = Arc<tokio::sync::Mutex<()>>;

/// Prepares namespaces.
pub struct Preparer {
    client: Client,
    role: String,
    index: Mutex<Index>,
    /// A pod is owed its rights since now.
    owing: Notify,
    /// One preparation of a namespace at a time, so that its first fifty pods cause one and not fifty; and one that hangs
    /// keeps no other namespace waiting.
    turns: Mutex<HashMap<String, Turn>>,
    metrics: Arc<Metrics>,
}

impl Preparer {
    /// One that binds accounts to the role `role`, and makes nothing outside `scope`.
    pub fn new(client: Client, role: &str, scope: Scope, metrics: Arc<Metrics>) -> Self {
        let index = Mutex::new(Index::new(role, scope));
        Self { client, role: role.to_owned(), index, owing: Notify::new(), turns: Mutex::default(), metrics }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock of `namespace`; those that nobody holds or waits for are forgotten.
    fn turn(&self, namespace: &str) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(namespace.to_owned()).or_default().clone()
    }

    /// Sees to it, for a request, that `account` of `namespace` has a sidecar's rights there and, if the pod names
    /// another one, in the namespace of its registry. Calls nobody if it has them.
    ///
    /// # Errors
    /// If it has not, and cannot get them now.
    pub async fn ensure(
        self: &Arc<Self>,
        namespace: &str,
        account: &str,
        registry: Option<&str>,
        dry_run: bool,
    ) -> Result<(), NotReady> {
        let account = Holder::new(namespace, account);
        let mut unready = Vec::new();
        for place in places(namespace, registry) {
            if self.is_ready(place, &account)? {
                continue;
            }
            self.check_scope(place)?;
            if dry_run {
                return Err(NotReady::DryRun { namespace: place.to_owned() });
            }
            unready.push(self.prepare(place, &account));
        }
        if unready.is_empty() {
            return Ok(());
        }
        tokio::time::timeout(REQUEST_DEADLINE, try_join_all(unready)).await.map_err(|_late| NotReady::Late)?.map(drop)
    }

    fn check_scope(&self, namespace: &str) -> Result<(), NotReady> {
        let index = self.index();
        let namespace = namespace.to_owned();
        if index.scope().has(&namespace) {
            Ok(())
        } else if index.scope().excluded.contains(&namespace) {
            Err(NotReady::Excluded { namespace })
        } else {
            Err(NotReady::OutOfScope { namespace })
        }
    }

    /// The namespaces in which the injector works.
    pub fn scope(&self) -> Scope {
        self.index().scope().clone()
    }

    /// The namespaces whose label asks for peering, as far as they are known.
    pub fn labelled(&self) -> Vec<String> {
        self.index().labelled()
    }

    /// What `namespace` says for its pods, as far as it is labelled and known.
    pub fn defaults(&self, namespace: &str) -> Arc<Defaults> {
        self.index().defaults(namespace)
    }

    /// Whether our account exists in `namespace`, so that a pod may be given it.
    pub fn has_account(&self, namespace: &str) -> bool {
        self.index().has_account(namespace)
    }

    /// Whether `account` of `namespace` lacks rights that could be given to it, there or where its pod's registry is. Calls
    /// nobody.
    pub fn lacks(&self, namespace: &str, account: &str, registry: Option<&str>) -> bool {
        let (index, account) = (self.index(), Holder::new(namespace, account));
        places(namespace, registry)
            .any(|place| index.scope().has(place) && index.need(place, &account) != Need::Nothing)
    }

    /// Sees to it that a pod of `namespace`, which runs under `account` without a sidecar's rights, gets them as soon as
    /// they can be given; for as long as this process lives.
    pub fn owe(&self, namespace: &str, account: &str, registry: Option<&str>) {
        let account = Holder::new(namespace, account);
        for place in places(namespace, registry) {
            self.index().owe(place, &account);
        }
        self.owing.notify_one();
    }

    fn is_ready(&self, namespace: &str, account: &Holder) -> Result<bool, NotReady> {
        match self.index().need(namespace, account) {
            Need::Nothing => Ok(true),
            Need::Write => Ok(false),
            Need::Foreign { role } => Err(self.foreign(namespace, role)),
        }
    }

    fn foreign(&self, namespace: &str, found: String) -> NotReady {
        NotReady::Foreign { namespace: namespace.to_owned(), found, wanted: self.role.clone() }
    }

    /// Watches namespaces, accounts and bindings, prepares what has to be, and opens `synced` once everything that
    /// exists was seen. Namespaces whose label means nothing are told through `notices`. Works until it is dropped.
    ///
    /// # Errors
    /// Only if a watch ends, which watches do not.
    pub async fn run(self: Arc<Self>, synced: Latch, notices: Notices) -> anyhow::Result<()> {
        let scope = self.scope();
        let mut namespaces = watches::labelled(&self.client, &scope);
        let mut accounts = watches::named::<PartialObjectMeta<ServiceAccount>>(&self.client, &scope, "ServiceAccounts");
        let mut bindings = watches::named::<RoleBinding>(&self.client, &scope, "RoleBindings");
        let mut mislabelled = Mislabelled::default();
        let mut pauses = Pauses::default();
        let mut attempts = FuturesUnordered::new();
        loop {
            let mut wake = None;
            while attempts.len() < AT_ONCE {
                match self.work(&mut pauses, &synced) {
                    Next::Prepare(namespace) => attempts.push(self.attempt(namespace)),
                    Next::Wait(until) => {
                        wake = Some(until);
                        break;
                    }
                    Next::Rest => break,
                }
            }
            let sleep = async {
                match wake {
                    Some(time) => tokio::time::sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has arrived is taken in before more is done about it.
                biased;
                Some(event) = namespaces.next() => {
                    if let Some(notice) = mislabelled.see(&event, &scope) {
                        tracing::warn!("{}", notice.note);
                        notices.send(notice);
                    }
                    asking(event).into_iter().for_each(|event| self.index().see_namespace(event));
                }
                Some(event) = accounts.next() => {
                    pauses.interrupt(&event);
                    self.index().see_account(event);
                }
                Some(event) = bindings.next() => {
                    pauses.interrupt(&event);
                    self.index().see_binding(event);
                }
                Some((namespace, result)) = attempts.next() => match result {
                    Ok(()) => pauses.succeeded(&namespace),
                    Err(NotReady::Api(error)) if error.is_not_found() => {
                        self.index().forgive(&namespace);
                        pauses.failed(&namespace, Instant::now());
                    }
                    Err(error) => {
                        tracing::warn!(%namespace, "cannot prepare the namespace: {error}");
                        pauses.failed(&namespace, Instant::now());
                    }
                },
                () = self.owing.notified() => {}
                () = sleep => {}
                else => anyhow::bail!("a watch of namespaces, ServiceAccounts or RoleBindings ended"),
            }
        }
    }

    /// What to do now about labelled namespaces and about those in which a pod is owed its rights.
    fn work(&self, pauses: &mut Pauses, synced: &Latch) -> Next {
        let unprepared = {
            let index = self.index();
            if !index.is_synced() {
                return Next::Rest;
            }
            index.unprepared()
        };
        synced.open();
        pauses.next(&unprepared, Instant::now())
    }

    async fn attempt(self: &Arc<Self>, namespace: String) -> (String, Result<(), NotReady>) {
        let lacking = self.index().lacking(&namespace);
        // One write gives them to all who lack them.
        let account = lacking.unwrap_or_else(|| Holder::new(&namespace, NAME));
        let result = self.prepare(&namespace, &account).await;
        (namespace, result)
    }

    /// Makes what `namespace` lacks. Whoever gives up waiting for that gives up its turn as well, but what was begun goes
    /// on: the next pod may find it done.
    async fn prepare(self: &Arc<Self>, namespace: &str, account: &Holder) -> Result<(), NotReady> {
        let turn = self.turn(namespace);
        let _turn = turn.lock().await;
        if self.is_ready(namespace, account)? {
            return Ok(());
        }
        let (preparer, place, account) = (self.clone(), namespace.to_owned(), account.clone());
        let preparation = tokio::spawn(async move {
            let result = preparer.write(&place, &account).await;
            preparer.metrics.prepared(result.is_ok());
            if result.is_ok() {
                tracing::info!(namespace = %place, account = %account.name, of = %account.namespace, "namespace prepared");
            }
            result
        });
        preparation.await.unwrap_or_else(|_| Err(NotReady::Failed { namespace: namespace.to_owned() }))
    }

    async fn write(&self, namespace: &str, account: &Holder) -> Result<(), NotReady> {
        if !self.index().has_account(namespace) {
            self.create_account(namespace).await?;
        }
        self.bind(namespace, account).await
    }

    async fn create_account(&self, namespace: &str) -> Result<(), ApiError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let account = ServiceAccount {
            metadata: named_by_us(),
            // The sidecar mounts a token of its own; no other container of the pod has a use for one.
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        };
        let params = PostParams::default();
        let call = accounts.create(&params, &account);
        match within(CALL_DEADLINE, format!("create the ServiceAccount {namespace}/{NAME}"), call).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => {
                self.index().put_account(namespace);
                Ok(())
            }
        }
    }

    async fn bind(&self, namespace: &str, account: &Holder) -> Result<(), NotReady> {
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), namespace);
        let accounts = self.index().wanted(namespace, account);
        let mut known = self.index().binding(namespace).cloned();
        for _ in 0..ATTEMPTS {
            let written = match &known {
                None => self.create_binding(&bindings, namespace, &accounts).await,
                Some(binding) if self.index().gives_role(binding) => match with_accounts(binding, &accounts) {
                    None => Ok(binding.clone()),
                    Some(subjects) => change_subjects(&bindings, binding, namespace, &subjects).await,
                },
                Some(binding) if index::is_ours(binding) => {
                    delete_binding(&bindings, binding, namespace).await?;
                    known = None;
                    continue;
                }
                Some(binding) => return Err(self.foreign(namespace, binding.role_ref.name.clone())),
            };
            match written {
                Ok(binding) => {
                    self.index().put_binding(binding);
                    return Ok(());
                }
                Err(error) if error.is_already_exists() || error.is_conflict() || is_gone(&error, known.is_some()) => {
                    let what = format!("read the RoleBinding {namespace}/{NAME}");
                    known = within(CALL_DEADLINE, what, bindings.get_opt(NAME)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(NotReady::Contended { namespace: namespace.to_owned() })
    }

    async fn create_binding(
        &self,
        bindings: &Api<RoleBinding>,
        namespace: &str,
        accounts: &BTreeSet<Holder>,
    ) -> Result<RoleBinding, ApiError> {
        let binding = RoleBinding {
            metadata: named_by_us(),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: self.index().scope().role_kind().to_owned(),
                name: self.role.clone(),
            },
            subjects: Some(accounts.iter().map(subject).collect()),
        };
        let params = PostParams::default();
        let call = bindings.create(&params, &binding);
        within(CALL_DEADLINE, format!("create the RoleBinding {namespace}/{NAME}"), call).await
    }
}

/// Where a pod of `namespace` needs its rights: there, and where its registry is, if that is another.
fn places<'a>(namespace: &'a str, registry: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    [namespace].into_iter().chain(registry.filter(move |registry| *registry != namespace))
}

fn named_by_us() -> ObjectMeta {
    ObjectMeta { name: Some(NAME.to_owned()), labels: Some(managed_by_us()), ..ObjectMeta::default() }
}

#[cfg(test)]
mod tests;
