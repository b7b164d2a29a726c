//! What can go wrong between the sidecar and Geth's socket, each with the sentence
//! that tells a user what to do.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::config::MAX_SOCKET_PATH;

/// Why there is no connection to Geth.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// ENOENT: nothing is at the path. Normal until Geth has opened its database.
    #[error(
        "no socket at {0} yet: Geth is still starting, or it writes its socket elsewhere (--ipcpath) or nowhere (--ipcdisable)"
    )]
    Missing(PathBuf),
    /// ECONNREFUSED on a socket: Geth was killed and left it behind. Geth removes it
    /// at its next start (`rpc/ipc_unix.go`).
    #[error("the socket {0} has no Geth behind it: Geth was killed and has not opened a new one yet")]
    Refused(PathBuf),
    /// ECONNREFUSED on anything that is no socket.
    #[error("{0} is not a socket: let IPC_PATH name the file that Geth's --ipcpath names")]
    NotASocket(PathBuf),
    /// EACCES: Geth's socket has mode 0600 (`rpc/ipc_unix.go`), so only Geth's own
    /// user and root can connect. No group right can change that.
    #[error(
        "user {} may not open {path}, which belongs to user {}: let the sidecar run as the same user as Geth (annotation geth-peering/run-as-user)",
        name(*own), name(*owner)
    )]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The user ID this process runs as, where it can be told.
        own: Option<u32>,
        /// The user ID that owns the socket, where it can be told.
        owner: Option<u32>,
    },
    /// The path is longer than any unix socket's can be; see [`MAX_SOCKET_PATH`].
    #[error(
        "the socket path has {0} bytes, and no unix socket's may have more than {MAX_SOCKET_PATH}: shorten --ipcpath"
    )]
    PathTooLong(usize),
    /// The socket exists, but nothing accepted the connection in time.
    #[error("Geth did not accept a connection on {path} within {} s: it is overloaded or stopped", after.as_secs_f32())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The deadline that passed.
        after: Duration,
    },
    /// Anything else the operating system said.
    #[error("cannot connect to {path}: {source}")]
    Other {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A user ID as a message names it.
fn name(user: Option<u32>) -> String {
    user.map_or_else(|| "(unknown)".to_owned(), |id| id.to_string())
}

/// What the file system says of the path, gathered for [`ConnectError::new`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    /// Whether there is a socket at the path; `None` where that cannot be told.
    pub(super) socket: Option<bool>,
    /// Who owns it.
    pub(super) owner: Option<u32>,
    /// Who we are.
    pub(super) own: Option<u32>,
}

impl Facts {
    /// Asks the file system; it answers from memory, so this may be called in async code.
    pub(super) fn of(path: &Path) -> Self {
        let there = fs::metadata(path).ok();
        Self {
            socket: there.as_ref().map(|file| file.file_type().is_socket()),
            owner: there.map(|file| file.uid()),
            // The owner of /proc/self is the effective user (proc(5)).
            own: fs::metadata("/proc/self").ok().map(|file| file.uid()),
        }
    }
}

impl ConnectError {
    /// Refuses a path that no unix socket can have.
    pub(super) fn check(path: &Path) -> Result<(), Self> {
        match path.as_os_str().as_bytes().len() {
            length if length > MAX_SOCKET_PATH => Err(Self::PathTooLong(length)),
            _ => Ok(()),
        }
    }

    /// Names the case that `source` stands for. Pure: the file system's part is in `facts`.
    pub(super) fn new(path: &Path, source: io::Error, facts: Facts) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path),
            // Linux refuses a connection to a plain file in the same words as one
            // to a socket without a listener.
            io::ErrorKind::ConnectionRefused if facts.socket == Some(false) => Self::NotASocket(path),
            io::ErrorKind::ConnectionRefused => Self::Refused(path),
            io::ErrorKind::PermissionDenied => Self::Denied { path, own: facts.own, owner: facts.owner },
            _ => Self::Other { path, source },
        }
    }
}

/// Why a connection that once worked is over. All of them mean: connect anew, and
/// expect that Geth has forgotten every peer.
#[derive(Debug, Clone, Error)]
pub enum CloseReason {
    /// Geth closed it: it is stopping, or was killed.
    #[error("Geth closed the connection: it is stopping or restarting")]
    Eof,
    /// Reading or writing failed.
    #[error("the connection to Geth broke: {0}")]
    Io(Arc<io::Error>),
    /// A line longer than [`super::frames::MAX_LINE`] bytes.
    #[error("Geth sent more than {} MiB in one line: is it really Geth that listens on this socket?", super::frames::MAX_LINE >> 20)]
    TooLong,
    /// A line that is no JSON-RPC message.
    #[error("what listens on the socket does not speak JSON-RPC: is it really Geth?")]
    Garbage,
    /// This side has dropped it.
    #[error("the connection to Geth was given up")]
    Dropped,
}

/// An error that Geth answered, as JSON-RPC 2.0 §5.1 has it.
#[derive(Debug, Clone, PartialEq, Eq, Error, Deserialize)]
#[error("Geth answered: {message} (code {code})")]
pub struct RpcError {
    /// The code. Geth's own errors are -32000; below that, JSON-RPC's (`rpc/errors.go`).
    #[serde(default)]
    pub code: i64,
    /// The words.
    #[serde(default)]
    pub message: String,
}

/// Why a call has no result.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// Geth answered with an error.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// No answer in time. Whether Geth has done or will yet do what it was asked is
    /// unknown; an answer that comes later is dropped.
    #[error("Geth did not answer {method} within {} s", after.as_secs_f32())]
    Timeout {
        /// The method called.
        method: &'static str,
        /// The deadline that passed.
        after: Duration,
    },
    /// The connection is over, and this call's fate unknown.
    #[error(transparent)]
    Closed(#[from] CloseReason),
    /// The answer lacks what every version of Geth says.
    #[error("cannot make sense of Geth's answer to {method}: {what}")]
    Decode {
        /// The method called.
        method: &'static str,
        /// What is missing or malformed.
        what: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: io::ErrorKind, facts: Facts) -> ConnectError {
        ConnectError::new(Path::new("/run/geth.ipc"), kind.into(), facts)
    }

    #[test]
    fn is_every_way_to_have_no_connection_told_apart() {
        let socket = Facts { socket: Some(true), ..Facts::default() };
        let file = Facts { socket: Some(false), ..Facts::default() };
        assert!(matches!(told(io::ErrorKind::NotFound, Facts::default()), ConnectError::Missing(_)));
        assert!(matches!(told(io::ErrorKind::ConnectionRefused, socket), ConnectError::Refused(_)));
        assert!(matches!(told(io::ErrorKind::ConnectionRefused, file), ConnectError::NotASocket(_)));
        assert!(matches!(told(io::ErrorKind::PermissionDenied, socket), ConnectError::Denied { .. }));
        assert!(matches!(told(io::ErrorKind::WouldBlock, socket), ConnectError::Other { .. }));
    }

    #[test]
    fn does_a_wrong_user_learn_both_users_and_the_annotation() {
        let facts = Facts { socket: Some(true), owner: Some(1000), own: Some(65532) };
        let message = told(io::ErrorKind::PermissionDenied, facts).to_string();
        for part in ["65532", "1000", "geth-peering/run-as-user"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn is_a_path_too_long_for_any_socket_refused_at_the_first_byte_too_many() {
        assert!(ConnectError::check(Path::new(&"a".repeat(107))).is_ok());
        let refused = ConnectError::check(Path::new(&"a".repeat(108)));
        assert!(matches!(refused, Err(ConnectError::PathTooLong(108))));
    }
}
