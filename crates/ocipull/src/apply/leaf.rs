//! What a layer's entries other than directories make: files, links, pipes, devices.

use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::fd::AsFd;

use ctsys::rootdir::{self, NodeKind};
use ctsys::{Errno, SysError};

use super::error::EntryError;
use super::layer::{Layer, Place};
use super::meta::Metadata;
use super::name;
use super::shape::Made;
use super::tar::sparse::Extent;
use super::tar::{Entry, EntryKind, TarReader};

impl Layer<'_> {
    pub(super) fn leaf<R: BufRead>(
        &mut self,
        path: &[u8],
        entry: &mut Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), EntryError> {
        let place = self.place(path)?;
        let meta = Metadata::take(entry)?;
        match entry.kind {
            EntryKind::File => self.file(&place, &meta, entry, reader),
            EntryKind::Symlink => self.symlink(&place, &meta, &entry.link),
            EntryKind::Fifo => self.node(&place, &meta, NodeKind::Fifo),
            EntryKind::CharDevice => self.device(&place, &meta, entry, NodeKind::Char),
            EntryKind::BlockDevice => self.device(&place, &meta, entry, NodeKind::Block),
            EntryKind::Unknown(flag) => Err(EntryError::UnknownType(flag)),
            EntryKind::Directory | EntryKind::HardLink => Ok(()),
        }
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place,
        meta: &Metadata,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), EntryError> {
        let mut file = self.create(place)?;
        match &entry.extents {
            None => copy(reader, &mut file, u64::MAX)?,
            Some(extents) => copy_sparse(reader, &mut file, extents, entry.size)?,
        }
        self.tree.keeper.set_open(&file, meta, &place.path)?;
        self.made(place, Made::Other)
    }

    fn create(&mut self, place: &Place) -> Result<File, EntryError> {
        let parent = &place.parent.fd;
        let make = || rootdir::create_file_at(parent, &place.name);
        self.tree.make_new(parent, &place.name, &place.path, make)
    }

    fn symlink(&mut self, place: &Place, meta: &Metadata, target: &[u8]) -> Result<(), EntryError> {
        let parent = &place.parent.fd;
        let make = || rootdir::symlink_at(parent, &place.name, target);
        self.tree.make_new(parent, &place.name, &place.path, make)?;
        self.tree.keeper.set_leaf(parent.as_fd(), &place.name, meta, &place.path, false)?;
        self.made(place, Made::Symlink(target.into()))
    }

    /// A further name for a file of this layer or of a lower one. It has no metadata of its own:
    /// that of the file stands.
    pub(super) fn hard_link(&mut self, path: &[u8], link: &[u8]) -> Result<(), EntryError> {
        let missing = || EntryError::NoLinkTarget(link.to_vec());
        let target = name::clean(link)?;
        if target.is_empty() {
            return Err(EntryError::LinkToDirectory(link.to_vec()));
        }
        let (target_parent, target_name) = name::split(&target);
        let target_parent = self.shape.resolve_dir(target_parent)?;
        let target = name::join(&target_parent, target_name);
        if self.shape.get(&target).is_none() {
            // It may be a lower layer's.
            self.lay_down()?;
        }
        let place = self.place(path)?;
        let from = self.tree.find_dir(&target_parent)?.ok_or_else(missing)?;
        let stat = rootdir::stat_at(&from, target_name)?.ok_or_else(missing)?;
        if rootdir::is_type(&stat, S_IFDIR) {
            return Err(EntryError::LinkToDirectory(link.to_vec()));
        }
        let below = target.strip_prefix(place.path.as_slice());
        if below.is_some_and(|rest| rest.starts_with(b"/")) {
            // To make the link its own target would have to go.
            return Err(missing());
        }
        let made = match self.shape.get(&target) {
            Some(made) => made.clone(),
            None if rootdir::is_type(&stat, S_IFLNK) => {
                Made::Symlink(rootdir::read_link_at(&from, target_name)?.into())
            }
            None => Made::Other,
        };
        if target == place.path {
            // It is there, and by this entry the layer's own: its whiteouts let it stand.
            return self.made(&place, made);
        }
        let parent = &place.parent.fd;
        let make = || rootdir::link_at(&from, target_name, parent, &place.name);
        self.tree.make_new(parent, &place.name, &place.path, make)?;
        self.made(&place, made)
    }

    fn node(&mut self, place: &Place, meta: &Metadata, kind: NodeKind) -> Result<(), EntryError> {
        let parent = &place.parent.fd;
        let make = || rootdir::make_node_at(parent, &place.name, kind);
        self.tree.make_new(parent, &place.name, &place.path, make)?;
        self.tree.keeper.set_leaf(parent.as_fd(), &place.name, meta, &place.path, true)?;
        self.made(place, Made::Other)
    }

    /// A device, or an empty file in its place where none may be made.
    fn device(
        &mut self,
        place: &Place,
        meta: &Metadata,
        entry: &Entry,
        kind: impl Fn(u32, u32) -> NodeKind,
    ) -> Result<(), EntryError> {
        let (major, minor) = entry.device;
        let numbers = (u32::try_from(major).ok(), u32::try_from(minor).ok());
        let (Some(major), Some(minor)) = numbers else {
            return Err(EntryError::Device { major, minor });
        };
        let kind = kind(major, minor);
        if self.tree.keeper.makes_devices() {
            match self.node(place, meta, kind) {
                // Root without CAP_MKNOD, as in most containers.
                Err(EntryError::Sys(e)) if is_refused_node(&e) => {}
                other => return other,
            }
        }
        let file = self.create(place)?;
        self.tree.keeper.set_open(&file, meta, &place.path)?;
        self.tree.keeper.notes.devices.add(&place.path);
        self.made(place, Made::Other)
    }
}

// Of stat(2), the same on all architectures of Linux.
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

fn is_refused_node(error: &SysError) -> bool {
    error.call() == "mknodat" && error.errno() == Errno::EPERM
}

/// Copies up to `limit` bytes of the entry's data.
fn copy<R: BufRead>(
    reader: &mut TarReader<R>,
    file: &mut File,
    mut limit: u64,
) -> Result<(), EntryError> {
    while limit > 0 {
        let chunk = reader.data()?;
        if chunk.is_empty() {
            break;
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(chunk.len());
        let chunk = chunk.get(..length).unwrap_or_default();
        file.write_all(chunk).map_err(|e| io_error("write", &e))?;
        reader.consume(length);
        limit -= length as u64;
    }
    Ok(())
}

fn copy_sparse<R: BufRead>(
    reader: &mut TarReader<R>,
    file: &mut File,
    extents: &[Extent],
    size: u64,
) -> Result<(), EntryError> {
    for extent in extents {
        file.seek(SeekFrom::Start(extent.offset)).map_err(|e| io_error("lseek", &e))?;
        copy(reader, file, extent.length)?;
    }
    Ok(file.set_len(size).map_err(|e| io_error("ftruncate", &e))?)
}

fn io_error(call: &'static str, error: &std::io::Error) -> SysError {
    SysError::from_io(call, String::new(), error)
}
