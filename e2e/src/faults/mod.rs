//! Everything that may happen to a network, each as one fault: what is done, what healed means, and the deed itself.
//!
//! [`all`] lists them. The quick ones are tests too; the others need minutes, or disturb the whole cluster.

mod api;
pub mod cluster;
mod geth;
mod proxy;
mod registry;
pub mod rights;
mod scene;
mod sidecar;
pub mod table;

use crate::cluster::{Namespace, in_namespace};
use anyhow::{Result, ensure};
use futures::future::LocalBoxFuture;
use std::time::Duration;

pub use scene::Healed;

/// Where else a fault is run than by `make faults`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In `make test` too: it is over within seconds and concerns its own namespace alone.
    Quick,
    /// Nowhere else: it takes long, or a test of another name asks the same.
    Alone,
    /// Nowhere else: it disturbs nodes, the API server or the rights of all sidecars.
    Disruptive,
}

/// What a fault does: given a namespace of its own, and how long the fault shall last.
type Deed = for<'a> fn(&'a Namespace, Duration) -> LocalBoxFuture<'a, Result<Healed>>;

/// One thing that may happen.
pub struct Fault {
    /// What it is called; begins with its family.
    pub name: &'static str,
    /// What is done, with `{}` for how many seconds it lasts.
    pub done: &'static str,
    /// What has to come about after it, besides what [`Healed`] always means.
    pub healed: &'static str,
    /// How many seconds it lasts, where that is not up to the fault itself.
    pub lasts: Option<u64>,
    /// Where else it is run.
    pub when: When,
    deed: Deed,
}

impl Fault {
    /// Does it in a fresh namespace; `lasts` instead of the seconds it lasts by default, if it lasts.
    ///
    /// # Errors
    /// When it did not heal in time, or lost what it must not.
    pub async fn run(&self, lasts: Option<u64>) -> Result<Healed> {
        let lasts = Duration::from_secs(self.seconds(lasts).unwrap_or_default());
        in_namespace(async |namespace| (self.deed)(namespace, lasts).await).await
    }

    /// What is done, in words.
    pub fn description(&self, lasts: Option<u64>) -> String {
        self.done.replace("{}", &self.seconds(lasts).unwrap_or_default().to_string())
    }

    fn seconds(&self, lasts: Option<u64>) -> Option<u64> {
        self.lasts.map(|default| lasts.unwrap_or(default))
    }
}

/// All faults, in the order of the table.
pub fn all() -> Vec<Fault> {
    [geth::faults(), sidecar::faults(), registry::faults(), api::faults(), cluster::faults()]
        .into_iter()
        .flatten()
        .collect()
}

/// The faults of these names, or whose names begin so; all, if none is named.
///
/// # Errors
/// When there is no such fault.
pub fn named(names: &[String]) -> Result<Vec<Fault>> {
    let mut faults = all();
    for name in names {
        let known = faults.iter().any(|fault| fault.name.starts_with(&**name));
        let list = faults.iter().map(|fault| fault.name).collect::<Vec<_>>().join(", ");
        ensure!(known, "there is no fault {name:?}; there are {list}");
    }
    let exact: Vec<_> = faults.iter().map(|fault| fault.name).collect();
    faults.retain(|fault| {
        let chosen = |name: &String| {
            if exact.contains(&&**name) { fault.name == name } else { fault.name.starts_with(&**name) }
        };
        names.is_empty() || names.iter().any(chosen)
    });
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(chosen: &[&str]) -> Vec<&'static str> {
        let chosen: Vec<_> = chosen.iter().map(ToString::to_string).collect();
        named(&chosen).unwrap().iter().map(|fault| fault.name).collect()
    }

    #[test]
    fn is_a_fault_chosen_by_its_name_and_a_family_by_how_it_begins() {
        assert_eq!(names(&[]).len(), all().len());
        assert_eq!(names(&["sidecar-pod-deleted"]), ["sidecar-pod-deleted"]);
        let family = names(&["geth"]);
        assert!(family.len() > 3 && family.iter().all(|name| name.starts_with("geth-")), "{family:?}");
        assert!(named(&["get-killed".into()]).is_err());
    }

    #[test]
    fn has_every_fault_a_name_of_its_own_that_fits_into_a_table() {
        let mut names = names(&[]);
        let plain = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        assert!(names.iter().all(plain), "{names:?}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
    }

    #[test]
    fn is_the_time_that_a_fault_lasts_told_where_it_lasts() {
        for fault in all() {
            assert_eq!(fault.done.contains("{}"), fault.lasts.is_some(), "{}", fault.name);
            assert!(!fault.done.contains('|') && !fault.healed.contains('|'), "{}", fault.name);
        }
    }
}
