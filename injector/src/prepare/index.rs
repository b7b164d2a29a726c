//! What the watches show of namespaces, accounts and bindings, and what follows from it. Pure: no call, no clock.
//!
//! With it the request path knows without a call whether a namespace is ready.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, Subject};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use super::NAME;
use crate::api::MANAGED_BY;
use crate::inject::{Defaults, ENABLED, KEY};
use crate::scope::Scope;

/// The kind of subject that a pod's account is.
pub(super) const SERVICE_ACCOUNT: &str = "ServiceAccount";

/// The objects of one watch, one for each namespace.
#[derive(Debug)]
struct Mirror<V> {
    current: BTreeMap<String, V>,
    /// What a new list has brought so far; it counts once complete.
    arriving: BTreeMap<String, V>,
    synced: bool,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), arriving: BTreeMap::new(), synced: false }
    }
}

impl<V> Mirror<V> {
    /// Takes an event in; `read` gives an object's namespace and what to remember of it.
    fn see<K>(&mut self, event: Event<K>, read: impl Fn(K) -> (String, V)) {
        match event {
            Event::Init => self.arriving.clear(),
            Event::InitApply(object) => self.arriving.extend([read(object)]),
            Event::InitDone => {
                self.current = std::mem::take(&mut self.arriving);
                self.synced = true;
            }
            Event::Apply(object) => self.current.extend([read(object)]),
            Event::Delete(object) => {
                self.current.remove(&read(object).0);
            }
        }
    }
}

/// An account that needs a sidecar's rights, in its own namespace or in that of a registry elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Holder {
    /// The account `name` of `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What a namespace lacks for an account to have a sidecar's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// The ServiceAccount, the RoleBinding, or a subject in it.
    Write,
    /// A binding of our name, made by somebody else, gives another role; the role of a binding cannot be changed.
    Foreign {
        /// The role it gives.
        role: String,
    },
}

/// What the watches show.
#[derive(Debug)]
pub struct Index {
    /// The name of the role that sidecars need.
    role: String,
    scope: Scope,
    /// Labelled namespaces, and whether each is being deleted.
    namespaces: Mirror<bool>,
    /// What labelled namespaces say for their pods.
    defaults: Mirror<Arc<Defaults>>,
    accounts: Mirror<()>,
    bindings: Mirror<RoleBinding>,
    /// The accounts that the binding of a namespace had when last seen; one that is made anew has them again.
    subjects: BTreeMap<String, BTreeSet<Holder>>,
    /// By namespace, the accounts under which pods were let in without their rights.
    owed: BTreeMap<String, BTreeSet<Holder>>,
}

impl Index {
    /// One that knows nothing yet; sidecars need the role `role`, and nothing is made outside `scope`. Where that names its
    /// namespaces, nobody shows their labels, and each counts as labelled.
    pub fn new(role: &str, scope: Scope) -> Self {
        let named = scope.only.iter().flatten().map(|namespace| (namespace.clone(), false)).collect();
        let namespaces = Mirror { current: named, arriving: BTreeMap::new(), synced: scope.only.is_some() };
        Self {
            role: role.to_owned(),
            scope,
            namespaces,
            defaults: Mirror::default(),
            accounts: Mirror::default(),
            bindings: Mirror::default(),
            subjects: BTreeMap::new(),
            owed: BTreeMap::new(),
        }
    }

    /// An event of a labelled namespace.
    pub fn see_namespace(&mut self, event: Event<PartialObjectMeta<Namespace>>) {
        if let Event::Delete(namespace) = &event
            && self.namespaces.current.contains_key(&namespace.name_any())
        {
            self.subjects.remove(&namespace.name_any());
        }
        self.defaults.see(event.clone(), |object| (object.name_any(), Arc::new(defaults_of(&object))));
        self.namespaces.see(event, |object| (object.name_any(), object.metadata.deletion_timestamp.is_some()));
    }

    /// An event of an account of our name.
    pub fn see_account(&mut self, event: Event<PartialObjectMeta<ServiceAccount>>) {
        self.accounts.see(event, |object| (object.namespace().unwrap_or_default(), ()));
    }

    /// An event of a binding of our name.
    pub fn see_binding(&mut self, event: Event<RoleBinding>) {
        match &event {
            Event::Apply(binding) | Event::InitApply(binding) if is_ours(binding) => self.remember(binding),
            Event::Delete(binding) => self.forget(&binding.namespace().unwrap_or_default()),
            _ => {}
        }
        self.bindings.see(event, |mut binding| {
            binding.metadata.managed_fields = None;
            (binding.namespace().unwrap_or_default(), binding)
        });
    }

    fn remember(&mut self, binding: &RoleBinding) {
        let namespace = binding.namespace().unwrap_or_default();
        let bound = holders_of(binding);
        if self.gives_role(binding)
            && let Some(owed) = self.owed.get_mut(&namespace)
        {
            // From now on they are remembered as its subjects.
            owed.retain(|account| !bound.contains(account));
        }
        self.subjects.insert(namespace, bound);
    }

    /// The binding of `namespace` is gone. Its accounts stay known only where the binding is to come back by itself.
    fn forget(&mut self, namespace: &str) {
        if self.namespaces.current.get(namespace) != Some(&false) {
            self.subjects.remove(namespace);
        }
    }

    /// Whether all watches have shown their first list.
    pub fn is_synced(&self) -> bool {
        self.namespaces.synced && self.accounts.synced && self.bindings.synced
    }

    /// What `namespace` needs so that `account` has a sidecar's rights in it.
    pub fn need(&self, namespace: &str, account: &Holder) -> Need {
        let Some(binding) = self.bindings.current.get(namespace) else { return Need::Write };
        if !self.gives_role(binding) {
            return if is_ours(binding) { Need::Write } else { Need::Foreign { role: binding.role_ref.name.clone() } };
        }
        let bound = holders_of(binding);
        let ours = bound.contains(&Holder::new(namespace, NAME));
        let complete = self.has_account(namespace) && ours && bound.contains(account);
        if complete { Need::Nothing } else { Need::Write }
    }

    /// Where anything may be made.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether our account exists in `namespace`.
    pub fn has_account(&self, namespace: &str) -> bool {
        self.accounts.current.contains_key(namespace)
    }

    /// The binding of `namespace`, if there is one.
    pub fn binding(&self, namespace: &str) -> Option<&RoleBinding> {
        self.bindings.current.get(namespace)
    }

    /// Whether `binding` gives the role that sidecars need.
    pub fn gives_role(&self, binding: &RoleBinding) -> bool {
        binding.role_ref.kind == self.scope.role_kind() && binding.role_ref.name == self.role
    }

    /// The accounts that a binding in `namespace` has to have: ours, `account`, those it had before, and those that are
    /// owed their rights.
    pub fn wanted(&self, namespace: &str, account: &Holder) -> BTreeSet<Holder> {
        let of = |accounts: &BTreeMap<String, BTreeSet<Holder>>| accounts.get(namespace).cloned().unwrap_or_default();
        let before = of(&self.subjects).into_iter().chain(of(&self.owed));
        before.chain([Holder::new(namespace, NAME), account.clone()]).collect()
    }

    /// A pod runs under `account` without the rights it needs in `namespace`.
    pub fn owe(&mut self, namespace: &str, account: &Holder) {
        if self.scope.has(namespace) {
            self.owed.entry(namespace.to_owned()).or_default().insert(account.clone());
        }
    }

    /// `namespace` is gone, and its pods with it.
    pub fn forgive(&mut self, namespace: &str) {
        self.owed.remove(namespace);
    }

    /// What `namespace` says for its pods; nothing unless it is labelled.
    pub fn defaults(&self, namespace: &str) -> Arc<Defaults> {
        self.defaults.current.get(namespace).cloned().unwrap_or_default()
    }

    /// The labelled namespaces in which anything may be made.
    pub fn labelled(&self) -> Vec<String> {
        self.namespaces.current.keys().filter(|namespace| self.scope.has(namespace)).cloned().collect()
    }

    /// An account that is to have a sidecar's rights in `namespace` and has not: ours, where the namespace is labelled,
    /// or one that is owed them.
    pub fn lacking(&self, namespace: &str) -> Option<Holder> {
        let labelled = self.namespaces.current.get(namespace) == Some(&false) && self.scope.has(namespace);
        let ours = labelled.then(|| Holder::new(namespace, NAME));
        let owed = self.owed.get(namespace).into_iter().flatten().cloned();
        ours.into_iter().chain(owed).find(|account| self.need(namespace, account) != Need::Nothing)
    }

    /// The namespaces that have to be prepared. Labelled ones that are being deleted take nothing any more.
    pub fn unprepared(&self) -> Vec<String> {
        let places: BTreeSet<_> = self.namespaces.current.keys().chain(self.owed.keys()).collect();
        let ending = |place: &String| self.namespaces.current.get(place) == Some(&true);
        places.into_iter().filter(|place| !ending(place) && self.lacking(place).is_some()).cloned().collect()
    }

    /// Our account was found or made in `namespace`.
    pub fn put_account(&mut self, namespace: &str) {
        self.accounts.current.insert(namespace.to_owned(), ());
    }

    /// A binding was found or made.
    pub fn put_binding(&mut self, binding: RoleBinding) {
        self.see_binding(Event::Apply(binding));
    }
}

fn defaults_of(namespace: &impl Resource) -> Defaults {
    let labelled = namespace.labels().get(KEY).is_some_and(|value| value == ENABLED);
    if labelled { Defaults::of(&namespace.name_any(), namespace.annotations()) } else { Defaults::default() }
}

/// Whether we made it.
pub(super) fn is_ours(object: &impl Resource) -> bool {
    let (key, value) = MANAGED_BY;
    object.labels().get(key).is_some_and(|found| found == value)
}

/// The accounts among the subjects of `binding`.
pub(super) fn holders_of(binding: &RoleBinding) -> BTreeSet<Holder> {
    let account = |subject: &Subject| {
        let namespace = subject.namespace.as_deref().filter(|_| subject.kind == SERVICE_ACCOUNT)?;
        Some(Holder::new(namespace, &subject.name))
    };
    binding.subjects.iter().flatten().filter_map(account).collect()
}

#[cfg(test)]
mod tests;
