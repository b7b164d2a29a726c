//! The conversation with Geth: connects, connects again, and tells what it hears.
//!
//! It never gives up, because Geth may take minutes to open its database, may be
//! restarted at any time, and forgets at each restart whatever it was told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use crate::geth::{Admin, CallError, CloseReason, ConnectError, Eth, NodeInfo, Peer, PeerEvent, PeerEvents};
use crate::metrics::GethCalls;

/// How long Geth may take to answer a call.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often the socket is tried while there is no connection: a local call that costs next to nothing, and half of this
/// is what a Geth that answers waits on average until it is noticed.
const RECONNECT: Duration = Duration::from_millis(25);
/// How long a Geth is left alone that does not answer on its connection.
const RETRY: Duration = Duration::from_millis(100);
/// How often Geth's peers are asked for though nothing happened: for clients
/// without peer events, and for whatever an event did not tell.
const RESYNC: Duration = Duration::from_secs(15);
/// How often they are asked for while a handshake is under way: Geth tells of a new
/// connection, but not that the `eth` handshake on it is through.
const HANDSHAKE_RESYNC: Duration = Duration::from_millis(50);
/// How long a handshake is followed so closely; `handshakeTimeout` is 5 s (eth/protocols/eth, v1.17.5).
const HANDSHAKES: u32 = 100;
/// For so many times as long as Geth took to name its peers it is not asked again: on a machine that many
/// nodes start on at once, asking must not take from Geth the time that its handshakes need.
const REST: u32 = 4;
/// The shortest such pause, in which what happens to several peers at once comes together, and the longest.
const RESTS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// Why Geth cannot be asked at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is no Geth behind the socket, or no socket: it starts, or was killed.
    Waiting,
    /// The socket belongs to another user, or can never be one.
    Denied,
    /// Geth accepts the connection and does not answer.
    Mute,
    /// Geth answers something that makes no sense.
    Strange,
}

impl Trouble {
    /// The word for it in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Denied => "denied",
            Self::Mute => "mute",
            Self::Strange => "strange",
        }
    }
}

/// What the conversation brings.
#[derive(Debug)]
pub enum GethEvent {
    /// Geth answers on a new connection.
    Connected {
        /// For telling it something.
        admin: Admin,
        /// What it says of itself.
        info: Box<NodeInfo>,
        /// Whether this Geth is known to have started since anybody told one anything.
        fresh: bool,
    },
    /// Whom Geth is connected to now.
    Peers(Vec<Peer>),
    /// Something happened to a connection.
    Peer(PeerEvent),
    /// Geth does not answer; `lost` if the connection is gone and with it all that Geth was told.
    Trouble {
        /// What kind of trouble.
        trouble: Trouble,
        /// It, in words that say what to do.
        reason: String,
        /// Whether the connection is gone.
        lost: bool,
    },
}

/// Talks to the Geth at `path` until nobody listens to `events`. `refresh` asks for its peers at once;
/// `calls` counts whatever Geth is asked.
pub async fn run(path: &Path, events: mpsc::Sender<GethEvent>, refresh: Arc<Notify>, calls: GethCalls) {
    let mut session = Session { events, refresh, fresh: false, told: None };
    while !session.events.is_closed() {
        match Admin::connect(path, DEADLINE).await {
            Ok(admin) => session.converse(admin.counting(calls.clone())).await,
            Err(error) => {
                // No Geth behind the socket now, so whichever comes has just started.
                session.fresh |= matches!(error, ConnectError::Missing(_) | ConnectError::Refused(_));
                session.trouble(trouble(&error), error.to_string(), true).await;
            }
        }
        sleep(RECONNECT).await;
    }
}

struct Session {
    events: mpsc::Sender<GethEvent>,
    refresh: Arc<Notify>,
    fresh: bool,
    /// The last that was told, if it was trouble.
    told: Option<(Trouble, String, bool)>,
}

impl Session {
    /// Follows one connection to its end.
    async fn converse(&mut self, admin: Admin) {
        let opened = async { Ok((admin.node_info().await?, subscribe(&admin).await?)) }.await;
        let (info, mut events) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.fresh |= matches!(&error, CallError::Closed(reason) if has_ended(reason));
                return self.trouble(of_call(&error), error.to_string(), true).await;
            }
        };
        let fresh = std::mem::take(&mut self.fresh);
        self.tell(GethEvent::Connected { admin: admin.clone(), info: Box::new(info), fresh }).await;

        let mut handshakes = 0;
        loop {
            // The look that begins here is as good as any that was asked for before.
            let _asked_for = self.refresh.notified().now_or_never();
            let asked = Instant::now();
            let answer = admin.peers().await;
            let rested = Instant::now() + rest(asked.elapsed());
            let pause = match answer {
                Ok(peers) => {
                    let shaking = peers.iter().any(|peer| peer.eth == Eth::Handshake);
                    handshakes = if shaking { handshakes + 1 } else { 0 };
                    self.tell(GethEvent::Peers(peers)).await;
                    if shaking && handshakes < HANDSHAKES { HANDSHAKE_RESYNC } else { RESYNC }
                }
                Err(CallError::Closed(_)) => Duration::ZERO,
                Err(error) => {
                    self.trouble(of_call(&error), error.to_string(), false).await;
                    RETRY
                }
            };
            let event = tokio::select! {
                reason = admin.closed() => {
                    self.fresh = has_ended(&reason);
                    return self.trouble(Trouble::Waiting, reason.to_string(), true).await;
                }
                event = next(&mut events) => event,
                () = self.refresh.notified() => None,
                () = sleep(pause) => None,
                () = self.events.closed() => return,
            };
            sleep_until(rested).await;
            // One look at the peers answers for all that has happened until then.
            for event in event.into_iter().chain(queued(&mut events)) {
                self.tell(GethEvent::Peer(event)).await;
            }
        }
    }

    /// Tells it once: a Geth that takes minutes to start is tried thousands of times.
    async fn trouble(&mut self, trouble: Trouble, reason: String, lost: bool) {
        let trouble = (trouble, reason, lost);
        if self.told.as_ref() == Some(&trouble) {
            return;
        }
        let told = trouble.clone();
        let (trouble, reason, lost) = trouble;
        self.tell(GethEvent::Trouble { trouble, reason, lost }).await;
        self.told = Some(told);
    }

    async fn tell(&mut self, event: GethEvent) {
        self.told = None;
        let _nobody_listens = self.events.send(event).await;
    }
}

/// How long Geth is left in peace that took so long to name its peers.
fn rest(took: Duration) -> Duration {
    let [shortest, longest] = RESTS;
    (took * REST).clamp(shortest, longest)
}

/// Subscribes to peer events; `None` from clients that have none.
async fn subscribe(admin: &Admin) -> Result<Option<PeerEvents>, CallError> {
    match admin.subscribe_peer_events().await {
        Ok(events) => Ok(Some(events)),
        Err(CallError::Rpc(error)) => {
            debug!(%error, "this client has no peer events; its peers are asked for every {} s", RESYNC.as_secs());
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The next peer event; never, if there are none. `None` when there will be no more.
async fn next(events: &mut Option<PeerEvents>) -> Option<PeerEvent> {
    let Some(stream) = events else { return std::future::pending().await };
    let event = stream.recv().await;
    if event.is_none() {
        *events = None;
    }
    event
}

/// The peer events that have arrived already.
fn queued(events: &mut Option<PeerEvents>) -> Vec<PeerEvent> {
    events.as_mut().map(PeerEvents::queued).unwrap_or_default()
}

/// Whether a connection that closed so means that Geth itself has ended.
fn has_ended(reason: &CloseReason) -> bool {
    matches!(reason, CloseReason::Eof | CloseReason::Io(_))
}

/// What a failed call means.
fn of_call(error: &CallError) -> Trouble {
    match error {
        CallError::Closed(_) => Trouble::Waiting,
        CallError::Timeout { .. } => Trouble::Mute,
        CallError::Rpc(_) | CallError::Decode { .. } => Trouble::Strange,
    }
}

/// What a failed connection means.
fn trouble(error: &ConnectError) -> Trouble {
    match error {
        ConnectError::Missing(_) | ConnectError::Refused(_) | ConnectError::Other { .. } => Trouble::Waiting,
        ConnectError::Denied { .. } | ConnectError::NotASocket(_) | ConnectError::PathTooLong(_) => Trouble::Denied,
        ConnectError::Timeout { .. } => Trouble::Mute,
    }
}
