//! Decides what a Geth pod needs to peer, and makes the patch for it.
//!
//! Pure: a pod as raw JSON, the administrator's settings and what its namespace says go in, an [`Outcome`] comes out.
//! First the pod is read ([`Survey`]): which container is Geth, where its socket will be, as which user it runs. If all that is
//! known, the changes are made, each on its own and only where missing, so that a pod that went through here once
//! comes out unchanged the second time, and what another webhook broke in between is repaired.

mod account;
mod advertise;
mod annotations;
mod cmdline;
mod container;
mod defaults;
mod env;
mod geth;
mod ipc;
mod ipcdisable;
mod patch;
pub mod quantity;
mod shell;
pub mod text;
mod user;
mod volume;

use std::collections::BTreeMap;

use json_patch::Patch;
use serde_json::{Value, json};

pub use account::{Account, AccountPlan, Lack, NAME as ACCOUNT_NAME};
pub(crate) use patch::{Edit, Misshapen, place};

use crate::decision::Decision;
use annotations::{AccountChoice, Overrides};
pub use annotations::{INJECTED, REGISTRY_NAMESPACE, UNBOUND, UNDO};
pub use container::NAME as SIDECAR;
pub use defaults::Defaults;
use geth::Geth;

/// Label of pods and namespaces, annotation of workloads: the way in and out.
pub const KEY: &str = "geth-peering";
/// Value of [`KEY`] that asks for peering.
pub const ENABLED: &str = "enabled";
/// Value of [`KEY`] that refuses it.
pub const DISABLED: &str = "disabled";

/// Annotation of a pod by which a kubelet shows a static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// What the administrator chose for all sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of the sidecar.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// CPU that the sidecar requests, as Kubernetes writes quantities.
    pub cpu_request: String,
    /// Memory that the sidecar requests.
    pub memory_request: String,
    /// Memory that the sidecar is limited to.
    pub memory_limit: String,
    /// Log level of the sidecar.
    pub log_level: String,
    /// ConfigMaps that the sidecars have rights on; the first is the one they use unless a pod names another.
    pub configmap_names: Vec<String>,
    /// Namespaces whose registry pods of other namespaces may use.
    pub registry_namespaces: Vec<String>,
    /// Inject a native sidecar (KEP-753; Kubernetes 1.29 and later) and not an ordinary container.
    pub native_sidecars: bool,
    /// Set `enableServiceLinks: false`.
    pub disable_service_links: bool,
    /// Version of the injector, which pods are marked with.
    pub version: String,
}

/// By what a pod came to be considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptIn {
    /// The pod has the label itself: who wrote it wants peering, or an answer why not.
    PodLabel,
    /// Only its namespace has the label.
    NamespaceLabel,
}

impl OptIn {
    /// How this pod came in.
    #[must_use]
    pub fn of(pod: &Value) -> Self {
        if label(pod).is_some() { Self::PodLabel } else { Self::NamespaceLabel }
    }
}

/// All but the pod that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What the administrator chose.
    pub settings: &'a Settings,
    /// State of the account that the pod is to run with.
    pub account: &'a Account,
}

/// What was decided about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The decision.
    pub decision: Decision,
    /// The request is to be refused, with [`message`](Self::message).
    pub denied: bool,
    /// What an Event or a refusal says: what is wrong and what to write.
    pub message: Option<String>,
    /// The changes; empty where there is nothing to do.
    pub patch: Patch,
    /// Sentences for whoever made the request.
    pub warnings: Vec<String>,
    /// For the audit log, keys without the webhook's name.
    pub audit: BTreeMap<String, String>,
}

impl Outcome {
    /// The object passes as it is.
    #[must_use]
    pub fn unchanged(decision: Decision) -> Self {
        Self::changed(decision, Patch::default(), Vec::new())
    }

    /// The object passes with changes.
    pub(crate) fn changed(decision: Decision, patch: Patch, warnings: Vec<String>) -> Self {
        let audit = BTreeMap::from([("decision".to_owned(), decision.word().to_owned())]);
        Self { decision, denied: false, message: None, patch, warnings, audit }
    }

    /// The object cannot be changed as it is meant; whether that denies it depends on who asked.
    pub(crate) fn refused(refusal: Refusal, opt_in: OptIn) -> Self {
        let Refusal { decision, message } = refusal;
        let denied = decision.denies(opt_in);
        let mut outcome = Self { denied, message: Some(message.clone()), ..Self::unchanged(decision) };
        if !denied && decision.worth_a_warning() {
            outcome.warnings.push(format!("this pod gets no peering: {message}"));
        }
        outcome.audit.insert("message".to_owned(), message);
        outcome
    }
}

/// Why a pod cannot be injected, and what to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) decision: Decision,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(decision: Decision, message: impl Into<String>) -> Self {
        Self { decision, message: message.into() }
    }
}

impl From<Misshapen> for Refusal {
    fn from(error: Misshapen) -> Self {
        Self::new(Decision::MalformedObject, error.to_string())
    }
}

/// All that has to be known of a pod before it is changed.
struct Plan<'a> {
    geth: Geth<'a>,
    overrides: Overrides,
    socket: ipc::Socket,
    user: user::User,
    max_peers: env::MaxPeers,
    account: AccountPlan,
    sidecar: Option<container::Place>,
}

/// A pod that was read: what is to be done to it, or why nothing is.
///
/// A decision is made in two steps because the account has to be seen to in between.
pub struct Survey<'a> {
    pod: &'a Value,
    settings: &'a Settings,
    plan: Result<Plan<'a>, Refusal>,
}

impl<'a> Survey<'a> {
    /// Reads a pod that is being created, in a namespace that says this for its pods.
    #[must_use]
    pub fn of(pod: &'a Value, settings: &'a Settings, defaults: &Defaults) -> Self {
        Self { pod, settings, plan: survey(pod, settings, defaults) }
    }

    /// The account with which the pod will run, so that it can be made ready before the pod is injected; none if the pod
    /// will not be injected.
    #[must_use]
    pub fn account(&self) -> Option<&AccountPlan> {
        self.plan.as_ref().ok().map(|plan| &plan.account)
    }

    /// Of a pod that has its sidecar: the account under which it runs, and the namespace of its registry if it names one.
    #[must_use]
    pub fn runs_under(&self) -> Option<(&str, Option<&str>)> {
        let plan = self.plan.as_ref().ok().filter(|plan| plan.sidecar.is_some())?;
        let AccountPlan { name, replaces, registry } = &plan.account;
        Some((replaces.as_deref().unwrap_or(name), registry.as_deref()))
    }

    /// Decides about the pod, whose account is in this state.
    #[must_use]
    pub fn inject(self, account: &Account) -> Outcome {
        let Self { pod, settings, plan } = self;
        plan.and_then(|plan| apply(pod, &plan, &Context { settings, account }))
            .unwrap_or_else(|refusal| Outcome::refused(refusal, OptIn::of(pod)))
    }
}

/// Decides about a pod that is being created, where the state of its account is known beforehand and its namespace says
/// nothing.
#[must_use]
pub fn inject(pod: &Value, context: &Context<'_>) -> Outcome {
    Survey::of(pod, context.settings, &Defaults::default()).inject(context.account)
}

fn label(pod: &Value) -> Option<&str> {
    pod["metadata"]["labels"][KEY].as_str()
}

fn survey<'a>(pod: &'a Value, settings: &Settings, defaults: &Defaults) -> Result<Plan<'a>, Refusal> {
    wants_peering(pod)?;
    let overrides = Overrides::parse(pod, defaults, settings).map_err(|mistakes| mistaken(pod, &mistakes))?;
    let geth = geth::find(pod, &overrides)?;
    let sidecar = container::existing(pod)?;
    volume::check_names(pod)?;
    let socket = ipc::locate(&geth, &overrides)?;
    let user = user::of(pod, &geth, &overrides)?;
    let max_peers = env::max_peers(&geth, &overrides);
    let account = account::plan(pod, overrides.account, overrides.registry_namespace.clone());
    Ok(Plan { geth, overrides, socket, user, max_peers, account, sidecar })
}

/// What becomes of a pod whose annotations, or those of its namespace, hold mistakes.
fn mistaken(pod: &Value, mistakes: &[String]) -> Refusal {
    match geth::find(pod, &Overrides::default()) {
        // What its namespace says is no matter to a pod that is no Geth, as most are.
        Err(refusal) if refusal.decision == Decision::NoGethContainer && !defaults::has_own(pod) => refusal,
        _ => Refusal::new(Decision::InvalidAnnotation, text::listed(mistakes, "; ")),
    }
}

/// Whether this is a pod that may be changed at all, and that does not refuse it.
fn wants_peering(pod: &Value) -> Result<(), Refusal> {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    if !spec.is_object() || !metadata["deletionTimestamp"].is_null() {
        return Err(Refusal::new(Decision::NotApplicable, "this is no pod that is being created"));
    }
    if !metadata["annotations"][MIRROR].is_null() {
        return Err(Refusal::new(
            Decision::MirrorPod,
            "this pod mirrors a static pod, which no webhook can change; write the sidecar into the static pod's file",
        ));
    }
    match label(pod) {
        None | Some(ENABLED) => {}
        Some(DISABLED) => return Err(Refusal::new(Decision::Disabled, "the pod's label says disabled")),
        Some(other) => {
            return Err(Refusal::new(
                Decision::BadLabel,
                format!("label {KEY}={}: write {ENABLED} or {DISABLED}", text::quoted(other)),
            ));
        }
    }
    if spec["os"]["name"] == "windows" || spec["nodeSelector"]["kubernetes.io/os"] == "windows" {
        return Err(Refusal::new(
            Decision::WindowsPod,
            "Geth on Windows has no unix socket for the sidecar; run it on Linux nodes, or take the label off",
        ));
    }
    Ok(())
}

fn apply(pod: &Value, plan: &Plan<'_>, context: &Context<'_>) -> Result<Outcome, Refusal> {
    let Context { settings, account } = context;
    let mut edit = Edit::new(pod);
    let mut warnings = Vec::new();

    ipcdisable::remove(&mut edit, &plan.geth, &mut warnings)?;
    volume::add(&mut edit, &plan.geth, &plan.socket)?;
    env::add_to_geth(&mut edit, &plan.geth, &plan.socket, plan.max_peers, &mut warnings)?;
    match &plan.sidecar {
        Some(sidecar) => {
            container::repair(&mut edit, sidecar)?;
            volume::repair(&mut edit, sidecar, &plan.socket)?;
        }
        None => {
            let sidecar = container::build(plan, settings)?;
            container::add(&mut edit, sidecar, container::is_native(plan, settings))?;
        }
    }
    if settings.disable_service_links {
        // A Service named geth would otherwise give Geth a GETH_PORT=tcp://..., from which it dies.
        edit.set(&place(["spec", "enableServiceLinks"]), json!(false))?;
    }
    let mark = place(["metadata", "annotations", annotations::INJECTED]);
    if plan.sidecar.is_none() || edit.get(&mark).is_none() {
        edit.set(&mark, json!(settings.version))?;
    }
    let unbound = place(["metadata", "annotations", annotations::UNBOUND]);
    // When the pod was let in without its account, that comes now because it is ready, and nobody took it out.
    let awaited = edit.get(&unbound).is_some();
    let others = edit.changes();
    let debt = account::give(&mut edit, &plan.account, account, &mut warnings)?;
    let missing = if awaited { others } else { edit.changes() };
    match debt {
        Some(name) => edit.set(&unbound, json!(name))?,
        None if awaited && *account == &Account::Ready => edit.remove(&unbound)?,
        None => {}
    }

    let patch = edit.into_patch();
    let decision = match (&plan.sidecar, missing) {
        (None, _) => Decision::Injected,
        (Some(_), 0) => Decision::AlreadyInjected,
        (Some(_), _) => Decision::Repaired,
    };
    if decision == Decision::Injected {
        warnings.extend(advice(pod, plan, settings));
    }
    let mut outcome = Outcome::changed(decision, patch, warnings);
    if decision == Decision::Repaired {
        let places: Vec<_> = outcome.patch.iter().take(missing).map(|change| change.path().to_string()).collect();
        let message = format!(
            "a webhook that is asked after this one took something out of this pod again, which is back now: {}",
            text::listed(&places, ", ")
        );
        outcome.warnings.insert(0, message.clone());
        outcome.message = Some(message);
    }
    outcome.audit.insert("container".to_owned(), text::shown(plan.geth.name()));
    outcome.audit.insert("ipc-path".to_owned(), plan.socket.path.clone());
    Ok(outcome)
}

/// What a user should know about a pod that is injected.
fn advice(pod: &Value, plan: &Plan<'_>, settings: &Settings) -> Vec<String> {
    let mut sentences = Vec::new();
    let name = text::shown(plan.geth.name());
    if plan.user.guessed {
        sentences.push(format!(
            "nothing says as which user container {name} runs; the sidecar runs as root. \
             If Geth does not, set runAsUser or the annotation geth-peering/run-as-user"
        ));
    }
    if !plan.geth.command.starts_a_node() {
        sentences.push(format!(
            "how container {name} starts Geth cannot be seen; if it passes --ipcdisable, take that out, \
             and if it passes --ipcpath, write the same path into the annotation geth-peering/ipc-path"
        ));
    }
    if plan.socket.set_variable && ipc::has_other_clients(pod, &plan.geth, &plan.socket) {
        sentences.push(format!(
            "Geth's IPC socket moves to {}; give that path to the `geth attach` in this pod, \
             or name another one with the annotation geth-peering/ipc-path",
            plan.socket.path
        ));
    }
    if plan.overrides.account == AccountChoice::Keep && plan.account.name == account::UNCHOSEN {
        sentences.push(format!(
            "the sidecar's rights go to the ServiceAccount default, so every pod of the namespace that runs as default \
             may write the registry; give the pod an account of its own, or take the {} out",
            plan.overrides.called("service-account")
        ));
    }
    if let Some(asked) = plan.max_peers.ignored {
        sentences.push(format!(
            "annotation geth-peering/max-peers={asked} has no effect: container {name} has its own --maxpeers, \
             or a Geth before 1.13.1, which no variable reaches"
        ));
    }
    if !container::is_native(plan, settings) && pod["spec"]["restartPolicy"].as_str().is_some_and(|p| p != "Always") {
        sentences.push("the sidecar is an ordinary container, so this pod does not end when Geth does".to_owned());
    }
    if pod["spec"]["hostNetwork"] == true {
        sentences.push(format!(
            "the pod is in its node's network: the sidecar's port {} has to be free on the node",
            sidecar::config::DEFAULT_HTTP_PORT
        ));
    }
    sentences
}

#[cfg(test)]
impl Settings {
    /// Settings as the chart has them, for tests.
    pub(crate) fn example() -> Self {
        Self {
            image: "geth-peering/sidecar:0.1.0".into(),
            image_pull_policy: "IfNotPresent".into(),
            cpu_request: "10m".into(),
            memory_request: "16Mi".into(),
            memory_limit: "64Mi".into(),
            log_level: "INFO".into(),
            configmap_names: vec!["geth-peering".into()],
            registry_namespaces: Vec::new(),
            native_sidecars: true,
            disable_service_links: true,
            version: "0.1.0".into(),
        }
    }
}
