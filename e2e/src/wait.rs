//! Waiting for a condition, with a deadline and the reason why it was not met.

use anyhow::{Result, anyhow};
use std::time::{Duration, Instant};

/// How often a condition is looked at: often enough to give figures to a quarter of a second, seldom enough to
/// leave two cores to the Geths.
const INTERVAL: Duration = Duration::from_millis(250);

/// The longest that one look may take; a pod that is being replaced may swallow a request for good.
const LOOK: Duration = Duration::from_secs(10);

/// A deadline for anything that needs pods to start; far above what is normal, because only a test that fails
/// ever reaches it.
pub const PODS: Duration = Duration::from_secs(180);

/// A deadline for anything that happens between programs which run already.
pub const SOON: Duration = Duration::from_secs(60);

/// Looks again and again until `look` returns `Ok`, and returns that.
///
/// # Errors
/// The last error of `look`, with `what` as context, once `limit` is over.
pub async fn until<T>(what: &str, limit: Duration, look: impl AsyncFn() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let error = match tokio::time::timeout(LOOK, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            Err(_) => anyhow!("no answer within {LOOK:?}"),
        };
        if start.elapsed() >= limit {
            return Err(error.context(format!("waited {limit:?} in vain until {what}")));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
