//! Reading request bodies: none larger than a review can be, and only a few large ones at once.
//!
//! A body of ordinary size is read as it comes. Of a larger one only as much is as there is room for in a memory that all
//! large ones share ([`UNITS`]): so what arrives at one time on many connections (of HTTP/1.1, which API servers speak) has
//! a bound. It is what has arrived that counts and not what was announced: who announces much and sends nothing keeps
//! nobody waiting, and who sends much and then stops, only others that are large, and only for as long as a request may last.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest request body. API servers take objects of up to 3 MiB (apiserver `server/config.go`,
/// `MaxRequestBodyBytes`). The review of an update holds two, but of objects that large etcd stores none
/// (`--max-request-bytes`, 1.5 MiB).
const MAX_BODY: usize = 4 * 1024 * 1024;
/// What is read of the first body of each connection in any case, bytes: ten times as much as the review of an ordinary pod
/// has. And in what units more is.
const UNIT: usize = 64 * 1024;
/// How many more there are for all bodies together: a quarter of the chart's memory limit.
const UNITS: usize = 1024;

/// The memory that large bodies share.
#[derive(Debug, Clone)]
pub(crate) struct Bodies(Arc<Semaphore>);

/// A body that was read. Its part of the shared memory is kept until this is dropped.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Vec<u8>,
    _part: OwnedSemaphorePermit,
}

/// Why a body was not read.
#[derive(Debug, Error)]
pub(crate) enum Unread {
    #[error("the request body is larger than {MAX_BODY} bytes")]
    TooLarge,
    #[error("the request body broke off: {0}")]
    Broken(axum::Error),
}

impl Bodies {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNITS)))
    }

    /// Reads `body` to its end, which comes `beside` others on its connection or not.
    pub(crate) async fn read(&self, body: Body, beside: bool) -> Result<Read, Unread> {
        if body.size_hint().lower() > MAX_BODY as u64 {
            return Err(Unread::TooLarge);
        }
        let mut frames = body.into_data_stream();
        let free = usize::from(!beside);
        let (mut bytes, mut part) = (Vec::new(), self.units(0).await?);
        while let Some(frame) = frames.next().await {
            let frame = frame.map_err(Unread::Broken)?;
            let length = bytes.len() + frame.len();
            if length > MAX_BODY {
                return Err(Unread::TooLarge);
            }
            let missing = length.div_ceil(UNIT).saturating_sub(free + part.num_permits());
            if missing > 0 {
                part.merge(self.units(missing).await?);
            }
            bytes.extend_from_slice(&frame);
        }
        Ok(Read { bytes, _part: part })
    }

    /// Waits for so many units.
    async fn units(&self, count: usize) -> Result<OwnedSemaphorePermit, Unread> {
        // No body has more than `MAX_BODY` bytes, and nobody closes the semaphore.
        let count = u32::try_from(count).map_err(|_| Unread::TooLarge)?;
        self.0.clone().acquire_many_owned(count).await.map_err(|_| Unread::TooLarge)
    }
}

impl IntoResponse for Unread {
    fn into_response(self) -> Response {
        tracing::warn!("{self}");
        let code = match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        };
        (code, format!("{self}\n")).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use futures::stream;

    fn chunked(size: usize, length: usize) -> Body {
        Body::from_stream(stream::iter(
            (0..length.div_ceil(size)).map(move |_| Ok::<_, std::io::Error>(vec![b'x'; size])),
        ))
    }

    /// A body of which `length` bytes arrive, and no more.
    fn stalled(length: usize) -> Body {
        let sent = stream::once(async move { Ok::<_, std::io::Error>(vec![b'x'; length]) });
        Body::from_stream(sent.chain(stream::pending()))
    }

    #[tokio::test]
    async fn is_a_body_too_large_refused_whether_or_not_its_length_was_announced() {
        let bodies = Bodies::new();
        for body in [Body::from(vec![b' '; MAX_BODY + 1]), chunked(1024, MAX_BODY + 1)] {
            let unread = bodies.read(body, false).await.unwrap_err();
            assert_eq!(unread.into_response().status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
        for body in [Body::from(vec![b' '; MAX_BODY]), chunked(1024, MAX_BODY)] {
            assert_eq!(bodies.read(body, false).await.unwrap().bytes.len(), MAX_BODY);
        }
        let broken = stream::iter([Ok(vec![b'x']), Err(std::io::Error::other("reset"))]);
        let unread = bodies.read(Body::from_stream(broken), false).await.unwrap_err();
        assert!(unread.to_string().contains("reset"), "{unread}");
        assert_eq!(unread.into_response().status(), StatusCode::BAD_REQUEST);
    }

    /// A body of so many bytes, all there at once.
    fn of(length: usize) -> Body {
        Body::from(vec![b'x'; length])
    }

    // Without a runtime, whose budget would end a poll early.
    #[test]
    fn is_there_room_for_few_large_bodies_at_once_and_for_any_number_of_ordinary_ones() {
        let bodies = Bodies::new();
        let mut held: Vec<_> = (0..16).map(|_| bodies.read(of(MAX_BODY), false).now_or_never().unwrap()).collect();
        let mut next = Box::pin(bodies.read(of(MAX_BODY), false));
        assert!((&mut next).now_or_never().is_none(), "one too many");
        let ordinary: Vec<_> = (0..100).map(|_| bodies.read(of(UNIT), false).now_or_never().unwrap()).collect();
        assert!(ordinary.iter().all(Result::is_ok));
        held.pop();
        assert!((&mut next).now_or_never().unwrap().is_ok());
    }

    // Without a runtime, whose budget would end a poll early.
    #[test]
    fn does_who_sends_little_of_much_keep_nobody_waiting() {
        let bodies = Bodies::new();
        let stuck = |length| {
            let mut slow: Vec<_> = (0..1000).map(|_| Box::pin(bodies.read(stalled(length), false))).collect();
            assert!(slow.iter_mut().all(|body| body.now_or_never().is_none()));
            slow
        };
        let slow = stuck(UNIT);
        assert!(bodies.read(of(MAX_BODY), false).now_or_never().unwrap().is_ok());
        drop(slow);
        let slow = stuck(2 * UNIT);
        assert!(bodies.read(of(2 * UNIT), false).now_or_never().unwrap().is_ok());
        assert!(bodies.read(of(MAX_BODY), false).now_or_never().is_none(), "not beside so much");
        drop(slow);
        assert!(bodies.read(of(MAX_BODY), false).now_or_never().unwrap().is_ok(), "what was given up leaves its room");
    }

    // Without a runtime, whose budget would end a poll early.
    #[test]
    fn have_many_small_bodies_on_few_connections_a_bound_that_leaves_each_connection_its_first() {
        let bodies = Bodies::new();
        let beside = |length| bodies.read(stalled(length), true);
        let mut slow: Vec<_> = (0..UNITS).map(|_| Box::pin(beside(1))).collect();
        assert!(slow.iter_mut().all(|body| body.now_or_never().is_none()));
        let mut next = Box::pin(bodies.read(of(1), true));
        assert!((&mut next).now_or_never().is_none(), "one too many");
        assert!(bodies.read(of(UNIT), false).now_or_never().unwrap().is_ok());
        slow.pop();
        assert!((&mut next).now_or_never().unwrap().is_ok());
    }
}
