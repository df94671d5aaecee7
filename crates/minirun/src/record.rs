//! A container's record while its launcher runs: taken before anything is made, kept up to date,
//! marked or removed at the end.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ctsys::error::Context;
use ctsys::process::ProcessId;
use ctsys::state::{ContainerState, StateError, StateLock, StateRoot, Status};
use oci_spec::runtime::Spec;

use crate::launch::Launch;
use crate::log::{drop_old_part, is_full, new_file};
use crate::sweep;

/// The configuration that the container runs by, in its state directory: this run's flags applied.
pub(crate) const CONFIG_FILE: &str = "config.json";
/// A kept configuration larger than this is not one of ours; engines' are some tens of kilobytes.
pub(crate) const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Takes the exit code of a container that leaves no record: who waits for it has this file open.
pub(crate) const EXIT_FILE: &str = "exit";

/// The record of one container, held by its launcher.
#[derive(Debug)]
pub(crate) struct Record {
    root: StateRoot,
    state: ContainerState,
    dir: PathBuf,
    exit_file: Option<File>,
}

impl Record {
    /// Takes the launch's id and name for the calling process. One of a container that has stopped
    /// is free: its record goes.
    pub(crate) fn reserve(root: StateRoot, launch: &Launch) -> Result<Self, StateError> {
        let lock = root.lock()?;
        match root.load(&launch.id) {
            Ok(other) => {
                sweep::await_end(&other, sweep::KILL_LIMIT)?;
                if other.live_status()? != Status::Stopped {
                    return Err(StateError::Exists(launch.name.clone()));
                }
                sweep::forget(&root, &other, &lock)?;
            }
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
            started: None,
            finished: None,
            transient: launch.remove || !launch.detach,
        };
        let dir = root.create(&state, &lock)?;
        Ok(Self { root, state, dir, exit_file: None })
    }

    /// Looks after containers whose minirun was killed. For the time when this one's command runs:
    /// no start has to wait for it.
    pub(crate) fn sweep_others(&self) {
        if self.root.had_containers() {
            // Whoever is asked about containers says what is wrong with them.
            let _ = sweep::clean(&self.root, sweep::MOST_AT_A_START, Duration::ZERO);
        }
    }

    /// Where the container's files lie.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
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
        let mut file = new_file(&path).call("open", || format!("{path:?}, O_CREAT"))?;
        Ok(file.write_all(&text).call("write", || format!("{path:?}"))?)
    }

    /// Lets others wait for the exit code of a container that will leave no record.
    pub(crate) fn offer_exit_code(&mut self) -> Result<(), StateError> {
        let path = self.dir.join(EXIT_FILE);
        let file = new_file(&path).call("open", || format!("{path:?}, O_CREAT"))?;
        self.exit_file = Some(file);
        Ok(())
    }

    /// The user's program runs.
    pub(crate) fn running(&mut self, init: i32, main: i32) -> Result<(), StateError> {
        self.state.init = ProcessId::of(init)?;
        self.state.main = ProcessId::of(main)?;
        self.state.pid = init;
        self.state.status = Status::Running;
        self.state.started = Some(timestamp(SystemTime::now()));
        let lock = self.root.lock()?;
        self.root.update(&self.state, &lock)
    }

    /// It is over: the record stays for those who ask how, unless it was to go.
    pub(crate) fn ended(mut self, code: u8) -> Result<(), StateError> {
        if !self.state.transient {
            return self.stopped(code);
        }
        if let Some(file) = &mut self.exit_file {
            // Those who wait then hear that it is not known.
            let _ = write!(file, "{code}");
        }
        self.remove()
    }

    fn stopped(&mut self, code: u8) -> Result<(), StateError> {
        let lock = self.root.lock()?;
        if !self.is_ours() {
            return Ok(());
        }
        self.state.status = Status::Stopped;
        self.state.pid = 0;
        self.state.exit_code = Some(code.into());
        // One that stays is removed with the record.
        if sweep::remove_cgroup(&self.state).is_ok() {
            self.state.cgroup = None;
        }
        self.state.finished = Some(timestamp(SystemTime::now()));
        match self.root.update(&self.state, &lock) {
            // How it ended is worth more than what it wrote long ago.
            Err(StateError::Sys(error)) if is_full(error.errno()) && drop_old_part(&self.dir) => {
                self.root.update(&self.state, &lock)
            }
            other => other,
        }
    }

    /// The lock under which no container starts, if no other one has this root filesystem.
    pub(crate) fn lock_if_alone(&self) -> Result<Option<StateLock>, StateError> {
        let lock = self.root.lock()?;
        for other in self.root.list()? {
            if other.id != self.state.id
                && other.rootfs == self.state.rootfs
                && other.live_status()? != Status::Stopped
            {
                return Ok(None);
            }
        }
        Ok(Some(lock))
    }

    /// It is over and nobody will ask.
    pub(crate) fn remove(self) -> Result<(), StateError> {
        let lock = self.root.lock()?;
        if self.is_ours() { sweep::forget(&self.root, &self.state, &lock) } else { Ok(()) }
    }

    /// Whether the record is still this container's: `delete --force` may have removed it, and
    /// another container have taken the id. The lock must be held.
    fn is_ours(&self) -> bool {
        self.root.load(&self.state.id).is_ok_and(|now| now.monitor == self.state.monitor)
    }
}

fn own((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
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
