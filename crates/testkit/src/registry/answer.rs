//! An answer before it becomes bytes on a connection: headers, a body, and how the body is sent.

use super::connection::Cut;
use super::fault::Fault;
use bytes::Bytes;
use std::time::Duration;

/// A status, headers and a body, in a form that faults can change.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) sending: Sending,
}

/// How the body goes out.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    /// Bytes in one frame.
    pub(crate) piece: usize,
    /// Time between two frames.
    pub(crate) pause: Option<Duration>,
    pub(crate) end: End,
}

/// What follows the last byte of the body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Finish,
    Cut(Cut),
    Stall,
    Zeros,
}

/// Bytes of one frame of an ordinary body.
const PIECE_BYTES: usize = 256 * 1024;

impl Answer {
    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let mut answer = Self::empty(status);
        answer.set("Content-Type", content_type);
        answer.set("Content-Length", &body.len().to_string());
        answer.body = body;
        answer
    }

    pub(crate) fn empty(status: u16) -> Self {
        let sending = Sending { piece: PIECE_BYTES, pause: None, end: End::Finish };
        let headers = if status == 204 {
            Vec::new()
        } else {
            vec![("Content-Length".to_owned(), "0".to_owned())]
        };
        Self { status, headers, body: Bytes::new(), sending }
    }

    /// An OCI error envelope.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::new(status, "application/json", envelope(code, message))
    }

    /// Sets a header in place of the one of that name.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// [`Answer::set`] in a chain.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    fn remove(&mut self, name: &str) {
        self.headers.retain(|(k, _)| !k.eq_ignore_ascii_case(name));
    }

    /// Serves the range that a `Range` header asks for, as RFC 9110 section 14 has it.
    pub(crate) fn ranged(mut self, range: Option<&str>) -> Self {
        self.set("Accept-Ranges", "bytes");
        let len = self.body.len();
        match range.and_then(|r| parse_range(r, len)) {
            None => self,
            Some(Err(())) => Self::empty(416).with("Content-Range", &format!("bytes */{len}")),
            Some(Ok((first, end))) => {
                self.status = 206;
                self.body = self.body.slice(first..end);
                self.set("Content-Length", &self.body.len().to_string());
                self.with("Content-Range", &format!("bytes {first}-{}/{len}", end - 1))
            }
        }
    }

    /// Changes the answer as a fault of the second group says.
    pub(crate) fn spoil(&mut self, fault: Fault) {
        match fault {
            Fault::WrongBytes => {
                self.body = self.body.iter().map(|b| b ^ 0x55).collect::<Vec<_>>().into();
            }
            Fault::Body(bytes) => {
                self.set("Content-Length", &bytes.len().to_string());
                self.body = bytes.into();
            }
            Fault::TruncateAt(at) => self.cut(at, End::Cut(Cut::Close)),
            Fault::ResetAt(at) => self.cut(at, End::Cut(Cut::Reset)),
            Fault::StallAt(at) => self.cut(at, End::Stall),
            Fault::ContentLength(len) => {
                self.set("Content-Length", &len.to_string());
                if len > self.body.len() as u64 {
                    self.sending.end = End::Cut(Cut::Close);
                }
            }
            Fault::Chunked => self.remove("Content-Length"),
            Fault::Endless(len) => {
                match len {
                    Some(len) => self.set("Content-Length", &len.to_string()),
                    None => self.remove("Content-Length"),
                }
                self.sending.end = End::Zeros;
            }
            Fault::Trickle { bytes, pause } => {
                self.sending.piece = bytes.max(1);
                self.sending.pause = Some(pause);
            }
            Fault::Digest(digest) => self.header("Docker-Content-Digest", digest),
            Fault::ContentRange(range) => self.set("Content-Range", &range),
            Fault::Header(name, value) => self.header(&name, value),
            other => panic!("{other:?} does not change an answer"),
        }
    }

    fn header(&mut self, name: &str, value: Option<String>) {
        match value {
            Some(value) => self.set(name, &value),
            None => self.remove(name),
        }
    }

    fn cut(&mut self, at: u64, end: End) {
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(self.body.len());
        self.body = self.body.slice(..at);
        self.sending.end = end;
    }
}

/// The OCI error envelope.
pub(crate) fn envelope(code: &str, message: &str) -> String {
    serde_json::json!({ "errors": [{ "code": code, "message": message }] }).to_string()
}

/// `None`: not a range we serve, so the whole. `Err`: cannot be satisfied. Else first and end.
fn parse_range(range: &str, len: usize) -> Option<Result<(usize, usize), ()>> {
    let (first, last) = range.trim().strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let suffix: usize = last.parse().ok()?;
        let whole =
            if suffix == 0 || len == 0 { Err(()) } else { Ok((len - suffix.min(len), len)) };
        return Some(whole);
    }
    let first: usize = first.parse().ok()?;
    let end = if last.is_empty() { len } else { last.parse::<usize>().ok()?.checked_add(1)? };
    if end <= first && !last.is_empty() {
        return None;
    }
    Some(if first >= len { Err(()) } else { Ok((first, end.min(len))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=0-3", 10), Some(Ok((0, 4))));
        assert_eq!(parse_range("bytes=4-", 10), Some(Ok((4, 10))));
        assert_eq!(parse_range("bytes=4-99", 10), Some(Ok((4, 10))));
        assert_eq!(parse_range("bytes=-3", 10), Some(Ok((7, 10))));
        assert_eq!(parse_range("bytes=10-", 10), Some(Err(())));
        assert_eq!(parse_range("bytes=5-4", 10), None);
        assert_eq!(parse_range("lines=1-2", 10), None);
    }
}
