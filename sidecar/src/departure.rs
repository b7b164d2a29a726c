//! Departure: taking the own entry out of the registry when the pod ends.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::registry::store::{PodState, Store};

/// How long leaving the registry may take, out of the 30 s that a pod has to end by default.
const LEAVE: Duration = Duration::from_secs(8);

/// Removes the entry of `pod` with UID `uid`, which has one of `values`, if the pod
/// ends. A sidecar that is restarted alone leaves it: its Geth is still there.
pub async fn leave(store: &Store, pod: &str, uid: Option<&str>, values: &[String]) {
    let leaving = async {
        match store.look(pod).await {
            Ok(PodState::Alive { terminating: false, uid: there }) if uid.is_none_or(|uid| uid == there) => {
                return info!("stopping; the entry stays, because the pod does");
            }
            Ok(_) => {}
            // Whoever cannot tell leaves; the next run of this sidecar registers again at once.
            Err(error) => debug!(%error, "cannot tell whether the pod ends"),
        }
        for value in values {
            match store.remove(pod, value).await {
                Ok(Some(_)) => return info!("stopping; the entry is removed"),
                Ok(None) => {}
                Err(error) => return warn!(%error, "stopping; the entry could not be removed, the other sidecars will"),
            }
        }
        info!("stopping; the registry has no entry of this run");
    };
    if timeout(LEAVE, leaving).await.is_err() {
        warn!("stopping; the API server did not answer in time, so the other sidecars will remove the entry");
    }
}
