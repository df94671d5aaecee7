//! Containers as text: a table for people, runc's JSON for programs.

use std::collections::BTreeMap;
use std::path::Path;

use ctsys::idmap;
use ctsys::report::escape;
use ctsys::state::{ContainerState, Status};
use serde::Serialize;

/// What `runc state` and `runc list --format json` say about a container, in their order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuncState<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: &'a str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: String,
}

/// The containers as `minirun list` shows them: a table with a header line.
pub fn list_table(containers: &[ContainerState]) -> String {
    let header = ["ID", "NAME", "PID", "STATUS", "CREATED", "BUNDLE"].map(str::to_owned);
    let rows = containers.iter().map(|c| {
        [
            c.id.clone(),
            c.name.clone(),
            c.pid.to_string(),
            status(c),
            c.created.clone(),
            escape(&c.bundle.to_string_lossy()).into_owned(),
        ]
    });
    table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// The status, with the exit code of one that has ended: `?` where nobody was left to take it.
fn status(container: &ContainerState) -> String {
    let word = container.status.as_str();
    match (container.status, container.exit_code) {
        (Status::Stopped, Some(code)) => format!("{word} ({code})"),
        (Status::Stopped, None) => format!("{word} (?)"),
        _ => word.to_owned(),
    }
}

/// Rows as text, in columns.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  "));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

/// The containers as `list --json` and `list --format json` show them: an array of runc's states.
pub fn list_json(containers: &[ContainerState]) -> String {
    let owner = owner();
    let all: Vec<RuncState<'_>> = containers.iter().map(|c| runc_state(c, &owner)).collect();
    text(serde_json::to_string(&all))
}

/// The container's state as `runc state` prints it (runtime-spec, "State"; ends with a newline).
pub fn state_json(container: &ContainerState) -> String {
    text(serde_json::to_string_pretty(&runc_state(container, &owner())))
}

fn runc_state<'a>(container: &'a ContainerState, owner: &str) -> RuncState<'a> {
    RuncState {
        oci_version: &container.oci_version,
        id: &container.id,
        pid: container.pid,
        status: container.status.as_str(),
        bundle: &container.bundle,
        rootfs: &container.rootfs,
        created: &container.created,
        annotations: &container.annotations,
        owner: owner.to_owned(),
    }
}

/// All of the caller's containers are the caller's own. A user without a passwd entry has no name.
fn owner() -> String {
    let uid = nix::unistd::geteuid().as_raw();
    idmap::login_name(uid).ok().flatten().unwrap_or_else(|| format!("#{uid}"))
}

/// These types have no form that JSON lacks, but for a path that is not UTF-8.
pub(super) fn text(json: serde_json::Result<String>) -> String {
    json.map_or_else(|_| "null\n".into(), |text| text + "\n")
}
