//! Jobs: the calls that carry out a plan, to Geth and to the API server.
//!
//! Each runs beside the loop, bounded by the deadlines of what it calls, and ends in
//! a [`Done`]. Nothing is decided here, and nothing is kept.

use tracing::{debug, info};

use crate::geth::{Admin, CallError};
use crate::plan::{Action, Call, Failure, Outcome};
use crate::registry::store::{Store, StoreError};
use crate::registry::view::View;

/// How a job ended.
#[derive(Debug)]
pub struct Done {
    /// What the planner has to know of it.
    pub outcome: Outcome,
    /// The registry as a write left it behind.
    pub registry: Option<View>,
    /// Why a write failed.
    pub unwritten: Option<String>,
}

impl From<Outcome> for Done {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, registry: None, unwritten: None }
    }
}

/// Carries out `action` for `pod`. Without a Geth nobody can be told anything: `None`.
pub async fn run(action: Action, pod: String, store: Store, admin: Option<Admin>) -> Option<Done> {
    Some(match action {
        Action::Tell { key, calls } => {
            let (accepted, failure) = tell(&admin?, &calls).await;
            Outcome::Told { key, accepted, failure }.into()
        }
        Action::Assert { entry, patience } => {
            let written = store.assert(&pod, &entry.to_value(), patience).await;
            wrote(written.map(Some), |ok| Outcome::Wrote { ok })
        }
        Action::Withdraw { value } => wrote(store.remove(&pod, &value).await, |ok| Outcome::Wrote { ok }),
        Action::Look { pod, value } => {
            let state = store.look(&pod).await;
            match &state {
                Ok(state) => debug!(pod, ?state, "looked whether the pod lives"),
                Err(error) => debug!(pod, %error, "cannot tell whether the pod lives"),
            }
            Outcome::Looked { pod, value, state: state.map_err(|error| error.kind()) }.into()
        }
        Action::Evict { pod, value } => {
            let removed = store.remove(&pod, &value).await;
            match &removed {
                Ok(Some(_)) => info!(pod, "removed the entry of a pod that is gone"),
                Ok(None) => debug!(pod, "the entry had changed or was removed by another sidecar"),
                Err(error) => debug!(pod, %error, "cannot remove the entry of a pod that is gone"),
            }
            wrote(removed, |_ok| Outcome::Evicted { pod })
        }
        Action::WriteList { old, version, value } => {
            let written = store.write_list(old.as_deref(), version, &value).await;
            wrote(written.map(Some), |ok| Outcome::WroteList { ok })
        }
    })
}

/// How a write ended, which is `outcome` of whether it was done.
fn wrote(written: Result<Option<View>, StoreError>, outcome: impl FnOnce(bool) -> Outcome) -> Done {
    let outcome = outcome(written.is_ok());
    match written {
        Ok(registry) => Done { outcome, registry, unwritten: None },
        Err(error) => Done { outcome, registry: None, unwritten: Some(error.to_string()) },
    }
}

/// Makes `calls` in order, up to the first that fails.
async fn tell(admin: &Admin, calls: &[Call]) -> (Vec<Call>, Option<Failure>) {
    for (made, call) in calls.iter().enumerate() {
        let answer = match call {
            Call::Add(enode) => admin.add_peer(enode).await,
            Call::Remove(enode) => admin.remove_peer(enode).await,
            Call::Trust(enode) => admin.add_trusted_peer(enode).await,
            Call::Distrust(enode) => admin.remove_trusted_peer(enode).await,
        };
        if let Err(error) = answer {
            debug!(?call, %error, "Geth did not do what it was told");
            let refused = matches!(error, CallError::Rpc(_));
            let failure = Failure { call: *call, error: error.to_string(), refused };
            return (calls[..made].to_vec(), Some(failure));
        }
    }
    (calls.to_vec(), None)
}
