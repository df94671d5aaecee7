//! Where every file of a tar archive lies. Names are keys of a table and nothing else: one with `..`
//! in it is found by nobody.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ctsys::report::chain;

use crate::apply::tar::{Entry, EntryKind, TarError, TarReader};
use crate::local::LocalError;

/// Entries of an archive, at most: a layer has three in docker's older form, so this is thousands
/// of images.
const MAX_ENTRIES: usize = 200_000;
/// Their names together, in bytes: a layer's has some 80.
const MAX_NAMES_BYTES: usize = 32 << 20;
/// Longest name that anything could ask for, in bytes.
const MAX_NAME_BYTES: usize = 512;
/// Links from one to the next; docker writes one.
const MAX_LINKS: usize = 8;
/// Headers are read in such pieces, in bytes; what lies between them is skipped.
const WINDOW_BYTES: usize = 4096;
/// Of a tar file's blocks, in bytes.
const BLOCK_BYTES: u64 = 512;

/// The files and links of an archive by their names.
#[derive(Debug, Default)]
pub(super) struct Entries {
    by_name: HashMap<String, Place>,
}

#[derive(Debug)]
enum Place {
    /// From where, and how many bytes.
    Data(u64, u64),
    /// Another name.
    Link(String),
}

impl Entries {
    /// Reads all headers of `file`, which was opened from `path`.
    pub(super) fn read(path: &Path, file: &File) -> Result<Self, LocalError> {
        let refused = |reason| LocalError::NoArchive { path: path.to_path_buf(), reason };
        let end = file.metadata().map_err(LocalError::Read)?.len();
        let (mut entries, mut position, mut count, mut names_bytes) = (Self::default(), 0, 0, 0);
        while let Some((entry, data)) =
            header(file, position).map_err(|error| refused(chain(&error)))?
        {
            count += 1;
            names_bytes += entry.path.len() + entry.link.len();
            if count > MAX_ENTRIES || names_bytes > MAX_NAMES_BYTES {
                return Err(refused(format!(
                    "it has more than {MAX_ENTRIES} entries, or too long names"
                )));
            }
            if entry.extents.is_some() {
                return Err(refused("it has a sparse file".into()));
            }
            let data_end = data.checked_add(entry.size).filter(|data_end| *data_end <= end);
            let Some(data_end) = data_end else {
                return Err(refused("it ends in the middle of an entry".into()));
            };
            entries.add(&entry, data);
            position = data_end.next_multiple_of(BLOCK_BYTES);
        }
        Ok(entries)
    }

    /// Whether there is a file of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Where the file of that name lies: from where, and how many bytes. Links are followed, within
    /// the archive.
    pub(super) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = clean("", name)?;
        for _ in 0..=MAX_LINKS {
            match self.by_name.get(&name)? {
                Place::Data(start, length) => return Some((*start, *length)),
                Place::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// The names of all files and links.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The last of several of one name counts, as where they are unpacked.
    fn add(&mut self, entry: &Entry, data: u64) {
        let (path, link) = (text(&entry.path), text(&entry.link));
        let Some(name) = path.and_then(|path| clean("", path)) else { return };
        let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
        let place = match entry.kind {
            EntryKind::File => Some(Place::Data(data, entry.size)),
            EntryKind::Symlink => link.and_then(|link| clean(parent, link)).map(Place::Link),
            EntryKind::HardLink => link.and_then(|link| clean("", link)).map(Place::Link),
            _ => None,
        };
        match place {
            Some(place) => self.by_name.insert(name, place),
            None => self.by_name.remove(&name),
        };
    }
}

/// The entry whose header stands at `position`, and where its data begins.
fn header(file: &File, position: u64) -> Result<Option<(Entry, u64)>, TarError> {
    let mut reader = TarReader::new(Window::new(file, position));
    let entry = reader.next_entry()?;
    let data = reader.into_rest().position();
    Ok(entry.map(|entry| (entry, data)))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_NAME_BYTES)
}

/// `path` as seen from the directory `parent`, without dots; `None` where it leads out.
fn clean(parent: &str, path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut names: Vec<&str> = parent.split('/').filter(|name| !name.is_empty()).collect();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            name => names.push(name),
        }
    }
    Some(names.join("/")).filter(|name| !name.is_empty())
}

/// A reader from some place on that knows how far it came.
struct Window<'a> {
    file: &'a File,
    /// Of the buffer's first byte.
    start: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl<'a> Window<'a> {
    fn new(file: &'a File, position: u64) -> Self {
        Self { file, start: position, buffer: Vec::new(), used: 0 }
    }

    fn position(&self) -> u64 {
        self.start + self.used as u64
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Window<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used >= self.buffer.len() {
            self.start = self.position();
            self.used = 0;
            self.buffer.resize(WINDOW_BYTES, 0);
            let length = self.file.read_at(&mut self.buffer, self.start)?;
            self.buffer.truncate(length);
        }
        Ok(self.buffer.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, length: usize) {
        self.used += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut tar = tar::Builder::new(&file);
        let mut add = |name: &str, kind, link: &str, data: &[u8]| {
            let mut header = tar::Header::new_ustar();
            // The crate refuses names that lead out.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, data).unwrap();
        };
        for (name, data) in files {
            add(name, tar::EntryType::Regular, "", data);
        }
        for (name, target) in links {
            add(name, tar::EntryType::Symlink, target, b"");
        }
        tar.finish().unwrap();
        drop(tar);
        file
    }

    fn found(file: &File, name: &str) -> Option<Vec<u8>> {
        let (start, length) = Entries::read(Path::new("x"), file).unwrap().find(name)?;
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, start).unwrap();
        Some(bytes)
    }

    #[test]
    fn files_are_found_where_they_lie_and_by_their_links() {
        let large = vec![7; 10_000];
        let file = archive(
            &[("a.tar", b"one"), ("./b/large", &large), ("b/empty", b""), ("c", b"two")],
            &[("1/layer.tar", "../a.tar"), ("2/layer.tar", "../1/layer.tar")],
        );
        for (name, want) in [
            ("a.tar", &b"one"[..]),
            ("b/large", &large),
            ("b/empty", b""),
            ("./c", b"two"),
            ("1/layer.tar", b"one"),
            ("2/layer.tar", b"one"),
        ] {
            assert_eq!(found(&file, name).as_deref(), Some(want), "{name}");
        }
        assert_eq!(found(&file, "b"), None);
    }

    #[test]
    fn names_and_links_that_lead_out_or_around_find_nothing() {
        let file = archive(
            &[("../evil", b"x"), ("/etc/passwd", b"x"), ("a/../../b", b"x"), ("ok", b"fine")],
            &[
                ("out", "../../etc/passwd"),
                ("absolute", "/etc/passwd"),
                ("round", "about"),
                ("about", "round"),
                ("self", "self"),
                ("dangling", "nothing"),
            ],
        );
        for name in [
            "../evil",
            "evil",
            "/etc/passwd",
            "etc/passwd",
            "b",
            "out",
            "absolute",
            "round",
            "self",
            "dangling",
            "",
        ] {
            assert_eq!(found(&file, name), None, "{name}");
        }
        assert_eq!(found(&file, "ok").unwrap(), b"fine");
    }

    #[test]
    fn an_archive_that_was_cut_is_refused() {
        let file = archive(&[("a", &[1; 2000]), ("b", &[2; 2000])], &[]);
        for length in [512 + 2048 + 512 + 1999, 512 + 2048 + 100, 512 + 100] {
            file.set_len(length).unwrap();
            assert!(Entries::read(Path::new("x"), &file).is_err(), "{length}");
        }
        file.set_len(0).unwrap();
        file.write_all_at(b"neither tar nor anything", 0).unwrap();
        assert!(Entries::read(Path::new("x"), &file).is_err());
    }
}
