//! Reading request bodies: none larger than a review can be, and only a few large ones at once.
//!
//! A body of ordinary size is read as it comes. Of any other only so much is, until it has one of [`LARGE_AT_ONCE`] turns:
//! so what arrives at one time on many connections cannot take the memory that all share. It is what has arrived that
//! counts and not what was announced, so who announces much and sends nothing keeps nobody waiting.

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
/// What is read without a turn: ten times as much as the review of an ordinary pod has.
const ORDINARY: usize = 64 * 1024;
/// How many bodies beyond [`ORDINARY`] are in memory at once: with [`MAX_BODY`] each, a quarter of the chart's memory limit.
const LARGE_AT_ONCE: usize = 16;

/// The turns of large bodies.
#[derive(Debug, Clone)]
pub(crate) struct Bodies(Arc<Semaphore>);

/// A body that was read. A large one keeps its turn until this is dropped.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Vec<u8>,
    _turn: Option<OwnedSemaphorePermit>,
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
        Self(Arc::new(Semaphore::new(LARGE_AT_ONCE)))
    }

    /// Reads `body` to its end.
    pub(crate) async fn read(&self, body: Body) -> Result<Read, Unread> {
        if body.size_hint().lower() > MAX_BODY as u64 {
            return Err(Unread::TooLarge);
        }
        let mut frames = body.into_data_stream();
        let mut read = Read { bytes: Vec::new(), _turn: None };
        while let Some(frame) = frames.next().await {
            let frame = frame.map_err(Unread::Broken)?;
            let length = read.bytes.len() + frame.len();
            if length > MAX_BODY {
                return Err(Unread::TooLarge);
            }
            if length > ORDINARY && read._turn.is_none() {
                // Never closed.
                read._turn = self.0.clone().acquire_owned().await.ok();
            }
            read.bytes.extend_from_slice(&frame);
        }
        Ok(read)
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
            let unread = bodies.read(body).await.unwrap_err();
            assert_eq!(unread.into_response().status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
        for body in [Body::from(vec![b' '; MAX_BODY]), chunked(1024, MAX_BODY)] {
            assert_eq!(bodies.read(body).await.unwrap().bytes.len(), MAX_BODY);
        }
        let broken = stream::iter([Ok(vec![b'x']), Err(std::io::Error::other("reset"))]);
        let unread = bodies.read(Body::from_stream(broken)).await.unwrap_err();
        assert!(unread.to_string().contains("reset"), "{unread}");
        assert_eq!(unread.into_response().status(), StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn are_only_a_few_large_bodies_in_memory_at_once_and_never_an_ordinary_one_kept_waiting() {
        let bodies = Bodies::new();
        let mut held = Vec::new();
        for _ in 0..LARGE_AT_ONCE {
            held.push(bodies.read(Body::from(vec![b'x'; ORDINARY + 1])).now_or_never().unwrap().unwrap());
        }
        let mut next = Box::pin(bodies.read(Body::from(vec![b'x'; ORDINARY + 1])));
        assert!((&mut next).now_or_never().is_none(), "one too many");
        assert!(bodies.read(Body::from(vec![b'x'; ORDINARY])).now_or_never().unwrap().is_ok());
        held.pop();
        assert!((&mut next).now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn does_who_sends_little_of_much_keep_nobody_waiting() {
        let bodies = Bodies::new();
        let mut slow: Vec<_> = (0..100).map(|_| Box::pin(bodies.read(stalled(ORDINARY)))).collect();
        assert!(slow.iter_mut().all(|body| body.now_or_never().is_none()));
        assert!(bodies.read(Body::from(vec![b'x'; MAX_BODY])).now_or_never().unwrap().is_ok());
        // What was given up leaves its turn.
        let mut large: Vec<_> = (0..100).map(|_| Box::pin(bodies.read(stalled(ORDINARY + 1)))).collect();
        assert!(large.iter_mut().all(|body| body.now_or_never().is_none()));
        drop(large);
        assert!(bodies.read(Body::from(vec![b'x'; MAX_BODY])).now_or_never().unwrap().is_ok());
    }
}
