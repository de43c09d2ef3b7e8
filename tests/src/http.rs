//! Requests and answers on a socket: as much of HTTP/1.1 as a hub needs.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `PUT`, …
    pub method: String,
    /// The path, with its query.
    pub target: String,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How many bytes of a body were sent in answer.
    pub sent: usize,
    /// The status of the answer.
    pub status: u16,
}

impl Request {
    /// The header called `name`, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| &**value)
    }

    /// The bytes `start..end` that a `Range` header asks for, of `len`.
    #[must_use]
    pub fn range(&self, len: usize) -> Option<(usize, usize)> {
        let (start, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let start = start.parse().ok()?;
        let end = if last.is_empty() { len } else { last.parse::<usize>().ok()? + 1 };
        Some((start, end.min(len)))
    }

    /// Reads the next request; `None` if the other side is gone.
    pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|&read| read > 0)?;
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self { method, target, headers, body: Vec::new(), sent: 0, status: 0 };
        if let Some(length) = request.header("content-length") {
            request.body = vec![0; length.parse().ok()?];
            stream.read_exact(&mut request.body).ok()?;
        } else if request.header("transfer-encoding").is_some() {
            request.body = read_chunks(stream)?;
        }
        Some(request)
    }
}

fn read_chunks(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

/// An answer, and what is wrong with how it is sent.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub(crate) drop_after: Option<usize>,
    /// Nothing comes after so many bytes of the body, until the other side goes away.
    pub(crate) stall_after: Option<usize>,
    /// A pause after each 4 KiB.
    pub(crate) pause: Option<Duration>,
    /// What the header says of the body's length, if it is not the truth.
    pub(crate) content_length: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        let body = value.to_string().into_bytes();
        Self { body, ..Self::new(200) }.header("Content-Type", "application/json")
    }

    pub(crate) fn header<T: Display>(mut self, name: &str, value: T) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// How much of the body is to be sent.
    pub(crate) fn to_send(&self, head_only: bool) -> usize {
        let end = self.drop_after.or(self.stall_after).unwrap_or(usize::MAX).min(self.body.len());
        if head_only { 0 } else { end }
    }

    /// Sends it; returns how much of the body went out, and whether the connection stays open.
    pub(crate) fn send(&self, stream: &mut TcpStream, head_only: bool) -> (usize, bool) {
        let length = self.content_length.unwrap_or(self.body.len());
        let mut head = vec![format!("HTTP/1.1 {} Said\r\nContent-Length: {length}", self.status)];
        head.extend(self.headers.iter().map(|(name, value)| format!("{name}: {value}")));
        let head = head.join("\r\n") + "\r\n\r\n";
        if stream.write_all(head.as_bytes()).is_err() || head_only {
            return (0, true);
        }
        let end = self.to_send(head_only);
        let mut sent = 0;
        for chunk in self.body[..end].chunks(4 << 10) {
            if stream.write_all(chunk).is_err() {
                return (sent, false);
            }
            sent += chunk.len();
            if let Some(pause) = self.pause {
                thread::sleep(pause);
            }
        }
        if self.stall_after.is_some_and(|after| after < self.body.len()) {
            // Whoever waits for an answer sends nothing; the read ends when it hangs up.
            let _ = stream.read(&mut [0]);
            return (sent, false);
        }
        (sent, end == self.body.len() && length == self.body.len())
    }
}

/// `%2F` and the like, undone.
#[must_use]
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped =
            hex.filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).expect("a path is UTF-8")
}
