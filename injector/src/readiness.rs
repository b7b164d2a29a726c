//! Whether this replica should get requests: when everything it needs has happened
//! once, and until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What readiness waits for. Once open, a latch stays open: what broke later (the API
/// server away, a watch interrupted) does not stop a replica from answering well.
#[derive(Debug, Clone)]
pub struct Latch {
    name: &'static str,
    open: Arc<AtomicBool>,
}

impl Latch {
    /// It has happened.
    pub fn open(&self) {
        if !self.open.swap(true, Ordering::Relaxed) {
            tracing::info!(latch = self.name, "ready");
        }
    }
}

/// All latches, and whether the process is about to stop.
#[derive(Debug, Default)]
pub struct Readiness {
    latches: Vec<Latch>,
    stopping: AtomicBool,
}

impl Readiness {
    /// One more thing to wait for.
    pub fn latch(&mut self, name: &'static str) -> Latch {
        let latch = Latch { name, open: Arc::default() };
        self.latches.push(latch.clone());
        latch
    }

    /// From now on not ready, so that Services send no new connections here.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// What is missing for being ready; empty if ready.
    pub fn missing(&self) -> Vec<&'static str> {
        let closed = self.latches.iter().filter(|latch| !latch.open.load(Ordering::Relaxed)).map(|latch| latch.name);
        let stopping = self.stopping.load(Ordering::Relaxed).then_some("stopping");
        closed.chain(stopping).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_it_ready_once_everything_has_happened_and_not_when_stopping() {
        let mut readiness = Readiness::default();
        let (first, second) = (readiness.latch("certificate"), readiness.latch("index"));
        assert_eq!(readiness.missing(), ["certificate", "index"]);
        second.open();
        assert_eq!(readiness.missing(), ["certificate"]);
        first.open();
        first.open();
        assert!(readiness.missing().is_empty());
        readiness.stop();
        assert_eq!(readiness.missing(), ["stopping"]);
    }
}
