//! Which ids a user namespace of the caller's may hold, and how they are installed.
//!
//! A user may always map one id, the own one (user_namespaces(7)). More are granted by
//! `/etc/subuid` and `/etc/subgid` (subuid(5)) and installed by the set-uid helpers newuidmap(1)
//! and newgidmap(1). ocipull and minirun both take their mapping from here, so a tree unpacked by
//! the one has the right owners in the other.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::socket::{Shutdown, shutdown};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result, SysError};
use crate::{clone, fdpass, ns, process, wait};

/// passwd and subuid files are read up to this size; a line a user, so a million users fit.
const MAX_DATABASE_BYTES: u64 = 64 << 20;

/// What a helper says of its failure is one line.
const MAX_COMPLAINT_BYTES: u64 = 4 << 10;

/// The kernel takes at most so many lines a map (user_namespaces(7)).
pub const MAX_LINES: usize = 340;

/// One line of a user namespace's map: `count` ids from `outside` on appear as `inside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The maps of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// For users.
    pub uids: Vec<IdRange>,
    /// For groups.
    pub gids: Vec<IdRange>,
    /// Who writes them.
    pub writer: MapWriter,
}

/// Who may write a namespace's maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapWriter {
    /// A process outside, directly, with setgroups(2) denied first: without privilege one id each.
    Direct,
    /// A process with CAP_SETUID and CAP_SETGID outside, directly: any ids.
    Privileged,
    /// The set-uid helpers at these paths.
    Helpers {
        /// newuidmap(1).
        newuidmap: PathBuf,
        /// newgidmap(1).
        newgidmap: PathBuf,
    },
}

impl IdMaps {
    /// The caller's own ids as 0, nothing else.
    pub fn single(uid: u32, gid: u32) -> Self {
        let one = |outside| vec![IdRange { inside: 0, outside, count: 1 }];
        Self { uids: one(uid), gids: one(gid), writer: MapWriter::Direct }
    }

    /// Every id that the caller's own user namespace has, as itself: for root, whose trees have the
    /// image's owners. On the host that is all of them; in a container, what it was given.
    pub fn identity() -> Self {
        let all = || vec![IdRange { inside: 0, outside: 0, count: u32::MAX }];
        // Without a /proc to say otherwise, root is taken for the host's.
        let mut own = read_maps("self").unwrap_or_else(|_| Self {
            uids: all(),
            gids: all(),
            writer: MapWriter::Privileged,
        });
        for range in own.uids.iter_mut().chain(&mut own.gids) {
            range.outside = range.inside;
        }
        own
    }

    /// The caller's own ids as 0 and the subordinate ones from 1 on; `None` when no range is
    /// granted or a helper is not installed.
    pub fn subordinate(uid: u32, gid: u32) -> Result<Option<Self>> {
        let (Some(newuidmap), Some(newgidmap)) =
            (find_helper("newuidmap"), find_helper("newgidmap"))
        else {
            return Ok(None);
        };
        let passwd = read_database("/etc/passwd")?;
        let name = user_name(&passwd, uid);
        let uids = granted(&read_database("/etc/subuid")?, name, uid);
        let gids = granted(&read_database("/etc/subgid")?, name, uid);
        if uids.is_empty() || gids.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            uids: lay_out(uid, &uids),
            gids: lay_out(gid, &gids),
            writer: MapWriter::Helpers { newuidmap, newgidmap },
        }))
    }

    /// The same ids with the caller's own ones as `uid` and `gid` inside instead of 0. What had that
    /// number becomes 0, and all others stay: a tree that was unpacked with the usual layout keeps
    /// its owners but for those two.
    #[must_use]
    pub fn keeping(self, uid: u32, gid: u32) -> Self {
        Self { uids: exchange(&self.uids, uid), gids: exchange(&self.gids, gid), ..self }
    }

    /// Installs the maps in the user namespace of the process `pid`, from outside. The process
    /// must be a child of the caller that waits meanwhile.
    pub fn install(&self, pid: i32) -> Result<()> {
        self.install_by_number(pid).or_else(|error| {
            // In a container that shows the /proc of the one around it, all have other numbers there.
            match process::pidfd_open(pid).and_then(process::number_in_proc) {
                Ok(Some(number)) if number != pid => self.install_by_number(number),
                _ => Err(error),
            }
        })
    }

    fn install_by_number(&self, pid: i32) -> Result<()> {
        match &self.writer {
            MapWriter::Direct => {
                write_proc(pid, "setgroups", "deny")?;
                write_proc(pid, "gid_map", &map_text(&self.gids))?;
                write_proc(pid, "uid_map", &map_text(&self.uids))
            }
            MapWriter::Privileged => {
                write_proc(pid, "gid_map", &map_text(&self.gids))?;
                write_proc(pid, "uid_map", &map_text(&self.uids))
            }
            MapWriter::Helpers { newuidmap, newgidmap } => {
                let _hidden = Hidden::hide()?;
                // Each takes milliseconds, and neither needs the other's work.
                let groups = Helper::start("newgidmap", newgidmap, pid, &self.gids)?;
                let users = Helper::start("newuidmap", newuidmap, pid, &self.uids);
                groups.finish().and(users.and_then(Helper::finish))
            }
        }
    }
}

/// How many subordinate users and groups /etc/subuid and /etc/subgid grant to the user `uid`.
pub fn granted_counts(uid: u32) -> Result<(u64, u64)> {
    let passwd = read_database("/etc/passwd")?;
    let name = user_name(&passwd, uid);
    let count = |file| -> Result<u64> {
        let ranges = granted(&read_database(file)?, name, uid);
        Ok(ranges.iter().map(|&(_, count)| u64::from(count)).sum())
    };
    Ok((count("/etc/subuid")?, count("/etc/subgid")?))
}

/// The login name of `uid` on this machine, for display.
pub fn login_name(uid: u32) -> Result<Option<String>> {
    let passwd = read_database("/etc/passwd")?;
    Ok(user_name(&passwd, uid).map(|name| String::from_utf8_lossy(name).into_owned()))
}

/// The maps of the user namespace that the process `pid` is in, as the caller sees them; the
/// writer tells whether setgroups(2) is allowed in there.
pub fn of_process(pid: i32) -> Result<IdMaps> {
    read_maps(&pid.to_string())
}

fn read_maps(process: &str) -> Result<IdMaps> {
    let read = |file: &str| {
        let path = format!("/proc/{process}/{file}");
        std::fs::read_to_string(&path).call("read", || path)
    };
    let denied = read("setgroups")?.trim() == "deny";
    let writer = if denied { MapWriter::Direct } else { MapWriter::Privileged };
    Ok(IdMaps { uids: parse_map(&read("uid_map")?), gids: parse_map(&read("gid_map")?), writer })
}

/// The maps of a user namespace that the caller may join, by its descriptor: a child joins it for as
/// long as they are read. The caller must have one thread ([`clone::spawn`]).
pub fn of_namespace(userns: impl AsFd) -> Result<IdMaps> {
    let (ours, theirs) = fdpass::pair()?;
    let child = clone::spawn(CloneFlags::empty(), || {
        match ns::join(userns.as_fd(), CloneFlags::CLONE_NEWUSER) {
            Ok(()) => {
                let told = fdpass::send(&theirs, &[0], &[]);
                // Until the other side has read, or is gone.
                let waited = fdpass::receive(&theirs, &mut [0]);
                u8::from(told.is_err() || waited.is_err())
            }
            Err(error) => u8::try_from(error.errno() as i32).unwrap_or(u8::MAX),
        }
    })?;
    drop(theirs);
    let maps = match fdpass::receive(&ours, &mut [0]) {
        Ok((1, _)) => of_process(child.pid).map(Some),
        _ => Ok(None),
    };
    // Not by closing: the child has a copy of this end too, and would wait for itself.
    shutdown(ours.as_raw_fd(), Shutdown::Both).call("shutdown", String::new)?;
    let code = wait::wait(&child.pidfd)?;
    let refused = || SysError::new("setns", "CLONE_NEWUSER", Errno::from_raw(code.into()));
    maps?.ok_or_else(refused)
}

/// The lines of a map as the kernel writes them (user_namespaces(7)).
fn parse_map(text: &str) -> Vec<IdRange> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().map(str::parse);
            let (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) =
                (fields.next(), fields.next(), fields.next())
            else {
                return None;
            };
            Some(IdRange { inside, outside, count })
        })
        .collect()
}

/// The granted ranges laid out after the caller's own id: 0 is the caller, 1 on the first range,
/// and so on (the usual layout of podman, buildah and umoci's documentation).
fn lay_out(own: u32, ranges: &[(u32, u32)]) -> Vec<IdRange> {
    let mut map = vec![IdRange { inside: 0, outside: own, count: 1 }];
    let mut inside = 1_u32;
    for &(outside, count) in ranges {
        // Ids end at 2^32 - 2; what does not fit is not mapped.
        let count = count.min((u32::MAX - 1).saturating_sub(inside));
        if count == 0 {
            break;
        }
        map.push(IdRange { inside, outside, count });
        inside += count;
    }
    map.truncate(MAX_LINES);
    map
}

/// `map` with what 0 and `id` stand for exchanged; 0 must be a line of its own, as [`lay_out`] has it.
fn exchange(map: &[IdRange], id: u32) -> Vec<IdRange> {
    let mut lines = Vec::with_capacity(map.len() + 2);
    for range in map {
        let above = id.checked_sub(range.inside).filter(|above| *above < range.count);
        match above {
            _ if id == 0 => lines.push(*range),
            _ if range.inside == 0 => lines.push(IdRange { inside: id, ..*range }),
            None => lines.push(*range),
            Some(above) => {
                let part = |inside, from: u32, count| IdRange {
                    inside,
                    outside: range.outside + from,
                    count,
                };
                lines.push(part(0, above, 1));
                lines.push(part(range.inside, 0, above));
                lines.push(part(id + 1, above + 1, range.count - above - 1));
            }
        }
    }
    lines.retain(|line| line.count > 0);
    lines.sort_by_key(|line| line.inside);
    lines.truncate(MAX_LINES);
    lines
}

/// Whether all ids outside that `wanted` maps are among those of `granted`, which may lie in several
/// lines that follow each other.
pub fn covers(granted: &[IdRange], wanted: IdRange) -> bool {
    let (mut next, mut left) = (wanted.outside, wanted.count);
    while left > 0 {
        let holds = |r: &&IdRange| next.checked_sub(r.outside).is_some_and(|n| n < r.count);
        let Some(range) = granted.iter().find(holds) else { return false };
        let here = (range.count - (next - range.outside)).min(left);
        left -= here;
        next = next.saturating_add(here);
    }
    true
}

/// The ranges that `database` (subuid(5)) grants to a user by name or number, as (start, count).
/// Lines that are none are skipped, as shadow does.
fn granted(database: &[u8], name: Option<&[u8]>, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let mut ranges = Vec::new();
    for line in database.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b':');
        let (Some(who), Some(start), Some(count), None) = (
            fields.next(),
            fields.next().and_then(parse),
            fields.next().and_then(parse),
            fields.next(),
        ) else {
            continue;
        };
        let is_me = Some(who) == name || who == number.as_bytes();
        if is_me && count > 0 && start.checked_add(count).is_some() {
            ranges.push((start, count));
        }
    }
    ranges
}

/// The login name of `uid` in a passwd(5) file. Read directly: a static binary has no NSS.
fn user_name(passwd: &[u8], uid: u32) -> Option<&[u8]> {
    passwd.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let name = fields.next()?;
        (fields.nth(1).and_then(parse)? == uid).then_some(name)
    })
}

fn parse(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn read_database(path: &str) -> Result<Vec<u8>> {
    // Room for a usual one, which then takes one read.
    let mut text = Vec::with_capacity(8 << 10);
    match std::fs::File::open(path) {
        Ok(file) => {
            file.take(MAX_DATABASE_BYTES + 1)
                .read_to_end(&mut text)
                .call("read", || path.into())?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(SysError::from_io("open", path, &e)),
    }
    if text.len() as u64 > MAX_DATABASE_BYTES {
        return Err(SysError::new("read", path, Errno::EFBIG));
    }
    Ok(text)
}

/// The program of that name. Looked for in PATH and where distributions put it: a login shell's PATH
/// may lack sbin.
pub fn find_helper(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .chain(["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok())
}

fn map_text(map: &[IdRange]) -> String {
    map.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect()
}

fn write_proc(pid: i32, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    // One write(2): the kernel takes a map once and whole.
    std::fs::write(&path, text).call("write", || format!("{path}, {text:?}"))
}

/// A set-uid helper at work.
struct Helper {
    name: &'static str,
    args: String,
    child: Child,
}

impl Helper {
    fn start(name: &'static str, path: &Path, pid: i32, map: &[IdRange]) -> Result<Self> {
        let numbers = map.iter().flat_map(|r| [r.inside, r.outside, r.count]);
        let args: Vec<String> =
            std::iter::once(pid.to_string()).chain(numbers.map(|n| n.to_string())).collect();
        let child = Command::new(path)
            .args(&args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .call(name, || args.join(" "))?;
        Ok(Self { name, args: args.join(" "), child })
    }

    fn finish(mut self) -> Result<()> {
        let mut said = Vec::new();
        let read = match self.child.stderr.take() {
            // The pipe closes with it: a helper that says more than is wanted does not wait.
            Some(pipe) => pipe.take(MAX_COMPLAINT_BYTES).read_to_end(&mut said).map(drop),
            None => Ok(()),
        };
        let status = self.child.wait().and_then(|status| read.map(|()| status));
        if status.call(self.name, || self.args.clone())?.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let said = said.lines().next().unwrap_or("no message").trim();
        Err(SysError::new(self.name, format!("{}: {said}", self.args), Errno::EPERM))
    }
}

/// While it lives, no process of the same user looks into this one. The helpers are looked for in
/// PATH: where the program itself runs in a container, the image's are found, and through
/// `/proc/PID/exe` they would reach the host's file that it runs from (CVE-2019-5736).
struct Hidden {
    was_open: bool,
}

impl Hidden {
    fn hide() -> Result<Self> {
        // SAFETY: integers only.
        let was_open = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) } == 1;
        if was_open {
            prctl::set_dumpable(false).call("prctl", || "PR_SET_DUMPABLE, 0".into())?;
        }
        Ok(Self { was_open })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.was_open {
            // It has just been possible; a process that stays hidden is no danger.
            let _ = prctl::set_dumpable(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_granted_by_name_and_by_number() {
        let database = b"eva:100000:65536\n# note\n1000:300000:10\nother:5:5\neva:bad:1\neva:1:0\n";
        assert_eq!(granted(database, Some(b"eva"), 1000), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(granted(database, None, 1000), [(300_000, 10)]);
        assert!(granted(b"eva:4294967290:65536\n", Some(b"eva"), 1).is_empty());
    }

    #[test]
    fn the_own_id_comes_first() {
        let map = lay_out(1000, &[(100_000, 65_536), (300_000, 10)]);
        assert_eq!(map_text(&map), "0 1000 1\n1 100000 65536\n65537 300000 10\n");
    }

    #[test]
    fn the_own_number_is_kept_and_all_but_two_stay() {
        let map = lay_out(1000, &[(100_000, 65_536)]);
        let kept = |id| map_text(&exchange(&map, id));
        assert_eq!(kept(1000), "0 100999 1\n1 100000 999\n1000 1000 1\n1001 101000 64536\n");
        assert_eq!(kept(1), "0 100000 1\n1 1000 1\n2 100001 65535\n");
        assert_eq!(kept(65_536), "0 165535 1\n1 100000 65535\n65536 1000 1\n");
        assert_eq!(kept(0), map_text(&map));
        // Past the range there is nobody to become 0.
        assert_eq!(kept(70_000), "1 100000 65536\n70000 1000 1\n");
        assert_eq!(map_text(&exchange(&lay_out(1000, &[]), 1000)), "1000 1000 1\n");
    }

    #[test]
    fn what_is_granted_may_lie_in_lines_that_follow_each_other() {
        let granted = lay_out(1000, &[(100_000, 10), (100_010, 10), (200_000, 1)]);
        let covered = |outside, count| covers(&granted, IdRange { inside: 0, outside, count });
        assert!(covered(1000, 1) && covered(100_000, 20) && covered(100_005, 15));
        assert!(!covered(1000, 2) && !covered(100_000, 21) && !covered(99_999, 2));
        assert!(!covered(u32::MAX, 1) && !covered(0, u32::MAX));
    }

    #[test]
    fn the_kernels_map_is_read() {
        let text = "         0       1000          1\n         1     100000      65536\n";
        assert_eq!(map_text(&parse_map(text)), "0 1000 1\n1 100000 65536\n");
    }

    #[test]
    fn a_login_name_is_found_by_number() {
        let passwd = b"root:x:0:0::/root:/bin/sh\neva:x:1000:1000::/home/eva:/bin/sh\n";
        assert_eq!(user_name(passwd, 1000), Some(&b"eva"[..]));
        assert_eq!(user_name(passwd, 1001), None);
    }
}
