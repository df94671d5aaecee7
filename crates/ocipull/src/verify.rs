//! Whether bytes are the ones a descriptor names: their count and their digest. Pure.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::str::FromStr;

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// Hashed at once, in bytes.
const READ_BYTES: usize = 256 << 10;

/// How content differs from its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The stream ended early.
    #[error("content is truncated: got {got} bytes, want {want}")]
    Truncated {
        /// Bytes received.
        got: u64,
        /// Bytes the descriptor states.
        want: u64,
    },
    /// The stream did not end where it should.
    #[error("content is too long: got more than {want} bytes, want {want}")]
    TooLong {
        /// Bytes the descriptor states.
        want: u64,
    },
    /// Other bytes.
    #[error("content is altered: got digest {got}, want {want}")]
    Digest {
        /// Of the bytes received.
        got: String,
        /// Of the descriptor.
        want: String,
    },
    /// A digest that cannot be checked.
    #[error("cannot check digest {0}: unknown algorithm, want sha256, sha384 or sha512")]
    Algorithm(String),
}

/// Takes content as it comes and says at its end whether it was the right one.
#[derive(Debug)]
pub struct Verifier {
    want: Digest,
    size: Option<u64>,
    received: u64,
    hasher: Hasher,
}

#[derive(Debug)]
enum Hasher {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Verifier {
    /// For content with this digest and, where it is known, of this size in bytes.
    pub fn new(want: &Digest, size: Option<u64>) -> Result<Self, VerifyError> {
        let hasher = match want.algorithm() {
            DigestAlgorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            DigestAlgorithm::Sha384 => Hasher::Sha384(Sha384::new()),
            DigestAlgorithm::Sha512 => Hasher::Sha512(Sha512::new()),
            _ => return Err(VerifyError::Algorithm(want.to_string())),
        };
        Ok(Self { want: want.clone(), size, received: 0, hasher })
    }

    /// The next piece. Fails at the first byte past the size.
    pub fn update(&mut self, piece: &[u8]) -> Result<(), VerifyError> {
        self.received = self.received.saturating_add(piece.len() as u64);
        if let Some(want) = self.size
            && self.received > want
        {
            return Err(VerifyError::TooLong { want });
        }
        match &mut self.hasher {
            Hasher::Sha256(h) => h.update(piece),
            Hasher::Sha384(h) => h.update(piece),
            Hasher::Sha512(h) => h.update(piece),
        }
        Ok(())
    }

    /// The end of the content.
    pub fn finish(self) -> Result<(), VerifyError> {
        if let Some(want) = self.size
            && self.received < want
        {
            return Err(VerifyError::Truncated { got: self.received, want });
        }
        let hash = match self.hasher {
            Hasher::Sha256(h) => hex(&h.finalize()),
            Hasher::Sha384(h) => hex(&h.finalize()),
            Hasher::Sha512(h) => hex(&h.finalize()),
        };
        let got = format!("{}:{hash}", self.want.algorithm());
        if got == self.want.as_ref() {
            Ok(())
        } else {
            Err(VerifyError::Digest { got, want: self.want.to_string() })
        }
    }
}

/// Checks a body that is in memory.
pub fn verify(body: &[u8], want: &Digest, size: Option<u64>) -> Result<(), VerifyError> {
    let mut verifier = Verifier::new(want, size)?;
    verifier.update(body)?;
    verifier.finish()
}

/// The sha256 digest of `body`, for a registry that does not state one.
pub fn sha256(body: &[u8]) -> Result<Digest, VerifyError> {
    let text = format!("sha256:{}", hex(&Sha256::digest(body)));
    Digest::from_str(&text).map_err(|_| VerifyError::Algorithm(text))
}

/// The sha256 digest of all that `input` gives.
pub fn sha256_of(input: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hasher.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Digest::from_str(&format!("sha256:{}", hex(&hasher.finalize()))).map_err(io::Error::other)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The empty string's, from FIPS 180's test vectors.
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC_512: &str = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                           2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn right_content_passes() {
        assert_eq!(sha256(b"").unwrap().as_ref(), EMPTY);
        verify(b"", &Digest::from_str(EMPTY).unwrap(), Some(0)).unwrap();
        verify(b"abc", &Digest::from_str(ABC_512).unwrap(), None).unwrap();
    }

    #[test]
    fn wrong_content_is_told_apart() {
        let digest = sha256(b"abc").unwrap();
        let failure = |body: &[u8]| verify(body, &digest, Some(3)).unwrap_err();
        assert_eq!(failure(b"ab"), VerifyError::Truncated { got: 2, want: 3 });
        assert_eq!(failure(b"abcd"), VerifyError::TooLong { want: 3 });
        assert!(matches!(failure(b"abd"), VerifyError::Digest { .. }));
        let odd = Digest::from_str("md5:abc").unwrap();
        assert!(matches!(verify(b"", &odd, None), Err(VerifyError::Algorithm(_))));
    }
}
