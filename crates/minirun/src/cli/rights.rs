//! What a container's command may do, as typed.

use clap::Args;

use crate::config::capabilities::{self, CapabilityChanges, Named};
use crate::config::rights::RightsChanges;
use crate::config::ulimit::{parse_sysctl, parse_ulimit};
use crate::config::value::{BadValue, octal};
use crate::prepare::{Error, Result};

/// The options for rights and limits.
#[derive(Debug, Args)]
pub(super) struct RightsArgs {
    /// Give the command a capability, also one that does not run as root; ALL for all
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Take a capability away, before others are added; ALL for all
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// Refused: a user namespace has no rights over the host to give
    #[arg(long, hide = true)]
    privileged: bool,
    /// Limit what each process may use: nofile=1024, core=0, nproc=64:128, stack=unlimited
    #[arg(long, value_name = "TYPE=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Set a kernel parameter of the container's own namespaces
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// Add the command to a group, by name or number
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Mode bits that new files do not get, in octal [default: 0022]
    #[arg(long, value_name = "MODE")]
    umask: Option<String>,
    /// NIS domain name inside the container
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Accepted for habit's sake: there is always an init
    #[arg(long)]
    init: bool,
}

/// The kernel's limit of a domain name (setdomainname(2)).
const MAX_DOMAINNAME_BYTES: usize = 64;

impl RightsArgs {
    /// What was typed, as it is meant.
    pub(super) fn changes(&self) -> Result<RightsChanges> {
        if self.privileged {
            return Err(Error::Value(BadValue::new(
                "option",
                "--privileged",
                "without root there are no rights over the host to give",
                "name what is needed: --cap-add ALL, --security-opt seccomp=unconfined, --device /dev/fuse",
            )));
        }
        let groups = self.group_add.iter().map(|text| match text.as_str() {
            "keep-groups" => Err(Error::Value(BadValue::new(
                "group-add",
                text,
                "the caller's groups cannot be named in a configuration",
                "without subordinate ids they are kept anyway; else give a group of the container's",
            ))),
            _ => text.parse().map_err(Error::User),
        });
        let all = |parsed: std::result::Result<Vec<_>, _>| parsed.map_err(Error::Value);
        Ok(RightsChanges {
            capabilities: CapabilityChanges {
                add: named("cap-add", &self.cap_add)?,
                drop: named("cap-drop", &self.cap_drop)?,
            },
            ulimits: all(self.ulimit.iter().map(|text| parse_ulimit(text)).collect())?,
            sysctls: self
                .sysctl
                .iter()
                .map(|text| parse_sysctl(text))
                .collect::<std::result::Result<_, _>>()
                .map_err(Error::Value)?,
            groups: groups.collect::<Result<_>>()?,
            umask: self.umask.as_deref().map(umask).transpose().map_err(Error::Value)?,
            domainname: self
                .domainname
                .clone()
                .map(domainname)
                .transpose()
                .map_err(Error::Value)?,
        })
    }
}

fn named(option: &'static str, typed: &[String]) -> Result<Vec<Named>> {
    let mut all = Vec::new();
    for text in typed {
        all.extend(capabilities::parse(option, text).map_err(Error::Value)?);
    }
    Ok(all)
}

fn umask(text: &str) -> std::result::Result<u32, BadValue> {
    octal(text, 0o777).ok_or_else(|| {
        BadValue::new("umask", text, "no octal number up to 0777", "for example: --umask 0077")
    })
}

fn domainname(text: String) -> std::result::Result<String, BadValue> {
    if (1..=MAX_DOMAINNAME_BYTES).contains(&text.len()) && !text.contains('\0') {
        return Ok(text);
    }
    let hint = "choose another with --domainname NAME";
    Err(BadValue::new("domain name", &text, "want 1 to 64 bytes", hint))
}
