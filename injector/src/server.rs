//! Listening and serving connections: TLS for the API server's requests, plain HTTP for probes and metrics.
//!
//! What a client can hold is bounded: the size of a request ([`bodies`](crate::bodies)), the time for each
//! ([`routes`](crate::routes)), the age of a connection, and their number ([`connections`](crate::connections)).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bodies::Beside;
use crate::connections::{Connections, Requests};
use crate::metrics::Metrics;

/// How long a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long an HTTP/1.1 client may idle and then take to send the head of a request; hyper does not tell these apart. Longer
/// than the 90 s for which API servers keep what they do not use (`IdleConnTimeout` of Go's `http.DefaultTransport`): whoever
/// closes a connection in the moment in which a client begins a request on it makes that fail, for Go repeats no POST.
const HEAD_DEADLINE: Duration = Duration::from_secs(120);
/// How often an idle HTTP/2 client is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const PING_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may last before its client is told to open another.
const MAX_AGE: Duration = Duration::from_secs(600);
/// How long requests that are under way may take to end once their client was told to go; longer than
/// [`REQUEST_DEADLINE`](crate::routes).
const GRACE: Duration = Duration::from_secs(10);
/// How long a connection waits for one more request to end with when the process stops.
///
/// A client that is told to go while its connection is idle closes it at once, and may have begun a request on it in that
/// moment, which then fails (Go's HTTP/2 client: "use of closed network connection"). While a request is under way, the
/// client finishes it and sends the next one elsewhere.
const LAST_REQUEST: Duration = Duration::from_secs(5);
/// The same for a connection that is too old, which nothing hurries: longer than the 90 s after which an API server closes
/// by itself what it does not use (see [`HEAD_DEADLINE`]).
const LAST_REQUEST_OF_OLD: Duration = Duration::from_secs(100);
/// How much of an HTTP/1.1 connection is kept that nobody has taken up yet, bytes; so much may the head of a request have.
const BUFFER: usize = 16 * 1024;
/// The same of an HTTP/2 connection: the least that there is (RFC 9113, 6.9.2).
const WINDOW: u32 = 65_535;
/// How many requests may be under way on an HTTP/2 connection: the least that clients count on before they are told
/// (RFC 9113, 6.5.2).
const STREAMS: u32 = 100;
/// So much of a TLS connection is read at once, bytes: an ordinary review with its head. Rustls by itself asks for 4096
/// (msgs/deframer/buffers.rs), so twice for each.
const READ: usize = 8 * 1024;
/// How many connections may be open on one port. API servers speak HTTP/1.1 to webhooks
/// (apiserver `pkg/util/webhook/client.go`), so each review under way takes one: up to 600 of an API server
/// (`--max-requests-inflight` 400 and `--max-mutating-requests-inflight` 200).
const MAX_CONNECTIONS: usize = 2048;
/// How long accepting rests after a failure, which mostly is a want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port that is taken, so that a port in use is an error at start and not a silent absence.
pub struct Bound {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    ages: Ages,
    max_connections: usize,
    metrics: Arc<Metrics>,
}

/// When connections end.
#[derive(Debug, Clone, Copy)]
struct Ages {
    /// So old one may become.
    most: Duration,
    /// So long one that is as old waits for a request to end with.
    last_request: Duration,
}

impl Bound {
    /// Listens on `port` of every address; with `tls`, only TLS is spoken. `metrics` count the connections that find no room.
    ///
    /// # Errors
    /// If the port cannot be had.
    pub async fn bind(
        port: u16,
        tls: Option<Arc<rustls::ServerConfig>>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        // The first takes IPv4 as well, but is not to be had where the kernel knows no IPv6.
        let both = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
        let listener = TcpListener::bind(&both[..]).await.with_context(|| format!("cannot listen on port {port}"))?;
        let tls = tls.map(TlsAcceptor::from);
        let ages = Ages { most: MAX_AGE, last_request: LAST_REQUEST_OF_OLD };
        Ok(Self { listener, tls, ages, max_connections: MAX_CONNECTIONS, metrics })
    }

    /// Ends connections that are older than `most` with the next request on them, or after `last_request` without one;
    /// 10 minutes and 100 s unless told otherwise.
    pub fn with_ages(self, most: Duration, last_request: Duration) -> Self {
        Self { ages: Ages { most, last_request }, ..self }
    }

    /// Lets no more than `most` connections be open; 2,048 unless told otherwise.
    pub fn with_connections(self, most: usize) -> Self {
        Self { max_connections: most, ..self }
    }

    /// The address that was taken.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves `router` until `stop`; then tells every client to go (HTTP/2: GOAWAY, HTTP/1.1: Connection: close), and
    /// gives requests that are under way up to `drain` to finish.
    pub async fn serve(self, router: Router, stop: CancellationToken, drain: Duration) {
        let Self { listener, tls, ages, max_connections, metrics } = self;
        let (connections, served) = (Connections::new(max_connections), TaskTracker::new());
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, source)) => {
                        let Some(place) = connections.take(source.ip()) else {
                            metrics.turned_away();
                            continue;
                        };
                        let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
                        let metrics = metrics.clone();
                        served.spawn(async move {
                            tokio::select! {
                                () = connection(stream, tls, router, place.requests(), ages, stop) => {}
                                () = place.given_up() => metrics.given_up(),
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = accepting => {}
        }
        drop(listener);
        served.close();
        if tokio::time::timeout(drain, served.wait()).await.is_err() {
            tracing::warn!("requests are still under way after {} s; leaving them", drain.as_secs());
        }
    }
}

/// How a connection that has to end waits for its last request.
#[derive(Debug, Default)]
struct Leave {
    is_due: AtomicBool,
    asked: Notify,
}

impl Leave {
    /// Waits for a request, up to `patience`.
    async fn last_request(&self, patience: Duration) {
        self.is_due.store(true, Ordering::Relaxed);
        let _either_is_the_end = tokio::time::timeout(patience, self.asked.notified()).await;
    }

    /// A request has come. Lets who waits for it act first: most are answered without a pause, and the client of one that
    /// was answered is idle again.
    async fn asked(&self) {
        if self.is_due.load(Ordering::Relaxed) {
            self.asked.notify_waiters();
            tokio::task::yield_now().await;
        }
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    requests: Requests,
    ages: Ages,
    stop: CancellationToken,
) {
    // Answers are small and wanted at once.
    let _best_effort = stream.set_nodelay(true);
    let leave = Arc::new(Leave::default());
    let end = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(ages.most) => {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = leave.last_request(ages.last_request) => return,
                }
            }
        }
        leave.last_request(LAST_REQUEST).await;
    };
    let Some(tls) = tls else { return http(stream, false, router, requests, &leave, end).await };
    let stream = BufReader::with_capacity(READ, stream);
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        // Nothing was asked yet, so nobody is owed an answer.
        () = stop.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            http(stream, is_http2, router, requests, &leave, end).await;
        }
        // Port scanners and probes of load balancers do this all day.
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

/// Serves one connection until `end`, and then what is under way on it. The protocol is settled beforehand: finding out by
/// looking at the first bytes has no deadline.
async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    http2: bool,
    router: Router,
    requests: Requests,
    leave: &Arc<Leave>,
    end: impl Future<Output = ()>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_buf_size(BUFFER);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_DEADLINE);
    builder.http2().initial_connection_window_size(WINDOW).initial_stream_window_size(WINDOW);
    builder.http2().max_concurrent_streams(STREAMS);
    let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    let left = leave.clone();
    let router = router.layer(middleware::from_fn(move |mut request: Request, next: Next| {
        let (left, requests) = (left.clone(), requests.clone());
        async move {
            let under_way = requests.begin();
            if under_way.is_beside {
                request.extensions_mut().insert(Beside);
            }
            left.asked().await;
            next.run(request).await
        }
    }));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        // In this order, so that the client is told to go before the last request is answered.
        biased;
        () = end => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await
        }
        ended = connection.as_mut() => Ok(ended),
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection ended"),
        Err(_) => tracing::debug!("a client did not let go of its connection in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::get;

    #[tokio::test]
    async fn is_a_request_beside_others_on_its_connection_known_as_such() {
        let (arrived, waits) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let wait = {
            let (arrived, waits) = (arrived.clone(), waits.clone());
            get(async move || {
                arrived.notify_one();
                waits.notified().await;
            })
        };
        let beside = get(async |request: Request| match request.extensions().get() {
            Some(Beside) => "beside",
            None => "alone",
        });
        let router = Router::new().route("/wait", wait).route("/", beside);
        let (client, server) = tokio::io::duplex(64 * 1024);
        let requests = Connections::new(1).take(Ipv4Addr::LOCALHOST.into()).unwrap().requests();
        tokio::spawn(async move {
            http(server, true, router, requests, &Arc::default(), std::future::pending()).await;
        });
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client)).await.unwrap();
        tokio::spawn(connection);
        let ask = async |path| {
            let request = Request::get(format!("http://injector{path}")).body(Body::empty()).unwrap();
            let answer = client.clone().send_request(request).await.unwrap();
            axum::body::to_bytes(Body::new(answer.into_body()), 100).await.unwrap()
        };

        assert_eq!(ask("/").await, "alone");
        let other = async {
            arrived.notified().await;
            assert_eq!(ask("/").await, "beside");
            waits.notify_one();
        };
        tokio::join!(ask("/wait"), other);
        assert_eq!(ask("/").await, "alone");
    }
}
