//! What is recorded of a container, and what of it is true now.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::StateError;
use crate::process::ProcessId;

/// A container as its runtime recorded it.
///
/// The first fields are runtime-spec's state (runtime.md, "State").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// Version of the runtime specification that the state follows.
    pub oci_version: String,
    /// Unique among the caller's containers.
    pub id: String,
    /// What the runtime last wrote; [`ContainerState::live_status`] is what is true now.
    pub status: Status,
    /// The container's PID 1, numbered in the namespace of the runtime; 0 when there is none.
    pub pid: i32,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// The configuration's annotations.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// The name the user knows it by.
    pub name: String,
    /// Absolute path of the root filesystem.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339, UTC.
    pub created: String,
    /// The init process (PID 1 inside).
    pub init: Option<ProcessId>,
    /// The main command, a child of the init. Its pidfd is the owner's way into the namespaces:
    /// the init, hidden from the container, refuses all but root.
    pub main: Option<ProcessId>,
    /// The process outside that waits for the container's end.
    pub monitor: Option<ProcessId>,
    /// Ports that the image says it serves, as in its config: `8080/tcp`.
    #[serde(default)]
    pub exposed_ports: Vec<String>,
    /// Absolute path of its cgroup, where it has one of its own; to be removed with the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Whether the kernel killed a process of it because memory was short.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// How it ended: the exit code, 128 + n for signal n; `None` before, and for good where the
    /// process outside was killed before it could say.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// When the main command was started, RFC 3339, UTC.
    #[serde(default)]
    pub started: Option<String>,
    /// When the container ended; `None` as for [`ContainerState::exit_code`].
    #[serde(default)]
    pub finished: Option<String>,
    /// The record goes with the container: one in the foreground, or with `--rm`.
    #[serde(default)]
    pub transient: bool,
}

/// Runtime-spec's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being set up.
    Creating,
    /// Set up, the user's program not started.
    Created,
    /// The user's program runs.
    Running,
    /// All over.
    Stopped,
}

impl Status {
    /// The word that runtime-spec uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

impl ContainerState {
    /// Whether the process outside was killed before it could record the end. The container ends
    /// with it: the init has asked for SIGKILL at its parent's death.
    pub fn is_abandoned(&self) -> Result<bool, StateError> {
        match &self.monitor {
            Some(monitor) if self.status != Status::Stopped => Ok(!monitor.is_alive()?),
            _ => Ok(false),
        }
    }

    /// The status by what still runs: a recorded one is out of date once the processes are gone,
    /// as after the monitor was killed.
    ///
    /// Either process of a container tells that it runs: the init hides itself, and where /proc is
    /// mounted with `hidepid=2` (proc(5)) its owner finds only the main command there. Where no init
    /// could be recorded for that reason, the monitor stands for it, as it ends with it.
    pub fn live_status(&self) -> Result<Status, StateError> {
        let alive = |p: &Option<ProcessId>| p.map_or(Ok(false), |p| p.is_alive());
        Ok(match self.status {
            Status::Creating if alive(&self.monitor)? => Status::Creating,
            Status::Created | Status::Running
                if alive(&self.init.or(self.monitor))? || alive(&self.main)? =>
            {
                self.status
            }
            _ => Status::Stopped,
        })
    }
}
