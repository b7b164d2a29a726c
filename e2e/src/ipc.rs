//! A Geth's socket, that of a pod or of a fake: JSON-RPC by hand, so that nothing between hides how Geth answers.

use crate::cluster::Namespace;
use crate::node;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::Child;

/// Where a Geth's socket is.
#[derive(Clone, Debug)]
pub enum Socket {
    /// In a container of a pod.
    Pod {
        /// The pod.
        pod: String,
        /// The path inside the container called `geth`.
        path: String,
    },
    /// Here.
    Here(PathBuf),
}

impl Socket {
    /// What the system says to whoever wants to connect; nothing if somebody accepts.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn refusal(&self, namespace: &Namespace) -> Result<String> {
        const TRY: &str = r#"use IO::Socket::UNIX; print "$!" unless IO::Socket::UNIX->new(Peer => $ARGV[0])"#;
        match self {
            Self::Pod { pod, path } => {
                node::beside(namespace, pod, "geth", &format!("perl -e '{TRY}' /proc/$pid/root{path}")).await
            }
            Self::Here(path) => Ok(match UnixStream::connect(path).await {
                Ok(_) => String::new(),
                // Without the number that Rust puts behind it.
                Err(error) => error.to_string().split(" (os error").next().unwrap_or_default().into(),
            }),
        }
    }
}

/// A connection to a Geth.
pub struct Ipc {
    lines: Lines<BufReader<Box<dyn AsyncRead + Unpin>>>,
    writer: Box<dyn AsyncWrite + Unpin>,
    last_id: u64,
    events: Vec<Value>,
    /// Ends the connection when dropped.
    _relay: Option<Child>,
}

impl Ipc {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(namespace: &Namespace, socket: &Socket) -> Result<Self> {
        let (reader, writer, relay): (Box<dyn AsyncRead + Unpin>, Box<dyn AsyncWrite + Unpin>, _) = match socket {
            Socket::Pod { pod, path } => {
                let mut relay = node::relay(namespace, pod, "geth", path).await?;
                let (reader, writer) = (relay.stdout.take().context("stdout")?, relay.stdin.take().context("stdin")?);
                (Box::new(reader), Box::new(writer), Some(relay))
            }
            Socket::Here(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                (Box::new(reader), Box::new(writer), None)
            }
        };
        let lines = BufReader::new(reader).lines();
        let mut ipc = Self { lines, writer, last_id: 0, events: Vec::new(), _relay: relay };
        ipc.call("rpc_modules", json!([])).await?;
        Ok(ipc)
    }

    /// Calls a method and returns `{"result": ...}` or `{"error": ...}`.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let mut answer = self.raw(&request.to_string()).await?;
        let object = answer.as_object_mut().context("an answer that is no object")?;
        if object.remove("id") != Some(id.into()) || object.remove("jsonrpc") != Some("2.0".into()) {
            bail!("an answer to something else: {answer}");
        }
        Ok(answer)
    }

    /// As [`Ipc::call`], of what is known to succeed.
    ///
    /// # Errors
    /// When it does not.
    pub async fn result(&mut self, method: &str, params: Value) -> Result<Value> {
        let mut answer = self.call(method, params).await?;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => bail!("{method}: {answer}"),
        }
    }

    /// Sends a line and returns the next answer, as it is.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn raw(&mut self, line: &str) -> Result<Value> {
        self.writer.write_all(format!("{line}\n").as_bytes()).await?;
        self.writer.flush().await?;
        loop {
            let line = self.lines.next_line().await?.context("the connection has ended")?;
            let message: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            if message["method"] == "admin_subscription" {
                self.events.push(message["params"]["result"].clone());
            } else {
                return Ok(message);
            }
        }
    }

    /// Whether the other side has closed the connection.
    pub async fn has_ended(&mut self) -> bool {
        matches!(self.lines.next_line().await, Ok(None) | Err(_))
    }

    /// The events of subscriptions so far; a call before this one brings those in that have happened.
    pub fn events(&self) -> &[Value] {
        &self.events
    }
}
