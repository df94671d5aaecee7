//! A layer far larger than its blob, made without ever holding it.

use super::{Compression, Entry, Layer};
use crate::media;
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};

/// A layer of one file of `len` bytes, `pattern` over and over: for limits on memory and on
/// expansion. Zeros shrink a thousand times; noise of some kilobytes (more than gzip's window) hardly.
pub fn huge_file(path: &str, len: u64, pattern: &[u8], compression: Compression) -> Layer {
    let mut entry = Entry::new(b'0', path);
    entry.size = Some(len);
    let mut header = Vec::new();
    entry.write(&mut header);
    let write = |out: &mut dyn Write| write_tar(out, &header, len, pattern).unwrap();
    let (bytes, diff_id, media_type) = match compression {
        Compression::Gzip => {
            let fast = flate2::Compression::fast();
            let mut out = Hashing::new(flate2::write::GzEncoder::new(Vec::new(), fast));
            write(&mut out);
            (out.inner.finish().unwrap(), out.hash, media::OCI_LAYER_GZIP)
        }
        Compression::Zstd => {
            let mut out = Hashing::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
            write(&mut out);
            (out.inner.finish().unwrap(), out.hash, media::OCI_LAYER_ZSTD)
        }
        other => panic!("a huge file is gzip or zstd, not {other:?}"),
    };
    Layer::from_parts(bytes, &crate::sha256_name(diff_id), media_type)
}

fn write_tar(out: &mut dyn Write, header: &[u8], len: u64, pattern: &[u8]) -> io::Result<()> {
    out.write_all(header)?;
    let block = pattern.repeat((256 * 1024 / pattern.len()).max(1));
    let mut left = len;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        out.write_all(&block[..piece])?;
        left -= piece as u64;
    }
    let padding = usize::try_from(len.next_multiple_of(512) - len).unwrap();
    out.write_all(&vec![0; padding + 1024])
}

/// Hashes what passes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new() }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.hash.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_a_builder_would_have_made() {
        let data = b"abc".repeat(100_000);
        let small = super::super::LayerBuilder::new().file("f", &data).build(Compression::None);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let layer = huge_file("f", data.len() as u64, b"abc", compression);
            assert_eq!(layer.diff_id, small.digest);
            assert!(layer.size() < 30_000, "{}", layer.size());
        }
    }
}
