//! `top`: the processes of a container, looked at from outside, so that the image needs no ps.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use ctsys::idmap::{self, IdRange};
use ctsys::report::escape;
use ctsys::state::ContainerState;
use nix::unistd::{SysconfVar, sysconf};

use super::show::table;
use super::{LifecycleError, Result, find_started, sys};
use crate::user::Accounts;

/// Of /proc/PID/status and stat: some kilobytes, but for the groups of a process that is in many.
const MAX_STATUS_BYTES: u64 = 1 << 20;
/// Of a command line so much is shown, with an ellipsis where there is more: it may have megabytes.
const SHOWN_COMMAND_BYTES: usize = 4096;
/// Kernel ticks a second when sysconf(3) does not say (USER_HZ).
const USER_HZ: u64 = 100;

/// The container's processes as a table with a header line, by their numbers inside: number inside,
/// number outside, user inside, processor time, command.
pub fn top(name: &str) -> Result<String> {
    let state = find_started(name)?;
    let mut found = processes(&state)?;
    found.sort_by_key(|process| process.inner_pid);
    let maps = state.main.map(|main| idmap::of_process(main.pid));
    let maps = maps.transpose().map_err(|source| sys("look at", &state.name, source))?;
    let uids = maps.map(|maps| maps.uids).unwrap_or_default();
    let accounts = Accounts::read(&state.rootfs);
    let header = ["PID", "HPID", "USER", "TIME", "COMMAND"].map(str::to_owned);
    let rows = found.into_iter().map(|process| {
        [
            process.inner_pid.to_string(),
            process.pid.to_string(),
            user(process.uid, &uids, &accounts),
            minutes(process.ticks),
            escape(&process.command).into_owned(),
        ]
    });
    Ok(table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
}

/// One process of a container.
struct Process {
    pid: i32,
    /// Its number in the container's pid namespace.
    inner_pid: i32,
    /// Its effective user, as a number outside.
    uid: u32,
    /// Processor time, user's and system's, in kernel ticks.
    ticks: u64,
    command: String,
}

/// Those in the pid namespace of the main command, and the init, whose namespace cannot be asked for:
/// it hides itself.
fn processes(state: &ContainerState) -> Result<Vec<Process>> {
    let failed = |source| LifecycleError::Io {
        step: "list the processes",
        name: state.name.clone(),
        source,
    };
    let namespace = state.main.and_then(|main| pid_namespace(main.pid));
    let init = state.init.map(|init| init.pid);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let is_inside = namespace.is_some() && pid_namespace(pid) == namespace;
        if is_inside || init == Some(pid) {
            // One that has ended meanwhile is none.
            found.extend(Process::look(pid));
        }
    }
    Ok(found)
}

fn pid_namespace(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

impl Process {
    fn look(pid: i32) -> Option<Self> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let status = read(&dir.join("status"))?;
        let stat = read(&dir.join("stat"))?;
        Some(Self {
            pid,
            inner_pid: status_field(&status, "NSpid:")?
                .split_whitespace()
                .next_back()?
                .parse()
                .ok()?,
            // Real, effective, saved, file system's.
            uid: status_field(&status, "Uid:")?.split_whitespace().nth(1)?.parse().ok()?,
            ticks: ticks(&stat)?,
            command: command(&dir).or_else(|| kernel_name(&status))?,
        })
    }
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_STATUS_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// Fields 14 and 15 of proc_pid_stat(5), counted from the last parenthesis of the command's name.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Words with spaces between; `None` for a process that shows none, as the init and zombies.
fn command(dir: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(dir.join("cmdline")).ok()?;
    file.take(SHOWN_COMMAND_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
    let is_cut = bytes.len() > SHOWN_COMMAND_BYTES;
    bytes.truncate(SHOWN_COMMAND_BYTES);
    let words = String::from_utf8_lossy(&bytes);
    let words = words.trim_end_matches('\0').replace('\0', " ");
    (!words.is_empty()).then(|| if is_cut { words + "…" } else { words })
}

fn kernel_name(status: &str) -> Option<String> {
    status_field(status, "Name:").map(|name| format!("[{}]", name.trim()))
}

/// The name inside, else the number there; one that the container does not have as it is outside.
fn user(uid: u32, map: &[IdRange], accounts: &Accounts) -> String {
    let inside = map.iter().find_map(|range| {
        let above = uid.checked_sub(range.outside).filter(|above| *above < range.count)?;
        range.inside.checked_add(above)
    });
    match inside {
        Some(uid) => accounts.name(uid).unwrap_or_else(|| uid.to_string()),
        None => format!("({uid})"),
    }
}

/// As ps has it: hours, minutes, seconds.
fn minutes(ticks: u64) -> String {
    let a_second = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let a_second = a_second.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    let seconds = ticks / a_second.unwrap_or(USER_HZ);
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_those_inside() {
        let map = [
            IdRange { inside: 0, outside: 1000, count: 1 },
            IdRange { inside: 1, outside: 100_000, count: 65_536 },
        ];
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/:\nweb:x:33:33::/:\nodd\x1b:x:34:34::/:\n";
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        let accounts = Accounts::read(dir.path());
        let name = |uid| user(uid, &map, &accounts);
        assert_eq!(name(1000), "root");
        assert_eq!(name(100_032), "web");
        assert_eq!(name(100_033), "34", "a name that would act on a terminal");
        assert_eq!(name(100_099), "100");
        assert_eq!(name(7), "(7)");
    }

    #[test]
    fn times_are_those_of_the_process() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 120 30 0 0 20 0 1 0 4242 1 2 3\n";
        assert_eq!(ticks(stat), Some(150));
        assert_eq!(minutes(150 + 3600 * 100), "01:00:01");
    }
}
