//! One connection to Geth's socket: JSON-RPC 2.0, one message a line.
//!
//! A single task owns the socket and everything that is in flight; handles talk to
//! it through a channel. So a call that times out or is cancelled leaves nothing
//! half done: its line was queued whole or not at all, and its late answer finds
//! nobody waiting and is dropped. Many calls may be in flight, and Geth answers
//! them in any order.
//!
//! How bytes become messages is [`super::frames`]' part.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::error::{CallError, CloseReason, ConnectError, Facts, RpcError};
use super::frames::{Decoder, Message};

/// Bytes that may wait to be written before callers have to wait too: a Geth that
/// stops reading must not fill this process' memory.
const MAX_UNSENT: usize = 64 << 10;

/// Calls that may wait for the task to take them.
const MAX_QUEUED: usize = 64;

/// Notifications that may wait for their reader. A reader that looks at the state
/// after each of them misses nothing when more are dropped: the ones still queued
/// wake it later than the dropped ones happened.
const MAX_NOTIFICATIONS: usize = 256;

/// A handle on one connection to Geth; clones share it.
///
/// The connection ends when its last handle is dropped, when Geth closes it, or when
/// Geth sends something unreadable. It never comes back; connect anew.
#[derive(Debug, Clone)]
pub struct Connection {
    requests: mpsc::Sender<Request>,
    reason: Arc<OnceLock<CloseReason>>,
    deadline: Duration,
}

/// Notifications of one subscription, in Geth's order.
#[derive(Debug)]
pub struct Notifications(mpsc::Receiver<Value>);

impl Notifications {
    /// The next one; `None` once the connection is over. Cancel safe.
    pub async fn recv(&mut self) -> Option<Value> {
        self.0.recv().await
    }

    /// The next one that has arrived already, if any.
    pub fn try_recv(&mut self) -> Option<Value> {
        self.0.try_recv().ok()
    }
}

impl Connection {
    /// Connects to the socket at `path`. `deadline` bounds the connecting, and every
    /// call made on the connection unless it brings its own.
    ///
    /// # Errors
    /// [`ConnectError`], which tells apart what a user can do about it.
    pub async fn connect(path: &Path, deadline: Duration) -> Result<Self, ConnectError> {
        ConnectError::check(path)?;
        let socket = timeout(deadline, UnixStream::connect(path))
            .await
            .map_err(|_| ConnectError::Timeout { path: path.to_owned(), after: deadline })?
            .map_err(|error| ConnectError::new(path, error, Facts::of(path)))?;
        let (requests, queue) = mpsc::channel(MAX_QUEUED);
        let reason = Arc::new(OnceLock::new());
        // Not a leak: the task ends as soon as the last sender is gone.
        tokio::spawn(Actor::default().run(socket, queue, Arc::clone(&reason)));
        Ok(Self { requests, reason, deadline })
    }

    /// Calls `method` and waits for its result, as long as the connection's deadline allows.
    ///
    /// # Errors
    /// [`CallError`]; never [`CallError::Decode`], which is for callers.
    pub async fn call(&self, method: &'static str, params: Value) -> Result<Value, CallError> {
        self.call_within(method, params, self.deadline).await
    }

    /// Calls `method` with a deadline of its own, for what Geth itself takes long to do.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_within(
        &self,
        method: &'static str,
        params: Value,
        deadline: Duration,
    ) -> Result<Value, CallError> {
        self.ask(method, params, None, deadline).await
    }

    /// Subscribes by calling `method` (`<namespace>_subscribe`). No notification is
    /// missed between Geth's answer and the first [`Notifications::recv`].
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn subscribe(&self, method: &'static str, params: Value) -> Result<Notifications, CallError> {
        let (sender, receiver) = mpsc::channel(MAX_NOTIFICATIONS);
        self.ask(method, params, Some(sender), self.deadline).await?;
        Ok(Notifications(receiver))
    }

    /// Waits until the connection is over, and says why. Cancel safe.
    pub async fn closed(&self) -> CloseReason {
        self.requests.closed().await;
        self.reason()
    }

    async fn ask(
        &self,
        method: &'static str,
        params: Value,
        subscriber: Option<mpsc::Sender<Value>>,
        deadline: Duration,
    ) -> Result<Value, CallError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            let request = Request { method, params, subscriber, reply };
            // Both fail only once the task has ended, and it leaves its reason first.
            self.requests.send(request).await.map_err(|_| self.reason())?;
            Ok(answer.await.map_err(|_| self.reason())??)
        };
        timeout(deadline, exchange).await.unwrap_or(Err(CallError::Timeout { method, after: deadline }))
    }

    fn reason(&self) -> CloseReason {
        self.reason.get().cloned().unwrap_or(CloseReason::Dropped)
    }
}

/// A call on its way to the task.
#[derive(Debug)]
struct Request {
    method: &'static str,
    params: Value,
    /// Where notifications go if this call subscribes.
    subscriber: Option<mpsc::Sender<Value>>,
    reply: oneshot::Sender<Result<Value, RpcError>>,
}

/// A call that Geth has not answered yet.
#[derive(Debug)]
struct Pending {
    subscriber: Option<mpsc::Sender<Value>>,
    reply: oneshot::Sender<Result<Value, RpcError>>,
}

/// The task's state, apart from the socket.
#[derive(Debug, Default)]
struct Actor {
    last_id: u64,
    pending: HashMap<u64, Pending>,
    /// By the subscription ID, which is a text or a number, as the client likes.
    subscribers: HashMap<String, mpsc::Sender<Value>>,
    unsent: Vec<u8>,
    received: Decoder,
}

impl Actor {
    async fn run(
        mut self,
        mut socket: UnixStream,
        mut queue: mpsc::Receiver<Request>,
        reason: Arc<OnceLock<CloseReason>>,
    ) {
        let (mut reader, mut writer) = socket.split();
        let ended = loop {
            // Every branch is cancel safe: a branch that loses has done nothing.
            tokio::select! {
                read = reader.read_buf(self.received.space()) => match read {
                    Ok(0) => break CloseReason::Eof,
                    Ok(_) => if let Err(reason) = self.take_all() { break reason },
                    Err(error) => break CloseReason::Io(Arc::new(error)),
                },
                written = writer.write(&self.unsent), if !self.unsent.is_empty() => match written {
                    Ok(bytes) => drop(self.unsent.drain(..bytes)),
                    Err(error) => break CloseReason::Io(Arc::new(error)),
                },
                request = queue.recv(), if self.unsent.len() < MAX_UNSENT => match request {
                    Some(request) => self.queue(request),
                    None => break CloseReason::Dropped,
                },
            }
        };
        // Before the channels close, so that whoever sees them close finds the reason.
        drop(reason.set(ended));
    }

    /// Turns a request into a line to be written.
    fn queue(&mut self, request: Request) {
        let Request { method, params, subscriber, reply } = request;
        // Callers that gave up are forgotten here, so a mute Geth cannot pile them up.
        self.pending.retain(|_, pending| !pending.reply.is_closed());
        if reply.is_closed() {
            return;
        }
        self.last_id += 1;
        let line = json!({ "jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params });
        self.unsent.extend_from_slice(line.to_string().as_bytes());
        self.unsent.push(b'\n');
        self.pending.insert(self.last_id, Pending { subscriber, reply });
    }

    fn take_all(&mut self) -> Result<(), CloseReason> {
        while let Some(message) = self.received.next_message()? {
            self.take(message);
        }
        Ok(())
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Notification { subscription, result } => {
                if let Some(subscriber) = self.subscribers.get(&subscription)
                    && let Err(mpsc::error::TrySendError::Closed(_)) = subscriber.try_send(result)
                {
                    self.subscribers.remove(&subscription);
                }
            }
            Message::Answer { id, outcome } => {
                // An unknown ID is an answer that came after its caller had gone.
                let Some(Pending { subscriber, reply }) = id.and_then(|id| self.pending.remove(&id)) else {
                    return;
                };
                if let (Some(subscriber), Ok(subscription)) = (subscriber, &outcome) {
                    // Before the next line is looked at: it may be the first notification.
                    self.subscribers.insert(subscription.to_string(), subscriber);
                }
                // Fails only when the caller has gone, which is its right.
                drop(reply.send(outcome));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_calls_that_were_given_up_forgotten() {
        let mut actor = Actor::default();
        let mut call = || {
            let (reply, answer) = oneshot::channel();
            actor.queue(Request { method: "admin_peers", params: json!([]), subscriber: None, reply });
            (answer, actor.pending.len())
        };
        let (kept, _) = call();
        for _ in 0..100 {
            let (_given_up, pending) = call();
            assert!(pending <= 2);
        }
        drop(kept);
    }
}
