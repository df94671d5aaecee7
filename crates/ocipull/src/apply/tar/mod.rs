//! A tar stream as entries, read once from front to end with bounded memory.
//!
//! ```text
//! block -> header -> pax, long names -> size -> sparse map -> Entry, then its data in chunks
//! ```
//!
//! Written for this, over the tar crate's view of a block, because that crate's reader takes
//! extended headers of any size and knows no PAX sparse form. See [`header`] on whose view counts
//! where a header is ambiguous.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use ctsys::rootdir::FileTime;

use super::limits::MAX_SPECIAL_BYTES;

pub mod header;
pub mod pax;
pub mod sparse;

use header::{BLOCK_BYTES, Block, Format, RawHeader};
use pax::Pax;
use sparse::{Extent, OldGnuMap, PaxForm, TextMap};

/// Why a stream is no tar stream, or one that is refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream could not be read.
    #[error("cannot read the layer")]
    Io(#[source] io::Error),
    /// The stream ends inside of something.
    #[error("the tar stream ends in the middle of an entry")]
    Truncated,
    /// Not a header where one has to be.
    #[error("not a tar header: the checksum does not match")]
    Checksum,
    /// A single block of zeros, then something else.
    #[error("a tar header follows a block of zeros")]
    AfterEnd,
    /// A numeric field that is none or out of range.
    #[error("invalid {field} in a tar header")]
    Number {
        /// Which.
        field: &'static str,
    },
    /// A malformed extended header.
    #[error("invalid extended header: {reason}")]
    Pax {
        /// What is wrong.
        reason: &'static str,
    },
    /// A malformed sparse map.
    #[error("invalid sparse map: {reason}")]
    Sparse {
        /// What is wrong.
        reason: &'static str,
    },
    /// Past a limit.
    #[error("{what} is too large: got {got}, want at most {limit} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size in bytes.
        got: u64,
        /// The limit in bytes.
        limit: u64,
    },
}

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, sparse or not.
    File,
    /// A further name for an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A type that no specification here names.
    Unknown(u8),
}

/// One entry. Its data is read by [`TarReader::data`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it stands in the stream.
    pub path: Vec<u8>,
    /// Of a link.
    pub link: Vec<u8>,
    /// What it makes.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// The owner, in range or not.
    pub uid: i64,
    /// The group, in range or not.
    pub gid: i64,
    /// The time of the last change.
    pub mtime: FileTime,
    /// The time of the last access, where the stream has one.
    pub atime: Option<FileTime>,
    /// Major and minor number of a device.
    pub device: (i64, i64),
    /// The file's size, holes included.
    pub size: u64,
    /// Where the data belongs, of a sparse file.
    pub extents: Option<Vec<Extent>>,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads entries off a stream.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    /// Data of the current entry that was not consumed.
    remaining: u64,
    /// Zeros after it, up to the next block.
    padding: u64,
    global: Pax,
    max_header_bytes: u64,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self::with_limit(input, MAX_SPECIAL_BYTES)
    }

    /// Reads from `input`; extended headers, long names and text maps may have that many bytes.
    pub fn with_limit(input: R, max_header_bytes: u64) -> Self {
        Self { input, remaining: 0, padding: 0, global: Pax::default(), max_header_bytes }
    }

    /// The next entry; what is left of the last one's data is skipped. `None` at the end, whether
    /// marked by two blocks of zeros or not.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip(self.remaining)?;
            self.skip_padding()?;
            let Some((block, raw)) = self.header()? else { return Ok(None) };
            match raw.type_flag {
                b'x' => {
                    let data = self.special(&raw, "extended header")?;
                    // The last of several counts, as in Go's reader.
                    pax = self.global.clone();
                    pax.extend(&data)?;
                }
                b'g' => {
                    let data = self.special(&raw, "global extended header")?;
                    let mut global = self.global.clone();
                    global.extend(&data)?;
                    // Each header is bounded; what many of them leave together has to be as well.
                    self.within_limit("what global extended headers say", global.xattr_bytes())?;
                    self.global = global.keep_global();
                    // For Go's reader it is an entry of its own: what stood before it for the next
                    // entry is spent.
                    pax = self.global.clone();
                    (long_name, long_link) = (None, None);
                }
                b'L' => long_name = Some(self.long(&raw, "long name")?),
                b'K' => long_link = Some(self.long(&raw, "long link name")?),
                _ => return self.entry(&block, raw, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// The next chunk of the current entry's data; empty at its end. Holes are not part of it.
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let chunk = self.input.fill_buf().map_err(TarError::Io)?;
        if chunk.is_empty() {
            return Err(TarError::Truncated);
        }
        let length = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(chunk.len());
        Ok(&chunk[..length])
    }

    /// Marks the first `length` bytes of what [`TarReader::data`] gave as used.
    pub fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.remaining -= length as u64;
    }

    /// What is behind the stream's end marker.
    pub fn into_rest(self) -> R {
        self.input
    }

    fn header(&mut self) -> Result<Option<(Block, RawHeader)>, TarError> {
        let Some(block) = self.block_or_end()? else { return Ok(None) };
        if let Some(raw) = header::parse(&block)? {
            return Ok(Some((block, raw)));
        }
        match self.block_or_end()? {
            Some(second) if second.iter().any(|&b| b != 0) => Err(TarError::AfterEnd),
            _ => Ok(None),
        }
    }

    fn entry(
        &mut self,
        block: &Block,
        raw: RawHeader,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let path = long_name.or(pax.path).unwrap_or(raw.name);
        let kind = kind_of(raw.type_flag, &path);
        // Whatever the size field of an entry without data says, none follows; and an extended
        // header's size counts over the header's (CVE-2025-62518).
        let has_data = matches!(kind, EntryKind::File | EntryKind::Unknown(_));
        let stored = if has_data { pax.size.unwrap_or(raw.size) } else { 0 };
        self.begin(stored);
        let mut entry = Entry {
            path,
            link: long_link.or(pax.link).unwrap_or(raw.link),
            kind,
            mode: u32::try_from(raw.mode & 0o7777).unwrap_or(0),
            uid: pax.uid.unwrap_or(raw.uid),
            gid: pax.gid.unwrap_or(raw.gid),
            mtime: pax.mtime.unwrap_or(FileTime { seconds: raw.mtime, nanoseconds: 0 }),
            atime: pax.atime,
            device: (raw.major, raw.minor),
            size: stored,
            extents: None,
            xattrs: pax.xattrs,
        };
        if raw.type_flag == b'S' {
            self.old_gnu_sparse(block, raw.format, &mut entry)?;
        } else if kind == EntryKind::File {
            self.pax_sparse(&pax.sparse, &mut entry)?;
        }
        Ok(entry)
    }

    fn old_gnu_sparse(
        &mut self,
        block: &Block,
        format: Format,
        entry: &mut Entry,
    ) -> Result<(), TarError> {
        if format != Format::Gnu {
            return Err(TarError::Sparse { reason: "the header is not GNU tar's" });
        }
        let mut map = OldGnuMap::default();
        let mut more = map.header(block)?;
        let mut blocks = 0_u64;
        while more {
            blocks += 1;
            let got = blocks * BLOCK_BYTES as u64;
            self.within_limit("sparse map", got)?;
            // The extension blocks stand before the data and are not counted in its size.
            more = map.extension(&self.block()?)?;
        }
        entry.size = OldGnuMap::real_size(block)?;
        sparse::check(&map.extents, entry.size, self.remaining)?;
        entry.extents = Some(map.extents);
        Ok(())
    }

    fn pax_sparse(&mut self, form: &pax::PaxSparse, entry: &mut Entry) -> Result<(), TarError> {
        let extents = match sparse::pax_form(form)? {
            PaxForm::None => return Ok(()),
            PaxForm::InHeader(extents) => extents,
            PaxForm::BeforeData => self.text_map()?,
        };
        if let Some(name) = &form.name {
            entry.path.clone_from(name);
        }
        entry.size = form.real_size.unwrap_or(entry.size);
        sparse::check(&extents, entry.size, self.remaining)?;
        entry.extents = Some(extents);
        Ok(())
    }

    fn text_map(&mut self) -> Result<Vec<Extent>, TarError> {
        let mut map = TextMap::default();
        loop {
            let left = self.remaining.checked_sub(BLOCK_BYTES as u64);
            self.remaining =
                left.ok_or(TarError::Sparse { reason: "the map is longer than the entry" })?;
            if let Some(extents) = map.block(&self.block()?)? {
                return Ok(extents);
            }
        }
    }

    /// The whole data of an entry that describes the next one.
    fn special(&mut self, raw: &RawHeader, what: &'static str) -> Result<Vec<u8>, TarError> {
        self.within_limit(what, raw.size)?;
        self.begin(raw.size);
        let mut data = Vec::new();
        while self.remaining > 0 {
            let chunk = self.data()?;
            let length = chunk.len();
            data.extend_from_slice(chunk);
            self.consume(length);
        }
        Ok(data)
    }

    fn long(&mut self, raw: &RawHeader, what: &'static str) -> Result<Vec<u8>, TarError> {
        let mut data = self.special(raw, what)?;
        data.truncate(header::c_string(&data).len());
        Ok(data)
    }

    fn within_limit(&self, what: &'static str, got: u64) -> Result<(), TarError> {
        let limit = self.max_header_bytes;
        if got > limit { Err(TarError::TooLarge { what, got, limit }) } else { Ok(()) }
    }

    fn begin(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
    }

    fn block(&mut self) -> Result<Block, TarError> {
        self.block_or_end()?.ok_or(TarError::Truncated)
    }

    /// A block; `None` when the stream ends where one would begin.
    fn block_or_end(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let chunk = self.input.fill_buf().map_err(TarError::Io)?;
            if chunk.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(TarError::Truncated) };
            }
            let length = chunk.len().min(BLOCK_BYTES - filled);
            block[filled..filled + length].copy_from_slice(&chunk[..length]);
            self.input.consume(length);
            filled += length;
        }
        Ok(Some(block))
    }

    fn skip(&mut self, mut length: u64) -> Result<(), TarError> {
        while length > 0 {
            let chunk = self.data()?.len();
            self.consume(chunk);
            length -= chunk as u64;
        }
        Ok(())
    }

    fn skip_padding(&mut self) -> Result<(), TarError> {
        self.remaining = std::mem::take(&mut self.padding);
        match self.skip(self.remaining) {
            // Go's reader, too, lets the last entry's padding lack.
            Err(TarError::Truncated) => {
                self.remaining = 0;
                Ok(())
            }
            other => other,
        }
    }
}

fn kind_of(flag: u8, path: &[u8]) -> EntryKind {
    match flag {
        // Before POSIX directories were files with a slash at the end of their name.
        0 if path.ends_with(b"/") => EntryKind::Directory,
        0 | b'0' | b'7' | b'S' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' => EntryKind::CharDevice,
        b'4' => EntryKind::BlockDevice,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        other => EntryKind::Unknown(other),
    }
}
