//! What the flags change in the process's rights and limits, and in kernel parameters.

use std::collections::HashMap;

use oci_spec::runtime::Spec;

use super::capabilities::CapabilityChanges;
use super::ulimit::{self, Ulimit};
use crate::user::{Accounts, GroupSpec, UserError};

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RightsChanges {
    /// By `--cap-add` and `--cap-drop`.
    pub capabilities: CapabilityChanges,
    /// By `--ulimit`; of two of one type the last.
    pub ulimits: Vec<Ulimit>,
    /// By `--sysctl`: name and value.
    pub sysctls: Vec<(String, String)>,
    /// By `--group-add`.
    pub groups: Vec<GroupSpec>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// NIS domain name.
    pub domainname: Option<String>,
}

impl RightsChanges {
    /// Changes `spec`, whose process's user is the one that it will have. Groups are those of
    /// `accounts`. A group that cannot be had stays for the plan to refuse: it was asked for.
    pub(super) fn apply(&self, spec: &mut Spec, accounts: &Accounts) -> Result<(), UserError> {
        if let Some(process) = spec.process_mut() {
            let uid = process.user().uid();
            if self.capabilities != CapabilityChanges::default()
                && let Some(mut sets) = process.capabilities().clone()
            {
                self.capabilities.apply(&mut sets, uid);
                process.set_capabilities(Some(sets));
            }
            ulimit::apply(process, &self.ulimits);
            let user = process.user_mut();
            let primary = user.gid();
            for group in &self.groups {
                let gid = accounts.group(group)?;
                let more = user.additional_gids_mut().get_or_insert_default();
                if gid != primary && !more.contains(&gid) {
                    more.push(gid);
                }
            }
            if self.umask.is_some() {
                user.set_umask(self.umask);
            }
        }
        if let Some(linux) = spec.linux_mut().as_mut().filter(|_| !self.sysctls.is_empty()) {
            let all = linux.sysctl_mut().get_or_insert_with(HashMap::new);
            all.extend(self.sysctls.iter().cloned());
        }
        if self.domainname.is_some() {
            spec.set_domainname(self.domainname.clone());
        }
        Ok(())
    }
}
