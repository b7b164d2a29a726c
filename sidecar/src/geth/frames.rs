//! From bytes to messages: JSON-RPC 2.0 as Geth speaks it on its socket, one message
//! a line. Pure: knows neither the socket nor who waits for what.
//!
//! Geth ends every message with a newline and puts none inside (`rpc/json.go`,
//! v1.17.5), and so does reth.

use serde::Deserialize;
use serde_json::Value;

use super::error::{CloseReason, RpcError};

/// Longest line accepted, in bytes. Geth's largest answer here is `admin_peers`,
/// about 1.5 KB a peer; this is thousands of peers, and still bounded.
pub const MAX_LINE: usize = 16 << 20;

/// What is read at a time, at least, in bytes.
const CHUNK: usize = 4 << 10;

/// Memory that is kept from one message to the next, in bytes: the usual answer fits,
/// and a huge one does not stay in memory for good.
const KEPT: usize = 64 << 10;

/// A message from Geth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The answer to a call.
    Answer {
        /// The call's ID; `None` if it is none that this program gives.
        id: Option<u64>,
        /// What came of the call.
        outcome: Result<Value, RpcError>,
    },
    /// Something that happened, told to a subscriber.
    Notification {
        /// The subscription's ID as JSON: it is a text or a number, as the client likes.
        subscription: String,
        /// What happened.
        result: Value,
    },
}

/// Cuts a stream of bytes into messages, however the bytes come in.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the first line begins that was not handed out yet.
    start: usize,
    /// Up to where that line is known to hold no newline.
    searched: usize,
    max_line: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(MAX_LINE)
    }
}

impl Decoder {
    /// A decoder that accepts lines of up to `max_line` bytes.
    pub fn new(max_line: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, searched: 0, max_line }
    }

    /// What was received and not understood yet, with room behind it: append what is read.
    /// Call [`Decoder::next_message`] until it has nothing more before reading on, and this
    /// holds never more than one line and what was read last.
    pub fn space(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(KEPT);
        }
        self.buffer.reserve(CHUNK);
        &mut self.buffer
    }

    /// The next message; `None` until more was read.
    ///
    /// # Errors
    /// [`CloseReason::TooLong`] or [`CloseReason::Garbage`], after which nothing that
    /// follows can be trusted.
    pub fn next_message(&mut self) -> Result<Option<Message>, CloseReason> {
        let newline = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
        let end = newline.map_or(self.buffer.len(), |at| self.searched + at);
        if end - self.start > self.max_line {
            return Err(CloseReason::TooLong);
        }
        self.searched = end;
        if newline.is_none() {
            return Ok(None);
        }
        let message = message(&self.buffer[self.start..end])?;
        self.start = end + 1;
        self.searched = self.start;
        Ok(Some(message))
    }
}

/// A line, as far as anything here reads it.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    result: Value,
    error: Option<RpcError>,
    params: Option<Params>,
}

#[derive(Deserialize)]
struct Params {
    subscription: Value,
    #[serde(default)]
    result: Value,
}

fn message(line: &[u8]) -> Result<Message, CloseReason> {
    let line: Line = serde_json::from_slice(line).map_err(|_| CloseReason::Garbage)?;
    Ok(match line {
        Line { params: Some(Params { subscription, result }), .. } => {
            Message::Notification { subscription: subscription.to_string(), result }
        }
        Line { id, result, error, params: None } => {
            Message::Answer { id: id.as_u64(), outcome: error.map_or(Ok(result), Err) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when `parts` are read one after the other.
    fn read(parts: &[&[u8]]) -> Vec<Message> {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for part in parts {
            decoder.space().extend_from_slice(part);
            while let Some(message) = decoder.next_message().unwrap() {
                out.push(message);
            }
        }
        out
    }

    #[test]
    fn do_messages_come_out_whole_however_they_are_cut() {
        let whole: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":[true]}
{"jsonrpc":"2.0","method":"admin_subscription","params":{"subscription":"0x7","result":{"type":"add"}}}
{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"no such method"}}
{"jsonrpc":"2.0","id":3,"#;
        let expected = [
            Message::Answer { id: Some(1), outcome: Ok(serde_json::json!([true])) },
            Message::Notification { subscription: "\"0x7\"".into(), result: serde_json::json!({"type": "add"}) },
            Message::Answer { id: Some(2), outcome: Err(RpcError { code: -32601, message: "no such method".into() }) },
        ];
        for cut in 0..whole.len() {
            assert_eq!(read(&[&whole[..cut], b"", &whole[cut..]]), expected);
        }
        let bytes: Vec<_> = whole.chunks(1).collect();
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn is_a_line_one_byte_too_long_refused_even_before_it_ends() {
        let mut decoder = Decoder::new(2);
        decoder.space().extend_from_slice(b"{}\n{}\n");
        assert!(matches!(decoder.next_message(), Ok(Some(_))));
        assert!(matches!(decoder.next_message(), Ok(Some(_))));
        decoder.space().extend_from_slice(b"{ ");
        assert!(matches!(decoder.next_message(), Ok(None)));
        decoder.space().extend_from_slice(b" ");
        assert!(matches!(decoder.next_message(), Err(CloseReason::TooLong)));
    }

    #[test]
    fn is_anything_but_json_rpc_refused() {
        for line in ["", "GET / HTTP/1.1", "7", "{\"id\":1", "{\"params\":[]}", "{\"error\":\"no\"}"] {
            let mut decoder = Decoder::default();
            decoder.space().extend_from_slice(format!("{line}\n").as_bytes());
            assert!(matches!(decoder.next_message(), Err(CloseReason::Garbage)), "{line}");
        }
    }

    #[test]
    fn is_the_memory_of_a_huge_message_given_back() {
        let mut decoder = Decoder::default();
        let huge = format!("{{\"id\":1,\"result\":\"{}\"}}\n", "x".repeat(1 << 20));
        decoder.space().extend_from_slice(huge.as_bytes());
        assert!(matches!(decoder.next_message(), Ok(Some(_))));
        assert!(decoder.space().capacity() <= KEPT);
    }
}
