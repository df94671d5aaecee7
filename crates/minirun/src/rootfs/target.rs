//! Places in the container's root, found and made by descriptor: no path of an image or of the
//! configuration is ever followed out of it (CVE-2021-30465, CVE-2024-45310).

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use ctsys::error::{Context, Result, SysError};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};

/// The root of a container that is being set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root<'a> {
    fd: BorrowedFd<'a>,
    made: &'a Made,
}

/// What was made in a root because it was missing, in this order. Part of it may lie in mounts.
#[derive(Debug, Default)]
pub(super) struct Made(RefCell<Vec<PathBuf>>);

impl Made {
    /// The paths in the root, as they were asked for.
    pub(super) fn into_paths(self) -> Vec<PathBuf> {
        self.0.into_inner()
    }

    fn add(&self, names: &[&OsStr]) {
        let path = Path::new("/").join(names.iter().collect::<PathBuf>());
        self.0.borrow_mut().push(path);
    }
}

/// What a missing place is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

impl<'a> Root<'a> {
    /// The root at `fd`; `made` keeps account of what is made in it.
    pub(super) fn new(fd: BorrowedFd<'a>, made: &'a Made) -> Self {
        Self { fd, made }
    }

    /// The file at `path` (O_PATH). Symbolic links lead where they would lead inside.
    pub(super) fn open(self, path: &Path) -> Result<OwnedFd> {
        self.resolve(path, ResolveFlag::empty())
    }

    /// As [`Root::open`], and no component may be a symbolic link.
    pub(super) fn open_plain(self, path: &Path) -> Result<OwnedFd> {
        self.resolve(path, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    /// As [`Root::open`]; what is missing is made, parents included. An existing file stays what it
    /// is, whatever `kind` says.
    pub(super) fn open_or_make(self, path: &Path, kind: Kind) -> Result<OwnedFd> {
        match self.open(path) {
            Err(error) if error.errno() == Errno::ENOENT => self.make(path, kind),
            other => other,
        }
    }

    fn resolve(self, path: &Path, more: ResolveFlag) -> Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | more;
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        loop {
            match openat2(self.fd, path, how) {
                // A rename somewhere on the way made the kernel unsure; it asks to be asked again.
                Err(Errno::EAGAIN) => {}
                other => return other.call("openat2", || format!("rootfs, {path:?}")),
            }
        }
    }

    /// Goes down as far as there is something, then makes one component after the other, each in
    /// the directory that was just opened.
    fn make(self, path: &Path, kind: Kind) -> Result<OwnedFd> {
        let names: Vec<&OsStr> = path
            .components()
            .filter_map(|c| match c {
                Component::Normal(name) => Some(name),
                Component::ParentDir => Some(OsStr::new("..")),
                _ => None,
            })
            .collect();
        let (mut parent, mut made) = self.deepest(&names)?;
        while let Some(name) = names.get(made) {
            made += 1;
            let so_far = names.get(..made).unwrap_or_default();
            if made == names.len() && kind == Kind::File {
                let file = make_file(&parent, name)?;
                self.made.add(so_far);
                return Ok(file);
            }
            let (directory, is_new) = make_directory(&parent, name)?;
            parent = directory;
            if is_new {
                self.made.add(so_far);
            }
        }
        Ok(parent)
    }

    /// The deepest directory on the way that exists, and how many names lead to it.
    fn deepest(self, names: &[&OsStr]) -> Result<(OwnedFd, usize)> {
        for count in (1..names.len()).rev() {
            let path: std::path::PathBuf = names.iter().take(count).collect();
            match self.open(&path) {
                Err(error) if error.errno() == Errno::ENOENT => {}
                other => return Ok((other?, count)),
            }
        }
        Ok((self.open(Path::new("/"))?, 0))
    }
}

/// Makes `name` in `parent` unless it is a directory already, and opens it; whether it is new.
fn make_directory(parent: impl AsFd, name: &OsStr) -> Result<(OwnedFd, bool)> {
    // A name that cannot be resolved because a component before it is missing has no meaning.
    if name == ".." {
        return Err(SysError::new("mkdirat", "\"..\"", Errno::ENOENT));
    }
    let is_new = match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(SysError::new("mkdirat", format!("{name:?}"), errno)),
    };
    // A dangling symbolic link of that name is refused here.
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = openat(parent, name, flags, Mode::empty());
    Ok((opened.call("openat", || format!("{name:?}"))?, is_new))
}

/// Makes the empty file `name` in `parent` unless it is there, and opens it.
pub(super) fn make_file(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&parent, name, flags, Mode::from_bits_truncate(0o644)) {
        Err(Errno::EEXIST) => {
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(parent, name, flags, Mode::empty())
        }
        other => other,
    }
    .call("openat", || format!("{name:?}, O_CREAT"))
}

/// What an open file is.
pub(super) fn stat(fd: impl AsFd) -> Result<FileStat> {
    fstatat(fd, "", AtFlags::AT_EMPTY_PATH).call("fstatat", String::new)
}

/// The type bits of a mode.
pub(super) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Whether the file is a device with these numbers.
pub(super) fn is_device(stat: &FileStat, kind: SFlag, major: u32, minor: u32) -> bool {
    file_type(stat) == kind && stat.st_rdev == nix::libc::makedev(major, minor)
}
