//! A container's record while its launcher runs: taken before anything is made, kept up to date,
//! marked or removed at the end.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ctsys::SysError;
use ctsys::error::Context;
use ctsys::process::ProcessId;
use ctsys::state::{ContainerState, StateError, StateLock, StateRoot, Status};
use oci_spec::runtime::Spec;

use crate::cgroup;
use crate::launch::Launch;

/// The configuration that the container runs by, in its state directory: this run's flags applied.
pub(crate) const CONFIG_FILE: &str = "config.json";
/// What a container in the background writes. Its size is not bounded yet.
pub(crate) const LOG_FILE: &str = "log";

/// The record of one container, held by its launcher.
#[derive(Debug)]
pub(crate) struct Record {
    root: StateRoot,
    state: ContainerState,
    dir: PathBuf,
}

impl Record {
    /// Takes the launch's id and name for the calling process. One of a container that has stopped
    /// is free: its record goes.
    pub(crate) fn reserve(root: StateRoot, launch: &Launch) -> Result<Self, StateError> {
        let lock = root.lock()?;
        match root.load(&launch.id) {
            Ok(other) if other.live_status()? != Status::Stopped => {
                return Err(StateError::Exists(launch.name.clone()));
            }
            Ok(other) => forget(&root, &other, &lock)?,
            Err(StateError::NotFound(_)) => {}
            Err(other) => return Err(other),
        }
        let state = ContainerState {
            oci_version: launch.spec.version().clone(),
            id: launch.id.clone(),
            status: Status::Creating,
            pid: 0,
            bundle: launch.bundle.clone(),
            annotations: launch.spec.annotations().iter().flatten().map(own).collect(),
            name: launch.name.clone(),
            rootfs: launch.rootfs.clone(),
            created: timestamp(SystemTime::now()),
            init: None,
            main: None,
            monitor: ProcessId::of(std::process::id().cast_signed())?,
            exposed_ports: launch.exposed_ports.clone(),
            cgroup: None,
            oom_killed: false,
            exit_code: None,
        };
        let dir = root.create(&state, &lock)?;
        Ok(Self { root, state, dir })
    }

    /// Where the container's cgroup will be: told before it is made, so that whoever finds the record
    /// of one that was killed can remove it.
    pub(crate) fn has_cgroup(&mut self, path: &Path) -> Result<(), StateError> {
        self.state.cgroup = Some(path.into());
        let lock = self.root.lock()?;
        self.root.update(&self.state, &lock)
    }

    /// The kernel killed a process of the container because memory was short.
    pub(crate) fn oom_killed(&mut self) {
        self.state.oom_killed = true;
    }

    /// Keeps the configuration for `exec`, and for those who look.
    pub(crate) fn keep_config(&self, spec: &Spec) -> Result<(), StateError> {
        let path = self.dir.join(CONFIG_FILE);
        let text = serde_json::to_vec_pretty(spec)
            .map_err(|e| StateError::Damaged { path: path.clone(), reason: e.to_string() })?;
        let mut file = new_file(&path)?;
        Ok(file.write_all(&text).call("write", || format!("{path:?}"))?)
    }

    /// The file that takes what a container in the background writes.
    pub(crate) fn log(&self) -> Result<File, SysError> {
        new_file(&self.dir.join(LOG_FILE))
    }

    /// The user's program runs.
    pub(crate) fn running(&mut self, init: i32, main: i32) -> Result<(), StateError> {
        self.state.init = ProcessId::of(init)?;
        self.state.main = ProcessId::of(main)?;
        self.state.pid = init;
        self.state.status = Status::Running;
        let lock = self.root.lock()?;
        self.root.update(&self.state, &lock)
    }

    /// It is over, and the record stays for those who ask how.
    pub(crate) fn stopped(&mut self, code: u8) -> Result<(), StateError> {
        let lock = self.root.lock()?;
        if !self.is_ours() {
            return Ok(());
        }
        self.state.status = Status::Stopped;
        self.state.pid = 0;
        self.state.exit_code = Some(code.into());
        remove_cgroup(&self.state)?;
        self.state.cgroup = None;
        self.root.update(&self.state, &lock)
    }

    /// It is over and nobody will ask.
    pub(crate) fn remove(self) -> Result<(), StateError> {
        let lock = self.root.lock()?;
        if self.is_ours() { forget(&self.root, &self.state, &lock) } else { Ok(()) }
    }

    /// Whether the record is still this container's: `delete --force` may have removed it, and
    /// another container have taken the id. The lock must be held.
    fn is_ours(&self) -> bool {
        self.root.load(&self.state.id).is_ok_and(|now| now.monitor == self.state.monitor)
    }
}

/// Removes a stopped container's record, and its cgroup first: without the record nobody would know
/// of it.
pub(crate) fn forget(
    root: &StateRoot,
    state: &ContainerState,
    lock: &StateLock,
) -> Result<(), StateError> {
    remove_cgroup(state)?;
    root.remove(&state.id, lock)
}

fn remove_cgroup(state: &ContainerState) -> Result<(), StateError> {
    Ok(state.cgroup.as_deref().map_or(Ok(()), cgroup::remove)?)
}

fn own((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// An empty file that only its owner may read. Writers append: the container's two streams share
/// the log. What a creation that was cut off has left of that name goes.
fn new_file(path: &Path) -> Result<File, SysError> {
    let _ = std::fs::remove_file(path);
    let opened = File::options().create_new(true).append(true).mode(0o600).open(path);
    opened.call("open", || format!("{path:?}, O_CREAT"))
}

/// RFC 3339 in UTC with nanoseconds, as runc writes it.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (second, nanosecond) = (second % 60, since.subsec_nanos());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanosecond:09}Z")
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01. Counts in years that
/// begin in March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::new(seconds, 7)), text);
        }
    }
}
