//! What the registry saw.

use hyper::{Method, Uri};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which of the registry's sockets a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The registry itself and, unless it has a host of its own, the `/token` endpoint.
    Registry,
    /// The other host that gives out tokens.
    Tokens,
    /// The other host that blob requests are redirected to.
    BlobStore,
}

/// One request, in the order of arrival.
#[derive(Clone, Debug)]
pub struct Request {
    /// The socket that it came in by.
    pub listener: Listener,
    /// `GET`, `HEAD`, …
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query as sent, empty when there was none.
    pub query: String,
    /// Every header, names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    /// The status that was answered; 0 when nothing was (a reset, a hang, or not yet).
    pub status: u16,
    sent_bytes: Arc<AtomicU64>,
}

impl Request {
    pub(crate) fn new(listener: Listener, head: &hyper::http::request::Parts) -> Self {
        let uri: &Uri = &head.uri;
        let headers = head
            .headers
            .iter()
            .map(|(k, v)| (k.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect();
        Self {
            listener,
            method: head.method.to_string(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or("").to_owned(),
            headers,
            status: 0,
            sent_bytes: Arc::default(),
        }
    }

    /// So much of the answer's body was given to the connection so far, in bytes. The client may have
    /// less: some of it may wait in sockets' buffers.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::SeqCst)
    }

    /// For the connection to count in.
    pub(crate) fn sent_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent_bytes)
    }

    /// The first value of a header, its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// All values of a header, joined by `, `.
    pub fn header_all(&self, name: &str) -> String {
        let values = self.headers.iter().filter(|(k, _)| k.eq_ignore_ascii_case(name));
        values.map(|(_, v)| v.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The `Accept` header's values, joined.
    pub fn accept(&self) -> String {
        self.header_all("accept")
    }

    /// The `Authorization` header.
    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// The `Range` header.
    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }

    /// The first value of a query parameter, decoded.
    pub fn query_param(&self, name: &str) -> Option<String> {
        parse_query(&self.query).into_iter().find(|(k, _)| k == name).map(|(_, v)| v)
    }

    /// `METHOD path?query status`, the form in which a walk is easy to compare.
    pub fn line(&self) -> String {
        let mark = if self.query.is_empty() { "" } else { "?" };
        format!("{} {}{mark}{} {}", self.method, self.path, self.query, self.status)
    }

    pub(crate) fn is_method(&self, method: &Method) -> bool {
        self.method == method.as_str()
    }
}

/// The pairs of a query or form, percent-decoded.
pub(crate) fn parse_query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key), percent_decode(value))
        })
        .collect()
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_a_query() {
        let pairs = parse_query("scope=repository%3Aa%2Fb%3Apull&x=1+2&flag");
        let want = [("scope", "repository:a/b:pull"), ("x", "1 2"), ("flag", "")];
        assert_eq!(pairs, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
