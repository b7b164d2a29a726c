//! Reading request bodies: none larger than a review can be, and only a few large ones at once.
//!
//! The first body of a connection is read as it comes while it is of ordinary size. Of a larger one, only as much is as
//! there is room for in a memory that all share ([`UNITS`]); of one beside others on its connection, as HTTP/2 allows,
//! nothing is before there is. So what has been read at one time has a bound, which the number of connections sets. For
//! the first bodies it is what has arrived that counts and not what was announced: who announces much and sends nothing
//! keeps nobody waiting. Who sends much, or many at once, and then stops, keeps only others of that kind waiting, and
//! only for as long as a request may last.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest request body. API servers take objects of up to 3 MiB (apiserver `server/config.go`,
/// `MaxRequestBodyBytes`). The review of an update holds two, but of objects that large etcd stores none
/// (`--max-request-bytes`, 1.5 MiB).
const MAX_BODY: usize = 4 * 1024 * 1024;
/// What is read of the first body of each connection in any case, bytes: five times as much as the review of an ordinary pod
/// has. And in what units more is.
const UNIT: usize = 32 * 1024;
/// How many there are for all else together: a quarter of the chart's memory limit.
const UNITS: usize = 2048;

/// The memory that large bodies share.
#[derive(Debug, Clone)]
pub(crate) struct Bodies(Arc<Semaphore>);

/// Marks a request that came while others were under way on its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beside;

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
    async fn read(&self, body: Body, beside: bool) -> Result<Read, Unread> {
        if body.size_hint().lower() > MAX_BODY as u64 {
            return Err(Unread::TooLarge);
        }
        let mut frames = body.into_data_stream();
        let free = usize::from(!beside);
        // Nobody may send more than the connection's window while nothing is taken from it.
        let (mut bytes, mut part) = (Vec::new(), self.units(usize::from(beside)).await?);
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

impl<S: Sync> FromRequest<S> for Read
where
    Bodies: FromRef<S>,
{
    type Rejection = Unread;

    async fn from_request(request: Request, state: &S) -> Result<Self, Unread> {
        let beside = request.extensions().get::<Beside>().is_some();
        Bodies::from_ref(state).read(request.into_body(), beside).await
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
    use std::sync::atomic::{AtomicBool, Ordering};

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
            let mut slow: Vec<_> = (0..UNITS - 24).map(|_| Box::pin(bodies.read(stalled(length), false))).collect();
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
        let read = |body, beside: bool| {
            let mut request = Request::new(body);
            if beside {
                request.extensions_mut().insert(Beside);
            }
            Box::pin(Read::from_request(request, &bodies))
        };
        let mut slow: Vec<_> = (0..UNITS).map(|_| read(stalled(1), true)).collect();
        assert!(slow.iter_mut().all(|body| body.now_or_never().is_none()));
        let mut next = read(of(1), true);
        assert!((&mut next).now_or_never().is_none(), "one too many");
        assert!(read(of(UNIT), false).now_or_never().unwrap().is_ok());
        slow.pop();
        assert!((&mut next).now_or_never().unwrap().is_ok());
    }

    #[test]
    fn is_nothing_taken_of_a_body_beside_others_for_which_there_is_no_room_yet() {
        let bodies = Bodies::new();
        let held: Vec<_> = (0..UNITS).map(|_| bodies.read(of(1), true).now_or_never().unwrap()).collect();
        let taken = Arc::new(AtomicBool::new(false));
        let marks = taken.clone();
        let frame = stream::once(async move {
            marks.store(true, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![b'x'])
        });
        let mut read = Box::pin(bodies.read(Body::from_stream(frame), true));
        assert!((&mut read).now_or_never().is_none() && !taken.load(Ordering::Relaxed));
        drop(held);
        assert!((&mut read).now_or_never().unwrap().is_ok() && taken.load(Ordering::Relaxed));
    }
}
