//! `process`, checked: who runs what, with which rights.

use std::ffi::CString;
use std::path::PathBuf;

use ctsys::idmap::{IdMaps, MapWriter};
use ctsys::tty::WindowSize;
use nix::sys::resource::Resource;
use oci_spec::runtime::{self, Capabilities};

use super::{PlanError, Result, container_path, invalid, maps_id};
use crate::config::ulimit::resource;

/// A program to start in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Give it a terminal of its own.
    pub terminal: bool,
    /// That terminal's first size, when nobody outside has one.
    pub console_size: Option<WindowSize>,
    /// Command and arguments; not empty.
    pub args: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// Absolute path in the container.
    pub cwd: PathBuf,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Additional group ids inside.
    pub groups: Vec<u32>,
    /// Whether setgroups(2) may be called at all.
    pub can_set_groups: bool,
    /// File mode creation mask.
    pub umask: u32,
    /// Capabilities.
    pub capabilities: CapabilitySets,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// No program that it starts gains rights.
    pub no_new_privileges: bool,
    /// Adjustment of the out-of-memory killer's score, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

/// Capability sets as masks: bit n is capability n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySets {
    /// What can ever be gained.
    pub bounding: u64,
    /// What is in force.
    pub effective: u64,
    /// What can be put in force.
    pub permitted: u64,
    /// What passes through execve(2) of a file that asks for it. Empty unless configured: else
    /// such files would gain rights nobody meant to give (CVE-2022-29162).
    pub inheritable: u64,
    /// What passes through any execve(2).
    pub ambient: u64,
}

/// One resource limit (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Of what.
    pub resource: Resource,
    /// What is enforced.
    pub soft: u64,
    /// Up to where the process may raise it.
    pub hard: u64,
}

impl Process {
    /// The checked form of `process` in a user namespace with `maps`.
    pub fn new(process: &runtime::Process, maps: &IdMaps) -> Result<Self> {
        refuse_unsupported(process)?;
        let user = process.user();
        let groups = user.additional_gids().clone().unwrap_or_default();
        let can_set_groups = maps.writer != MapWriter::Direct;
        if !can_set_groups && groups.iter().any(|g| *g != user.gid()) {
            return Err(PlanError::GroupsDenied);
        }
        check_mapped(user, &groups, maps)?;
        let args = strings(process.args().as_deref(), "process.args")?;
        if args.first().is_none_or(|command| command.is_empty()) {
            return Err(PlanError::Missing("a command in process.args"));
        }
        let console_size = process.console_size().map(|size| {
            let fit = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
            WindowSize { rows: fit(size.height()), columns: fit(size.width()) }
        });
        Ok(Self {
            terminal: process.terminal().unwrap_or(false),
            console_size,
            args,
            env: strings(process.env().as_deref(), "process.env")?,
            cwd: container_path(process.cwd(), "process.cwd")?,
            uid: user.uid(),
            gid: user.gid(),
            groups,
            can_set_groups,
            umask: user.umask().unwrap_or(0o022),
            capabilities: capabilities(process.capabilities().as_ref())?,
            rlimits: rlimits(process)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: process.oom_score_adj(),
        })
    }
}

fn refuse_unsupported(process: &runtime::Process) -> Result<()> {
    let set = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    let refused = [
        (set(process.apparmor_profile()), "process.apparmorProfile"),
        (set(process.selinux_label()), "process.selinuxLabel"),
        (process.io_priority().is_some(), "process.ioPriority"),
        (process.scheduler().is_some(), "process.scheduler"),
        (process.exec_cpu_affinity().is_some(), "process.execCPUAffinity"),
        (set(process.command_line()), "process.commandLine"),
    ];
    match refused.iter().find(|(is_set, _)| *is_set) {
        Some((_, field)) => Err(PlanError::Unsupported((*field).to_owned())),
        None => Ok(()),
    }
}

fn check_mapped(user: &runtime::User, groups: &[u32], maps: &IdMaps) -> Result<()> {
    if !maps_id(&maps.uids, user.uid()) {
        return Err(PlanError::Unmapped { what: "user", id: user.uid() });
    }
    match std::iter::once(&user.gid()).chain(groups).find(|id| !maps_id(&maps.gids, **id)) {
        Some(&id) => Err(PlanError::Unmapped { what: "group", id }),
        None => Ok(()),
    }
}

fn strings(list: Option<&[String]>, field: &'static str) -> Result<Vec<CString>> {
    list.unwrap_or_default()
        .iter()
        .map(|s| CString::new(s.as_bytes()).map_err(|_| invalid(field, s, "text without NUL")))
        .collect()
}

fn capabilities(sets: Option<&runtime::LinuxCapabilities>) -> Result<CapabilitySets> {
    let Some(sets) = sets else { return Ok(CapabilitySets::default()) };
    let inheritable = mask(sets.inheritable().as_ref())?;
    let permitted = mask(sets.permitted().as_ref())?;
    Ok(CapabilitySets {
        bounding: mask(sets.bounding().as_ref())?,
        effective: mask(sets.effective().as_ref())?,
        permitted,
        inheritable,
        // The kernel keeps ambient within permitted and inheritable (capabilities(7)), and
        // `runc spec` names ambient ones without inheritable: runc drops those as well.
        ambient: mask(sets.ambient().as_ref())? & inheritable & permitted,
    })
}

fn mask(set: Option<&Capabilities>) -> Result<u64> {
    set.into_iter().flatten().try_fold(0, |mask, capability| {
        let name = format!("CAP_{capability}");
        let known: caps::Capability =
            name.parse().map_err(|_| invalid("process.capabilities", &name, "a capability"))?;
        Ok(mask | 1 << known.index())
    })
}

fn rlimits(process: &runtime::Process) -> Result<Vec<Rlimit>> {
    let mut all: Vec<Rlimit> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = resource(limit.typ());
        if all.iter().any(|r| r.resource == resource) {
            return Err(invalid("process.rlimits", &limit.typ().to_string(), "each type once"));
        }
        if limit.soft() > limit.hard() {
            let got = limit.soft().to_string();
            return Err(invalid("process.rlimits soft", &got, "at most the hard limit"));
        }
        all.push(Rlimit { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(all)
}
