//! Layers: tar archives built entry by entry, compressed, with their digests.

mod entry;
mod huge;

pub use entry::{
    DEFAULT_MTIME, Entry, GNU, GNU_LONG_LINK, GNU_LONG_NAME, LongNames, PAX_GLOBAL, PAX_HEADER,
    USTAR, V7, pax_data,
};

pub use huge::huge_file;

use crate::media;
use bytes::Bytes;
use std::io::Write as _;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar.
    None,
    /// One gzip member.
    Gzip,
    /// Several gzip members one after the other, as pigz and estargz write.
    GzipMembers,
    /// One zstd frame.
    Zstd,
    /// zstd frames with a skippable frame between and after, as zstd:chunked has.
    ZstdFrames,
}

/// A finished layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The blob.
    pub bytes: Bytes,
    /// Digest of the blob.
    pub digest: String,
    /// Digest of the tar inside.
    pub diff_id: String,
    /// The OCI media type of the compression; an image in docker's format translates it.
    pub media_type: String,
}

impl Layer {
    /// Compresses a finished tar archive (or any bytes).
    pub fn from_tar(tar: &[u8], compression: Compression) -> Self {
        let (bytes, media_type) = match compression {
            Compression::None => (tar.to_vec(), media::OCI_LAYER),
            Compression::Gzip => (gzip(tar), media::OCI_LAYER_GZIP),
            Compression::GzipMembers => (halves(tar, gzip).concat(), media::OCI_LAYER_GZIP),
            Compression::Zstd => (zstd(tar), media::OCI_LAYER_ZSTD),
            Compression::ZstdFrames => {
                let skippable = [0x5e, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4].to_vec();
                let [first, second] = halves(tar, zstd);
                let frames = [first, skippable.clone(), second, skippable].concat();
                (frames, media::OCI_LAYER_ZSTD)
            }
        };
        Self::from_parts(bytes, &crate::digest(tar), media_type)
    }

    /// A layer of any bytes, diff_id and media type.
    pub fn from_parts(bytes: impl Into<Bytes>, diff_id: &str, media_type: &str) -> Self {
        let bytes = bytes.into();
        Self {
            digest: crate::digest(&bytes),
            bytes,
            diff_id: diff_id.to_owned(),
            media_type: media_type.to_owned(),
        }
    }

    /// Length of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Builds a layer. What follows an entry (`owner`, `mtime`, `xattr`, …) changes the entry last added.
///
/// ```
/// use testkit::layers::{Compression, LayerBuilder};
/// let layer = LayerBuilder::new()
///     .dir("etc", 0o755)
///     .file("etc/motd", b"hello\n").owner(0, 4).mtime(-1, 5).xattr("user.k", b"v")
///     .symlink("bin", "usr/bin")
///     .whiteout("etc/old")
///     .build(Compression::Gzip);
/// assert!(layer.digest.starts_with("sha256:"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct LayerBuilder {
    parts: Vec<Part>,
    no_end: bool,
    trailing: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Part {
    Entry(Box<Entry>),
    Raw(Vec<u8>),
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A directory.
    pub fn dir(self, path: impl AsRef<[u8]>, mode: u32) -> Self {
        let mut path = path.as_ref().to_vec();
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        self.typed(b'5', path).mode(mode)
    }

    /// A regular file, mode 0644.
    pub fn file(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.typed(b'0', path).edit(|e| e.data = data.as_ref().to_vec())
    }

    /// A regular file, mode 0755.
    pub fn program(self, path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.file(path, data).mode(0o755)
    }

    /// A symlink to `target`.
    pub fn symlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.typed(b'2', path).mode(0o777).edit(|e| e.link = target.as_ref().to_vec())
    }

    /// A hard link to the archive's entry (or a lower layer's file) `target`.
    pub fn hardlink(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.typed(b'1', path).edit(|e| e.link = target.as_ref().to_vec())
    }

    /// A character device.
    pub fn char_device(self, path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.typed(b'3', path).edit(|e| e.device = (major, minor))
    }

    /// A block device.
    pub fn block_device(self, path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.typed(b'4', path).edit(|e| e.device = (major, minor))
    }

    /// A FIFO.
    pub fn fifo(self, path: impl AsRef<[u8]>) -> Self {
        self.typed(b'6', path)
    }

    /// A whiteout of `path`: an empty file `.wh.NAME` beside it.
    pub fn whiteout(self, path: &str) -> Self {
        let (dir, name) = match path.trim_end_matches('/').rsplit_once('/') {
            Some((dir, name)) => (format!("{dir}/"), name),
            None => (String::new(), path),
        };
        self.file(format!("{dir}.wh.{name}"), b"")
    }

    /// The marker that makes a directory opaque: `DIR/.wh..wh..opq`.
    pub fn opaque(self, dir: &str) -> Self {
        let dir = dir.trim_end_matches('/');
        let slash = if dir.is_empty() { "" } else { "/" };
        self.file(format!("{dir}{slash}.wh..wh..opq"), b"")
    }

    /// An entry of any type with any name.
    pub fn typed(self, typeflag: u8, path: impl AsRef<[u8]>) -> Self {
        self.entry(Entry::new(typeflag, path))
    }

    /// An entry with every field as given.
    pub fn entry(mut self, entry: Entry) -> Self {
        self.parts.push(Part::Entry(Box::new(entry)));
        self
    }

    /// A global PAX header.
    pub fn global_pax(self, records: &[(&str, &str)]) -> Self {
        let records: Vec<_> =
            records.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        self.typed(PAX_GLOBAL, "pax_global_header").edit(|e| e.data = pax_data(&records))
    }

    /// Bytes as they are, at this place of the archive.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.parts.push(Part::Raw(bytes.to_vec()));
        self
    }

    /// Changes the entry last added.
    pub fn edit(mut self, change: impl FnOnce(&mut Entry)) -> Self {
        match self.parts.last_mut() {
            Some(Part::Entry(entry)) => change(entry),
            _ => panic!("no entry to change"),
        }
        self
    }

    /// Mode of the last entry, with setuid, setgid and sticky bits.
    pub fn mode(self, mode: u32) -> Self {
        self.edit(|e| e.mode = mode)
    }

    /// Owner and group of the last entry.
    pub fn owner(self, uid: u64, gid: u64) -> Self {
        self.edit(|e| (e.uid, e.gid) = (uid, gid))
    }

    /// Time of the last entry.
    pub fn mtime(self, seconds: i64, nanos: u32) -> Self {
        self.edit(|e| (e.mtime, e.mtime_nanos) = (seconds, nanos))
    }

    /// An extended attribute of the last entry (`SCHILY.xattr.NAME`).
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// A PAX record of the last entry.
    pub fn pax(self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.edit(|e| e.pax.push((key.into(), value.as_ref().to_vec())))
    }

    /// The header of the last entry says this size, whatever data it has.
    pub fn header_size(self, size: u64) -> Self {
        self.edit(|e| e.size = Some(size))
    }

    /// Long names of the last entry as GNU tar writes them.
    pub fn gnu_long_names(self) -> Self {
        self.edit(|e| (e.long_names, e.magic) = (LongNames::Gnu, GNU))
    }

    /// Leaves the two zero blocks at the end out.
    pub fn no_end(mut self) -> Self {
        self.no_end = true;
        self
    }

    /// Bytes after the archive's end.
    pub fn trailing(mut self, bytes: &[u8]) -> Self {
        self.trailing = bytes.to_vec();
        self
    }

    /// The archive.
    pub fn tar(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Entry(entry) => entry.write(&mut out),
                Part::Raw(bytes) => out.extend_from_slice(bytes),
            }
        }
        if !self.no_end {
            out.extend_from_slice(&[0; 1024]);
        }
        out.extend_from_slice(&self.trailing);
        out
    }

    /// The layer.
    pub fn build(&self, compression: Compression) -> Layer {
        Layer::from_tar(&self.tar(), compression)
    }
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One zstd frame.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn halves(bytes: &[u8], compress: fn(&[u8]) -> Vec<u8>) -> [Vec<u8>; 2] {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    [compress(first), compress(second)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    /// A real reader sees what the builder was told.
    #[test]
    fn tar_reads_it_back() {
        let long = format!("deep/{}", "x".repeat(200));
        let tar = LayerBuilder::new()
            .dir("etc", 0o1777)
            .file("etc/motd", b"hello")
            .owner(70_000, 3_000_000)
            .mode(0o4755)
            .mtime(-5, 500_000_000)
            .xattr("user.k", b"v\0w")
            .symlink("l", "etc/motd")
            .hardlink("h", "etc/motd")
            .char_device("null", 1, 3)
            .file(&long, b"pax")
            .file(&long, b"gnu")
            .gnu_long_names()
            .whiteout("etc/gone")
            .opaque("var")
            .tar();
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            if path == "etc/motd" {
                let header = entry.header().clone();
                assert_eq!(header.mode().unwrap(), 0o4755);
                assert_eq!(entry.header().uid().unwrap(), 70_000);
                let pax: Vec<(String, Vec<u8>)> = entry
                    .pax_extensions()
                    .unwrap()
                    .unwrap()
                    .map(|e| e.unwrap())
                    .map(|e| (e.key().unwrap().to_owned(), e.value_bytes().to_vec()))
                    .collect();
                let want =
                    |k: &str, v: &[u8]| assert!(pax.contains(&(k.into(), v.into())), "{pax:?}");
                want("SCHILY.xattr.user.k", b"v\0w");
                want("mtime", b"-4.500000000");
                want("gid", b"3000000");
            }
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            seen.push((path, entry.header().entry_type().as_byte(), text));
        }
        let want = [
            ("etc/", b'5', ""),
            ("etc/motd", b'0', "hello"),
            ("l", b'2', ""),
            ("h", b'1', ""),
            ("null", b'3', ""),
            (long.as_str(), b'0', "pax"),
            (long.as_str(), b'0', "gnu"),
            ("etc/.wh.gone", b'0', ""),
            ("var/.wh..wh..opq", b'0', ""),
        ];
        assert_eq!(seen, want.map(|(p, t, d)| (p.to_owned(), t, d.to_owned())));
    }

    #[test]
    fn every_compression_has_the_diff_id_of_the_tar() {
        let builder = LayerBuilder::new().file("f", vec![7; 10_000]);
        let plain = builder.build(Compression::None);
        assert_eq!(plain.digest, plain.diff_id);
        for compression in [Compression::Gzip, Compression::GzipMembers] {
            let layer = builder.build(compression);
            let mut tar = Vec::new();
            flate2::read::MultiGzDecoder::new(layer.bytes.as_ref()).read_to_end(&mut tar).unwrap();
            assert_eq!(
                (crate::digest(&tar), &layer.diff_id),
                (layer.diff_id.clone(), &plain.diff_id)
            );
        }
        for compression in [Compression::Zstd, Compression::ZstdFrames] {
            let layer = builder.build(compression);
            let tar = zstd::decode_all(layer.bytes.as_ref()).unwrap();
            assert_eq!(crate::digest(&tar), plain.diff_id);
        }
    }

    #[test]
    fn base256_numbers_are_read_by_tar() {
        let mut entry = Entry::new(b'0', "f");
        (entry.uid, entry.base256) = (5_000_000_000, true);
        let tar = LayerBuilder::new().entry(entry).tar();
        let mut archive = tar::Archive::new(tar.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.header().uid().unwrap(), 5_000_000_000);
    }
}
