//! A tree as comparable text: one line an entry, with everything that two trees can differ in.
//!
//! ```text
//! etc/motd file mode=0644 owner=0:4 mtime=1700000000.000000005 size=6 sha256=5891… xattr=user.k=v
//! ```
//!
//! Times are seconds and nanoseconds as stat(2) has them, so 5.25 s before 1970 is `-6.750000000`. The
//! walk goes by directory descriptors and follows no symlink.

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, lgetxattr, llistxattr, openat, readlinkat, statat,
};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

/// Whose times are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Times {
    /// Everybody's.
    #[default]
    All,
    /// All but directories'.
    NotDirs,
    /// Nobody's.
    None,
}

/// A run of ids, as a line of `/proc/PID/uid_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// First id as it is shown.
    pub inside: u32,
    /// First id as it is on disk.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// What is compared; by default everything, ids as they are on disk.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whose times.
    pub times: Times,
    /// Leaves uid and gid out.
    pub ignore_owners: bool,
    /// Leaves attributes whose name starts so out, such as `security.`; `""` leaves all out.
    pub ignore_xattrs: Vec<String>,
    /// Shows the ids that a user namespace with this map would; ids outside of it get an `!`.
    pub uid_map: Vec<IdMap>,
    /// The same for groups.
    pub gid_map: Vec<IdMap>,
}

/// The entries of a tree by escaped path; the root is `.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    lines: BTreeMap<String, String>,
}

impl Tree {
    /// Walks the tree at `path`, which must be a directory.
    pub fn of(path: &Path, options: &Options) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .unwrap_or_else(|e| panic!("cannot open the tree {}: {e}", path.display()));
        let stat = rustix::fs::fstat(&root).unwrap();
        let mut walk = Walk { options, entries: BTreeMap::new(), inodes: HashMap::new() };
        let line = walk.describe(&root, c".", &stat, ".");
        walk.entries.insert(".".into(), (line, None));
        walk.directory(&root, "");
        Self { lines: walk.finish() }
    }

    /// The line of an entry, without its path.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.lines.get(path).map(String::as_str)
    }

    /// All paths, sorted.
    pub fn paths(&self) -> Vec<&str> {
        self.lines.keys().map(String::as_str).collect()
    }

    /// The whole tree, sorted by path.
    pub fn text(&self) -> String {
        self.lines.iter().fold(String::new(), |mut text, (path, line)| {
            let _ = writeln!(text, "{path} {line}");
            text
        })
    }
}

/// What differs: `- ` for lines of `a`, `+ ` for lines of `b`; empty when the trees are equal.
pub fn diff(a: &Tree, b: &Tree) -> String {
    let mut paths: Vec<&String> = a.lines.keys().chain(b.lines.keys()).collect();
    paths.sort();
    paths.dedup();
    let mut text = String::new();
    for path in paths {
        let (old, new) = (a.lines.get(path), b.lines.get(path));
        if old != new {
            for (sign, line) in [('-', old), ('+', new)] {
                if let Some(line) = line {
                    let _ = writeln!(text, "{sign} {path} {line}");
                }
            }
        }
    }
    text
}

/// Panics with the difference unless both trees are equal.
#[track_caller]
pub fn assert_same(a: &Tree, b: &Tree) {
    let difference = diff(a, b);
    assert!(difference.is_empty(), "the trees differ (- first, + second):\n{difference}");
}

/// Bytes as one word of printable ASCII: others, and space and backslash, as `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        if byte.is_ascii_graphic() && byte != b'\\' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "\\x{byte:02x}");
        }
        text
    })
}

type Inode = (u64, u64);

struct Walk<'a> {
    options: &'a Options,
    /// Line and, for what can have hard links, the inode.
    entries: BTreeMap<String, (String, Option<Inode>)>,
    /// Paths in the tree, and the kernel's count of links.
    inodes: HashMap<Inode, (Vec<String>, u64)>,
}

impl Walk<'_> {
    fn directory(&mut self, dir: &OwnedFd, prefix: &str) {
        for name in names(dir) {
            let path = format!("{prefix}{}", escape(name.as_bytes()));
            let stat = statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                .unwrap_or_else(|e| panic!("cannot stat {path}: {e}"));
            let line = self.describe(dir, &name, &stat, &path);
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let inode = (!is_dir).then_some((stat.st_dev, stat.st_ino));
            if let Some(inode) = inode {
                // Its width differs between architectures.
                #[allow(clippy::useless_conversion)]
                let links = u64::from(stat.st_nlink);
                self.inodes.entry(inode).or_insert((Vec::new(), links)).0.push(path.clone());
            }
            self.entries.insert(path.clone(), (line, inode));
            if is_dir {
                self.directory(&open(dir, &name, OFlags::DIRECTORY, &path), &format!("{path}/"));
            }
        }
    }

    fn describe(&self, dir: &OwnedFd, name: &std::ffi::CStr, stat: &Stat, path: &str) -> String {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut line = String::from(kind_name(kind));
        if kind != FileType::Symlink {
            let _ = write!(line, " mode={:04o}", stat.st_mode & 0o7777);
        }
        if !self.options.ignore_owners {
            let uid = shown_id(&self.options.uid_map, stat.st_uid);
            let gid = shown_id(&self.options.gid_map, stat.st_gid);
            let _ = write!(line, " owner={uid}:{gid}");
        }
        let with_time = match self.options.times {
            Times::All => true,
            Times::NotDirs => kind != FileType::Directory,
            Times::None => false,
        };
        if with_time {
            let _ = write!(line, " mtime={}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
        }
        match kind {
            FileType::RegularFile => {
                let mut bytes = Vec::new();
                let file = open(dir, name, OFlags::NONBLOCK, path);
                File::from(file).read_to_end(&mut bytes).unwrap();
                let digest = crate::digest(&bytes).replace(':', "=");
                let _ = write!(line, " size={} {digest}", stat.st_size);
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).unwrap();
                let _ = write!(line, " target={}", escape(target.as_bytes()));
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let (major, minor) =
                    (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                let _ = write!(line, " device={major}:{minor}");
            }
            _ => (),
        }
        line + &self.xattrs(dir, name)
    }

    fn xattrs(&self, dir: &OwnedFd, name: &std::ffi::CStr) -> String {
        // The descriptor's entry in /proc is the directory itself: no other path is walked.
        let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.to_bytes());
        let path = CString::new(path).unwrap();
        let mut list = vec![0; 65_536];
        // ENOTSUP: the filesystem has none.
        let len = llistxattr(&path, list.as_mut_slice()).unwrap_or(0);
        let mut keys: Vec<&[u8]> =
            list[..len].split(|b| *b == 0).filter(|k| !k.is_empty()).collect();
        keys.sort_unstable();
        let mut text = String::new();
        for key in keys {
            let shown = escape(key);
            if self.options.ignore_xattrs.iter().any(|prefix| shown.starts_with(prefix.as_str())) {
                continue;
            }
            let mut value = vec![0; 65_536];
            let len = lgetxattr(&path, key, value.as_mut_slice())
                .unwrap_or_else(|e| panic!("cannot read the attribute {shown}: {e}"));
            let _ = write!(text, " xattr={shown}={}", escape(&value[..len]));
        }
        text
    }

    /// The lines, with hard links named by the first path of their file.
    fn finish(self) -> BTreeMap<String, String> {
        let inodes = self.inodes;
        let finish = |(path, (mut line, inode)): (String, (String, Option<Inode>))| {
            if let Some((paths, links)) = inode.and_then(|inode| inodes.get(&inode)) {
                let first = paths.iter().min().unwrap();
                if *first != path {
                    let _ = write!(line, " hardlink-of={first}");
                }
                if *links > paths.len() as u64 {
                    let _ = write!(line, " links-outside={}", links - paths.len() as u64);
                }
            }
            (path, line)
        };
        self.entries.into_iter().map(finish).collect()
    }
}

fn names(dir: &OwnedFd) -> Vec<CString> {
    let entries = Dir::read_from(dir).unwrap().map(|entry| entry.unwrap().file_name().to_owned());
    let mut names: Vec<CString> =
        entries.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect();
    names.sort();
    names
}

fn open(dir: &OwnedFd, name: &std::ffi::CStr, flags: OFlags, path: &str) -> OwnedFd {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::empty()).unwrap_or_else(|e| panic!("cannot open {path}: {e}"))
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::CharacterDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        _ => "unknown",
    }
}

fn shown_id(map: &[IdMap], id: u32) -> String {
    if map.is_empty() {
        return id.to_string();
    }
    let entry = map.iter().find(|m| id >= m.outside && id - m.outside < m.count);
    match entry {
        Some(m) => (m.inside + (id - m.outside)).to_string(),
        None => format!("!{id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::Command;

    fn sample(dir: &Path) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/a b"), "text\n").unwrap();
        fs::set_permissions(dir.join("d/a b"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(dir.join("d/a b"), dir.join("z")).unwrap();
        symlink("/etc/passwd", dir.join("l")).unwrap();
        let run = |program: &str, args: &[&str]| {
            let status = Command::new(program).args(args).current_dir(dir).status().unwrap();
            assert!(status.success(), "{program} {args:?}");
        };
        run("mkfifo", &["-m", "600", "p"]);
        run("mknod", &["-m", "640", "null", "c", "1", "3"]);
        run("setfattr", &["-n", "trusted.k", "-v", "0x0141", "d"]);
        run("setfattr", &["-h", "-n", "trusted.l", "-v", "on-link", "l"]);
        run("touch", &["-h", "-d", "@-5.25", "d/a b", "l", "p", "null"]);
        run("chown", &["-h", "1001:33", "l"]);
    }

    #[test]
    fn says_everything_about_every_type() {
        let dir = tempfile::tempdir().unwrap();
        sample(dir.path());
        let tree = Tree::of(dir.path(), &Options { times: Times::NotDirs, ..Options::default() });
        let hash = crate::digest(b"text\n").replace(':', "=");
        let file = format!("file mode=4755 owner=0:0 mtime=-6.750000000 size=5 {hash}");
        let want = format!(
            ". dir mode=0700 owner=0:0\n\
             d dir mode=0755 owner=0:0 xattr=trusted.k=\\x01A\n\
             d/a\\x20b {file}\n\
             l symlink owner=1001:33 mtime=-6.750000000 target=/etc/passwd xattr=trusted.l=on-link\n\
             null char mode=0640 owner=0:0 mtime=-6.750000000 device=1:3\n\
             p fifo mode=0600 owner=0:0 mtime=-6.750000000\n\
             z {file} hardlink-of=d/a\\x20b\n"
        );
        assert_eq!(tree.text(), want);
    }

    #[test]
    fn shows_what_differs_and_nothing_else() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&a, &b] {
            fs::write(dir.path().join("same"), "1").unwrap();
            fs::write(dir.path().join("mode"), "1").unwrap();
        }
        fs::set_permissions(b.path().join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(b.path().join("new"), "").unwrap();
        let options = Options { times: Times::None, ..Options::default() };
        let trees = [&a, &b].map(|dir| Tree::of(dir.path(), &options));
        let text = diff(&trees[0], &trees[1]);
        let signs: Vec<&str> = text.lines().map(|l| &l[..6]).collect();
        assert_eq!(signs, ["- mode", "+ mode", "+ new "], "{text}");
        assert_same(&trees[0], &trees[0].clone());
    }

    #[test]
    fn a_link_to_the_outside_shows() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("host"), "").unwrap();
        fs::hard_link(dir.path().join("host"), dir.path().join("tree/f")).unwrap();
        let tree = Tree::of(&dir.path().join("tree"), &Options::default());
        assert!(tree.get("f").unwrap().ends_with(" links-outside=1"), "{}", tree.text());
    }

    #[test]
    fn ids_are_shown_as_inside_a_namespace() {
        let map = [
            IdMap { inside: 0, outside: 500, count: 1 },
            IdMap { inside: 1, outside: 9000, count: 10 },
        ];
        assert_eq!([500, 9000, 9009, 9010].map(|id| shown_id(&map, id)), ["0", "1", "10", "!9010"]);
    }
}
