//! The conversation with Geth: connects, connects again, and tells what it hears.
//!
//! It never gives up, because Geth may take minutes to open its database, may be
//! restarted at any time, and forgets at each restart whatever it was told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tracing::debug;

use crate::geth::{Admin, CallError, CloseReason, ConnectError, Eth, NodeInfo, Peer, PeerEvents};

/// How long Geth may take to answer a call.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often the socket is tried while there is no connection: a local call that costs next to nothing.
const RECONNECT: Duration = Duration::from_millis(100);
/// How often Geth's peers are asked for though nothing happened: for clients
/// without peer events, and for whatever an event did not tell.
const RESYNC: Duration = Duration::from_secs(15);
/// How often they are asked for while a handshake is under way: Geth tells of a new
/// connection, but not that the `eth` handshake on it is through.
const HANDSHAKE_RESYNC: Duration = Duration::from_millis(50);
/// How long a handshake is followed so closely; `handshakeTimeout` is 5 s (eth/protocols/eth, v1.17.5).
const HANDSHAKES: u32 = 100;

/// Why Geth cannot be asked at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is no Geth behind the socket, or no socket: it starts, or was killed.
    Waiting,
    /// The socket belongs to another user, or can never be one.
    Denied,
    /// Geth accepts the connection and does not answer.
    Mute,
}

impl Trouble {
    /// The word for it in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Denied => "denied",
            Self::Mute => "mute",
        }
    }
}

/// What the conversation brings.
#[derive(Debug)]
pub enum News {
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

/// Talks to the Geth at `path` until nobody listens to `news`. `refresh` asks for its peers at once.
pub async fn run(path: &Path, news: mpsc::Sender<News>, refresh: Arc<Notify>) {
    let mut session = Session { news, refresh, fresh: false };
    while !session.news.is_closed() {
        match Admin::connect(path, DEADLINE).await {
            Ok(admin) => session.converse(admin).await,
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
    news: mpsc::Sender<News>,
    refresh: Arc<Notify>,
    fresh: bool,
}

impl Session {
    /// Follows one connection to its end.
    async fn converse(&mut self, admin: Admin) {
        let opened = async { Ok((admin.node_info().await?, subscribe(&admin).await?)) }.await;
        let (info, mut events) = match opened {
            Ok(opened) => opened,
            Err(error @ CallError::Closed(_)) => {
                self.fresh = true;
                return self.trouble(Trouble::Waiting, error.to_string(), true).await;
            }
            Err(error) => return self.trouble(Trouble::Mute, error.to_string(), true).await,
        };
        let fresh = std::mem::take(&mut self.fresh);
        self.tell(News::Connected { admin: admin.clone(), info: Box::new(info), fresh }).await;

        let mut handshakes = 0;
        loop {
            let pause = match admin.peers().await {
                Ok(peers) => {
                    let shaking = peers.iter().any(|peer| peer.eth == Eth::Handshake);
                    handshakes = if shaking { handshakes + 1 } else { 0 };
                    self.tell(News::Peers(peers)).await;
                    if shaking && handshakes < HANDSHAKES { HANDSHAKE_RESYNC } else { RESYNC }
                }
                Err(CallError::Closed(_)) => Duration::ZERO,
                Err(error) => {
                    self.trouble(Trouble::Mute, error.to_string(), false).await;
                    RECONNECT
                }
            };
            tokio::select! {
                reason = admin.closed() => {
                    self.fresh = matches!(reason, CloseReason::Eof | CloseReason::Io(_));
                    return self.trouble(Trouble::Waiting, reason.to_string(), true).await;
                }
                () = next(&mut events) => {}
                () = self.refresh.notified() => {}
                () = sleep(pause) => {}
                () = self.news.closed() => return,
            }
        }
    }

    async fn trouble(&self, trouble: Trouble, reason: String, lost: bool) {
        self.tell(News::Trouble { trouble, reason, lost }).await;
    }

    async fn tell(&self, news: News) {
        let _nobody_listens = self.news.send(news).await;
    }
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

/// The next peer event; never, if there are none.
async fn next(events: &mut Option<PeerEvents>) {
    let ended = match events {
        Some(stream) => stream.recv().await.is_none(),
        None => return std::future::pending().await,
    };
    if ended {
        *events = None;
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
