//! The rest of a blob: how it is asked for, and whether an answer is it. Pure.

use reqwest::header::HeaderValue;

/// All of a blob from a byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rest {
    /// The first byte that is wanted, from 0.
    pub(crate) from: u64,
    /// Of the whole blob.
    pub(crate) size_bytes: u64,
}

impl Rest {
    /// `Range`
    pub(crate) fn header(self) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("bytes={}-", self.from)).ok()
    }

    /// The `Content-Range` of the answer.
    pub(crate) fn content_range(self) -> String {
        let Self { from, size_bytes } = self;
        format!("bytes {from}-{}/{size_bytes}", size_bytes.saturating_sub(1))
    }

    /// Whether an answer with this `Content-Range` is the rest. RFC 9110, section 15.3.7: a part of
    /// another place or another blob is not to be joined.
    pub(crate) fn is(self, content_range: &str) -> bool {
        let want = self.content_range();
        let got = content_range.trim();
        // A server need not know the size (section 14.4).
        got == want || got == want.replace(&format!("/{}", self.size_bytes), "/*")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rest_itself_is_joined() {
        let rest = Rest { from: 5, size_bytes: 9 };
        assert_eq!(rest.header().unwrap(), "bytes=5-");
        for fits in ["bytes 5-8/9", " bytes 5-8/9 ", "bytes 5-8/*"] {
            assert!(rest.is(fits), "{fits}");
        }
        for other in ["", "none", "bytes 5-7/9", "bytes 4-8/9", "bytes 5-8/10", "bytes */9"] {
            assert!(!rest.is(other), "{other}");
        }
    }
}
