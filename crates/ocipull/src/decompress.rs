//! A layer's blob as its uncompressed tar stream.
//!
//! The compression is told by the first bytes: media types are wrong often enough in the field
//! (a `tar+gzip` that is zstd or plain tar), and engines look at the bytes too.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The window that a zstd frame may ask for, as a power of two: 128 MiB, the most that a decoder
/// has to give without being told (RFC 8878 section 3.1.1.1.2; zstd's `ZSTD_WINDOWLOG_LIMIT_DEFAULT`).
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// A layer may have this many bytes whatever its blob's size, so that images of empty disk files
/// still unpack: 4 GiB.
pub const FREE_EXPANSION_BYTES: u64 = 4 << 30;

/// Compressed bytes read at once.
const INPUT_BUFFER_BYTES: usize = 128 << 10;

/// Why a blob cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    /// A compression that image-spec does not have.
    #[error("the layer is compressed with {name}, want gzip, zstd or none")]
    Unsupported {
        /// Its name.
        name: &'static str,
    },
    /// Media type `…+encrypted` (ocicrypt).
    #[error("the layer is encrypted")]
    Encrypted,
    /// Past the expansion cap.
    #[error("the layer expands too far: got {got} bytes of a blob's {blob}, want at most {limit}")]
    Bomb {
        /// Bytes that came out.
        got: u64,
        /// Bytes that went in so far.
        blob: u64,
        /// How many may come out of them.
        limit: u64,
    },
    /// The decoder could not be set up.
    #[error("cannot set up the decoder")]
    Decoder(#[source] io::Error),
    /// The blob could not be read.
    #[error("cannot read the blob")]
    Read(#[source] io::Error),
}

/// The compression that a blob's first bytes show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The uncompressed stream of `blob`, to the blob's very end: all members of a gzip file, all
/// frames of a zstd one (skippable ones skipped, as in zstd:chunked). A stream that ends early, or
/// has something else behind it, is an error when it is read. A blob of no bytes is a stream of
/// none. Past [`FREE_EXPANSION_BYTES`] there may be `max_ratio` bytes for each byte of the blob.
pub fn open<'a>(
    media_type: &str,
    blob: &'a mut (dyn Read + Send),
    max_ratio: u64,
) -> Result<Box<dyn Read + Send + 'a>, DecompressError> {
    if media_type.ends_with("+encrypted") {
        return Err(DecompressError::Encrypted);
    }
    let mut head = [0; 6];
    let length = read_full(blob, &mut head).map_err(DecompressError::Read)?;
    let head = head.get(..length).unwrap_or_default();
    let compression = sniff(head)?;
    let read_bytes = Arc::new(AtomicU64::new(0));
    let whole = io::Cursor::new(head.to_vec()).chain(blob);
    let counted = Counting { inner: whole, read_bytes: Arc::clone(&read_bytes) };
    let input = BufReader::with_capacity(INPUT_BUFFER_BYTES, counted);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => {
            let decoder = flate2::bufread::MultiGzDecoder::new(input);
            Box::new(Capped { inner: decoder, read_bytes, written_bytes: 0, max_ratio })
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
                .map_err(DecompressError::Decoder)?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(DecompressError::Decoder)?;
            Box::new(Capped { inner: decoder, read_bytes, written_bytes: 0, max_ratio })
        }
    })
}

fn sniff(head: &[u8]) -> Result<Compression, DecompressError> {
    let unsupported = |name| Err(DecompressError::Unsupported { name });
    match head {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        // A skippable frame first (RFC 8878 section 3.1.2).
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => unsupported("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => unsupported("xz"),
        [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
        _ => Ok(Compression::None),
    }
}

/// The name of the compression that a blob's first six bytes show, if any.
pub(crate) fn name_of(head: &[u8]) -> Option<&'static str> {
    match sniff(head) {
        Ok(Compression::None) => None,
        Ok(Compression::Gzip) => Some("gzip"),
        Ok(Compression::Zstd) => Some("zstd"),
        Err(DecompressError::Unsupported { name }) => Some(name),
        Err(_) => None,
    }
}

/// Fills the buffer as far as the input goes.
pub(crate) fn read_full(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

struct Counting<R> {
    inner: R,
    read_bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

struct Capped<R> {
    inner: R,
    read_bytes: Arc<AtomicU64>,
    written_bytes: u64,
    max_ratio: u64,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.written_bytes = self.written_bytes.saturating_add(length as u64);
        let blob = self.read_bytes.load(Ordering::Relaxed);
        let limit = expansion_limit(blob, self.max_ratio);
        if self.written_bytes > limit {
            let got = self.written_bytes;
            return Err(io::Error::other(DecompressError::Bomb { got, blob, limit }));
        }
        Ok(length)
    }
}

fn expansion_limit(blob_bytes: u64, max_ratio: u64) -> u64 {
    FREE_EXPANSION_BYTES.max(blob_bytes.saturating_mul(max_ratio))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(blob: &[u8]) -> Result<Vec<u8>, String> {
        let mut input = blob;
        let mut output = Vec::new();
        let mut stream = open("application/vnd.oci.image.layer.v1.tar+gzip", &mut input, 200)
            .map_err(|e| e.to_string())?;
        stream.read_to_end(&mut output).map_err(|e| e.to_string())?;
        Ok(output)
    }

    #[test]
    fn members_and_frames_are_joined_and_skippable_ones_skipped() {
        let zstd = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        for blob in [
            b"one two".to_vec(),
            [gzip(b"one "), gzip(b""), gzip(b"two")].concat(),
            [zstd(b"one "), zstd(b"two")].concat(),
            [skippable.clone(), zstd(b"one "), skippable.clone(), zstd(b"two"), skippable].concat(),
        ] {
            assert_eq!(read(&blob).unwrap(), b"one two", "{}", blob.escape_ascii());
        }
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(b"x").unwrap(), b"x");
    }

    #[test]
    fn a_cut_or_followed_stream_is_an_error() {
        let data: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        for blob in [gzip(&data), zstd::encode_all(&data[..], 1).unwrap()] {
            for length in [7, 100, blob.len() / 2, blob.len() - 1] {
                assert!(read(&blob[..length]).is_err(), "cut to {length} of {}", blob.len());
            }
            assert!(read(&[&blob[..], b"garbage behind it"].concat()).is_err());
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        let mut blob = gzip(b"some text");
        let crc = blob.len() - 8;
        blob[crc] ^= 1;
        assert!(read(&blob).is_err());
    }

    #[test]
    fn other_compressions_are_named() {
        assert!(read(b"BZh91AY&SY").unwrap_err().contains("bzip2"));
        assert!(read(b"\xfd7zXZ\0\0\x04").unwrap_err().contains("xz"));
        let mut input: &[u8] = b"";
        let encrypted =
            open("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", &mut input, 200);
        assert!(matches!(encrypted.err(), Some(DecompressError::Encrypted)));
    }

    #[test]
    fn a_window_above_the_limit_is_refused_and_one_at_it_is_not() {
        let frame = |log| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&[7; 4096]).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(read(&frame(MAX_ZSTD_WINDOW_LOG)).unwrap(), [7; 4096]);
        assert!(read(&frame(MAX_ZSTD_WINDOW_LOG + 1)).is_err());
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let read_bytes = Arc::new(AtomicU64::new(1 << 20));
        let written_bytes = FREE_EXPANSION_BYTES - 100;
        let mut stream = Capped { inner: io::repeat(0), read_bytes, written_bytes, max_ratio: 200 };
        let mut buffer = [0; 64];
        assert_eq!(stream.read(&mut buffer).unwrap(), 64);
        let error = stream.read(&mut buffer).unwrap_err().to_string();
        assert!(error.contains("expands too far"), "{error}");
        assert_eq!(expansion_limit(1 << 30, 200), 200 << 30);
    }
}
