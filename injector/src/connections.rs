//! How many connections may be open, in all and from one address.
//!
//! One address may have half of all, so that nobody who opens as many as he can keeps all others out; it takes two
//! addresses for that. A larger part would leave less to the others, a smaller one could be too little where all API
//! servers share an address (konnectivity, NAT), though each needs but one or two. What is too much is closed at once, and
//! nobody else's connection with it: of several from one address, none is known to be worse than another.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The connections of one port.
pub(crate) struct Connections {
    most: u32,
    open: Arc<Semaphore>,
    sources: Sources,
}

/// The addresses with open connections.
type Sources = Arc<Mutex<HashMap<IpAddr, Source>>>;

/// One of them.
#[derive(Default)]
struct Source {
    open: u32,
    /// Its log line was written. Once is enough for as long as it has any connection.
    told: bool,
}

/// Leave to have one connection more; given back when dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A [`Place`] that an address has taken.
pub(crate) struct Taken {
    _place: Place,
    source: IpAddr,
    sources: Sources,
}

impl Connections {
    /// Up to `most` in all.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, open: Arc::new(Semaphore::new(most as usize)), sources: Sources::default() }
    }

    /// Waits until there is room for one more; none comes if that can never be.
    pub(crate) async fn room(&self) -> Option<Place> {
        let permit = self.open.clone().acquire_owned().await.ok()?;
        Some(Place { _permit: permit })
    }

    /// Gives the place to a connection from `source`, unless that has its share.
    pub(crate) fn take(&self, place: Place, source: IpAddr) -> Option<Taken> {
        // A port that listens to both shows IPv4 in the clothes of IPv6.
        let source = source.to_canonical();
        let mut sources = lock(&self.sources);
        let known = sources.entry(source).or_default();
        if known.open >= self.share() {
            if !std::mem::replace(&mut known.told, true) {
                let open = known.open;
                tracing::warn!(%source, open, "one address has all connections it may have; more are closed");
            }
            return None;
        }
        known.open += 1;
        Some(Taken { _place: place, source, sources: self.sources.clone() })
    }

    fn share(&self) -> u32 {
        self.most.div_ceil(2)
    }

    /// Waits until all are closed, up to `patience`; whether they are.
    pub(crate) async fn closed(&self, patience: Duration) -> bool {
        // Who has all permits knows that no connection is left.
        tokio::time::timeout(patience, self.open.acquire_many(self.most)).await.is_ok()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut sources = lock(&self.sources);
        if let Some(known) = sources.get_mut(&self.source) {
            known.open -= 1;
            if known.open == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

fn lock(sources: &Sources) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
    sources.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_nothing_remembered_of_addresses_that_have_left() {
        let connections = Connections::new(4);
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "::ffff:10.0.0.1".parse().unwrap());
        let take = async |source| connections.take(connections.room().await.unwrap(), source);
        let held = [take(one).await.unwrap(), take(other).await.unwrap()];
        assert!(take(one).await.is_none(), "both are one address");
        assert!(!connections.closed(Duration::ZERO).await);
        drop(held);
        assert!(lock(&connections.sources).is_empty());
        assert!(connections.closed(Duration::ZERO).await);
        assert!(take(one).await.is_some());
    }
}
