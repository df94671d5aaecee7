//! `inspect`: all that is known of a container, as JSON.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ctsys::process::ProcessId;
use ctsys::record::ImageRecord;
use ctsys::state::{ContainerState, Status};
use serde::Serialize;
use serde_json::Value;

use super::show::text;
use super::{LifecycleError, Result, find, root_with};
use crate::log::{LOG_FILE, OLD_LOG_FILE};
use crate::record::{CONFIG_FILE, MAX_CONFIG_BYTES};

/// A container as `inspect` shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspected {
    id: String,
    name: String,
    status: &'static str,
    pid: i32,
    /// The main command's number outside.
    main_pid: Option<i32>,
    /// That of the process outside that waits.
    monitor_pid: Option<i32>,
    created: String,
    started: Option<String>,
    finished: Option<String>,
    exit_code: Option<i32>,
    /// The kernel killed a process of it because memory was short.
    oom_killed: bool,
    /// Why there is no exit code though the container has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    /// The record goes with the container.
    auto_remove: bool,
    bundle: PathBuf,
    rootfs: PathBuf,
    image: Option<Image>,
    /// Labels and the image's own properties.
    annotations: BTreeMap<String, String>,
    exposed_ports: Vec<String>,
    /// Its own, where it has limits.
    cgroup: Option<PathBuf>,
    mounts: Value,
    /// The newest of its output; what was written before stands beside it, in `log.1`.
    log_path: Option<PathBuf>,
    log_bytes: u64,
    /// The configuration that it runs by, this run's flags applied; null before it has one.
    config: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    reference: String,
    manifest_digest: String,
}

/// The containers that were named, as a JSON array (ends with a newline).
pub fn inspect(names: &[String]) -> Result<String> {
    let all = names.iter().map(|name| one(find(name)?)).collect::<Result<Vec<_>>>()?;
    Ok(text(serde_json::to_string_pretty(&all)))
}

fn one(state: ContainerState) -> Result<Inspected> {
    let dir = root_with(&state.name)?.container_dir(&state.id)?;
    let config = config(&dir.join(CONFIG_FILE), &state.name)?;
    let size = |name: &str| std::fs::metadata(dir.join(name)).map(|meta| meta.len()).ok();
    let log_bytes = size(LOG_FILE);
    let pid = |process: &Option<ProcessId>| {
        process.map(|p| p.pid).filter(|_| state.status != Status::Stopped)
    };
    let has_ended_unseen = state.status == Status::Stopped && state.exit_code.is_none();
    Ok(Inspected {
        image: image(&state.rootfs)?,
        id: state.id,
        name: state.name,
        status: state.status.as_str(),
        pid: state.pid,
        main_pid: pid(&state.main),
        monitor_pid: pid(&state.monitor),
        created: state.created,
        started: state.started,
        finished: state.finished,
        exit_code: state.exit_code,
        oom_killed: state.oom_killed,
        error: has_ended_unseen.then_some("exit code unknown: the minirun outside was killed"),
        auto_remove: state.transient,
        bundle: state.bundle,
        rootfs: state.rootfs,
        annotations: state.annotations,
        exposed_ports: state.exposed_ports,
        cgroup: state.cgroup,
        mounts: config.get("mounts").cloned().unwrap_or_default(),
        log_path: log_bytes.map(|_| dir.join(LOG_FILE)),
        log_bytes: log_bytes.unwrap_or(0) + size(OLD_LOG_FILE).unwrap_or(0),
        config,
    })
}

fn config(path: &Path, name: &str) -> Result<Value> {
    let failed =
        |source| LifecycleError::Io { step: "read the configuration", name: name.into(), source };
    let file = match File::open(path) {
        // It is being set up, or is gone by now.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        other => other.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        let reason = format!("larger than {MAX_CONFIG_BYTES} bytes");
        return Err(failed(std::io::Error::other(reason)));
    }
    serde_json::from_slice(&bytes)
        .map_err(|source| LifecycleError::Damaged { path: path.into(), source })
}

fn image(rootfs: &Path) -> Result<Option<Image>> {
    let record = ImageRecord::read(rootfs)?;
    Ok(record.map(|record| Image {
        reference: record.canonical_reference,
        manifest_digest: record.manifest_digest,
    }))
}
