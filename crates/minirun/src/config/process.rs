//! The process: command, environment, directory, user and capabilities.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, User};

use super::{DEFAULT_COMMAND, DEFAULT_TERM, Inputs, settable_gids};
use crate::spec::DEFAULT_PATH;
use crate::user::{Ids, UserError};

/// What docker gives to root inside a container.
const DOCKER_CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

pub(super) fn generate(inputs: &Inputs<'_>) -> Result<Process, UserError> {
    let ids = inputs.accounts.resolve(inputs.user)?;
    let args = inputs.image.map_or_else(|| vec![DEFAULT_COMMAND.into()], |image| image.args());
    let cwd = inputs.image.map_or_else(|| "/".into(), |image| image.cwd.clone());
    let mut env = inputs.image.map(|image| image.env.clone()).unwrap_or_default();
    // conversion.md: entries may be added, but none whose name the image has.
    add_default(&mut env, &format!("PATH={DEFAULT_PATH}"));
    add_default(&mut env, &format!("HOME={}", inputs.accounts.home(ids.uid)));
    if inputs.terminal {
        add_default(&mut env, DEFAULT_TERM);
    }
    let mut process = Process::default();
    process
        .set_terminal(Some(inputs.terminal))
        .set_capabilities(Some(capabilities(ids.uid)))
        .set_user(user(&Ids {
            additional_gids: settable_gids(inputs.maps, ids.additional_gids),
            ..ids
        }))
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(cwd.into())
        .set_rlimits(None)
        .set_no_new_privileges(Some(false));
    Ok(process)
}

pub(super) fn user(ids: &Ids) -> User {
    let more = (!ids.additional_gids.is_empty()).then(|| ids.additional_gids.clone());
    let mut user = User::default();
    user.set_uid(ids.uid).set_gid(ids.gid).set_additional_gids(more);
    user
}

/// Docker's rule: root has them, another user may only get them back through a set-uid program.
/// None is inheritable or ambient (CVE-2022-29162).
fn capabilities(uid: u32) -> LinuxCapabilities {
    let all = HashSet::from(DOCKER_CAPABILITIES);
    let held = if uid == 0 { all.clone() } else { HashSet::new() };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(all))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}

/// The sets for another user. A configuration that has ambient capabilities knows better which a
/// user other than root has, and stays.
pub(super) fn change_capabilities(mut sets: LinuxCapabilities, uid: u32) -> LinuxCapabilities {
    if uid != 0 && sets.ambient().as_ref().is_some_and(|set| !set.is_empty()) {
        return sets;
    }
    let bounding = sets.bounding().clone().unwrap_or_default();
    let held = if uid == 0 { bounding } else { HashSet::new() };
    sets.set_effective(Some(held.clone())).set_permitted(Some(held));
    sets
}

/// The name before the `=`.
pub(super) fn variable_name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// Sets the variable of `entry`, whatever it was.
pub(super) fn set_variable(env: &mut Vec<String>, entry: String) {
    let name = variable_name(&entry).to_owned();
    match env.iter_mut().find(|e| variable_name(e) == name) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// Adds `entry` unless its variable is set.
pub(super) fn add_default(env: &mut Vec<String>, entry: &str) {
    if !env.iter().any(|e| variable_name(e) == variable_name(entry)) {
        env.push(entry.into());
    }
}

/// Adds the terminal's type where there is none.
pub(super) fn add_term(env: &mut Vec<String>) {
    add_default(env, DEFAULT_TERM);
}
