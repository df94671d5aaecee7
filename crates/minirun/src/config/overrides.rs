//! What the flags of one run change in a configuration, whoever wrote it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ctsys::idmap::IdMaps;
use oci_spec::runtime::{Process, Spec};

use super::ephemeral::{self, Ephemeral};
use super::limits::Limits;
use super::mounts::MountChanges;
use super::process::{add_term, change_capabilities, set_variable, user};
use super::rights::RightsChanges;
use super::security::Security;
use super::settable_gids;
use crate::seccomp::profile::Profile;
use crate::user::{Accounts, Ids, UserError, UserSpec};

/// What was asked for, for one run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// The words after `--`.
    pub command: Vec<String>,
    /// Instead of the image's; empty takes it away.
    pub entrypoint: Option<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute working directory.
    pub workdir: Option<PathBuf>,
    /// Who to run as.
    pub user: Option<UserSpec>,
    /// Mounts.
    pub mounts: MountChanges,
    /// Rights, limits and kernel parameters.
    pub rights: RightsChanges,
    /// The host name inside.
    pub hostname: Option<String>,
    /// Do not let the root filesystem be written.
    pub read_only: bool,
    /// Labels, and how the container is stopped.
    pub annotations: BTreeMap<String, String>,
    /// What it may do to the kernel.
    pub security: Security,
    /// Throw all changes of the root filesystem away.
    pub ephemeral: Option<Ephemeral>,
    /// Limits and the like.
    pub limits: Limits,
}

/// What the changes depend on.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The image's entrypoint, which stays in front of a command.
    pub entrypoint: &'a [String],
    /// The accounts of the root filesystem.
    pub accounts: &'a Accounts,
    /// The ids that the container has.
    pub maps: &'a IdMaps,
    /// Give the command a terminal of its own.
    pub terminal: bool,
    /// The seccomp profile that is asked for by its file's name, and the kernel's version.
    pub profile: Option<(&'a Profile, (u64, u64))>,
    /// The volumes that the image names.
    pub volumes: &'a [PathBuf],
}

/// Changes `spec` as `overrides` ask.
pub fn apply(
    spec: &mut Spec,
    overrides: &Overrides,
    context: &Context<'_>,
) -> Result<(), UserError> {
    if let Some(process) = spec.process_mut() {
        change_process(process, overrides, context)?;
    }
    if let Some(hostname) = &overrides.hostname {
        spec.set_hostname(Some(hostname.clone()));
    }
    if overrides.read_only
        && let Some(root) = spec.root_mut()
    {
        root.set_readonly(Some(true));
    }
    if !overrides.annotations.is_empty() {
        let added = overrides.annotations.iter().map(|(key, value)| (key.clone(), value.clone()));
        spec.annotations_mut().get_or_insert_default().extend(added);
    }
    overrides.mounts.apply(spec, context.volumes);
    if let Some(ephemeral) = overrides.ephemeral {
        ephemeral::apply(spec, ephemeral);
    }
    overrides.limits.apply(spec);
    overrides.rights.apply(spec, context.accounts)?;
    // What of a profile is in force depends on the capabilities.
    overrides.security.apply(spec, context.profile);
    Ok(())
}

/// The part of [`apply`] that concerns the process.
pub(crate) fn change_process(
    process: &mut Process,
    overrides: &Overrides,
    context: &Context<'_>,
) -> Result<(), UserError> {
    let args =
        command(process.args().as_deref().unwrap_or_default(), overrides, context.entrypoint);
    process.set_args(Some(args)).set_terminal(Some(context.terminal));
    if let Some(wanted) = &overrides.user {
        change_user(process, context, context.accounts.resolve(wanted)?);
    }
    let env = process.env_mut().get_or_insert_default();
    for entry in &overrides.env {
        set_variable(env, entry.clone());
    }
    if context.terminal {
        add_term(env);
    }
    if let Some(workdir) = &overrides.workdir {
        process.set_cwd(workdir.clone());
    }
    Ok(())
}

/// Docker's rule: a command replaces Cmd, another entrypoint replaces both. In a configuration
/// that does not begin with the image's entrypoint (somebody edited it) it replaces everything.
fn command(args: &[String], overrides: &Overrides, entrypoint: &[String]) -> Vec<String> {
    if let Some(wanted) = &overrides.entrypoint {
        let first = Some(wanted.clone()).filter(|word| !word.is_empty());
        return first.into_iter().chain(overrides.command.iter().cloned()).collect();
    }
    if overrides.command.is_empty() {
        return args.to_vec();
    }
    let kept = if args.starts_with(entrypoint) { entrypoint } else { &[] };
    [kept, &overrides.command].concat()
}

fn change_user(process: &mut Process, context: &Context<'_>, ids: Ids) {
    let old_home = format!("HOME={}", context.accounts.home(process.user().uid()));
    // A HOME that was the former user's follows the user; another one was chosen and stays.
    if process.env().iter().flatten().any(|entry| *entry == old_home) {
        let home = format!("HOME={}", context.accounts.home(ids.uid));
        set_variable(process.env_mut().get_or_insert_default(), home);
    }
    let capabilities = process.capabilities().as_ref();
    let changed = capabilities.map(|sets| change_capabilities(sets.clone(), ids.uid));
    process.set_capabilities(changed);
    let additional_gids = settable_gids(context.maps, ids.additional_gids);
    let umask = process.user().umask();
    let mut user = user(&Ids { additional_gids, ..ids });
    user.set_umask(umask);
    process.set_user(user);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    fn with(entrypoint: Option<&str>, typed: &str) -> Overrides {
        let entrypoint = entrypoint.map(String::from);
        Overrides { command: words(typed), entrypoint, ..Overrides::default() }
    }

    #[test]
    fn a_command_replaces_cmd_and_an_entrypoint_both() {
        let run = |overrides, args: &str, entrypoint: &str| {
            command(&words(args), &overrides, &words(entrypoint)).join(" ")
        };
        assert_eq!(run(with(None, ""), "ep a", "ep"), "ep a");
        assert_eq!(run(with(None, "b c"), "ep a", "ep"), "ep b c");
        assert_eq!(run(with(None, "b"), "sh", ""), "b");
        assert_eq!(run(with(None, "b"), "edited by hand", "ep"), "b");
        assert_eq!(run(with(Some("x"), "b"), "ep a", "ep"), "x b");
        assert_eq!(run(with(Some("x"), ""), "ep a", "ep"), "x");
        assert_eq!(run(with(Some(""), "b"), "ep a", "ep"), "b");
    }
}
