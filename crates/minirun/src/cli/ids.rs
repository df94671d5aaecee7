//! Which ids a container has, as typed.

use clap::Args;

use crate::config::ids::{IdChoice, parse_maps, parse_userns};
use crate::config::value::BadValue;

/// The options for ids.
#[derive(Debug, Args)]
pub(super) struct IdArgs {
    /// Be the same user inside as outside, or another, instead of root
    #[arg(long, value_name = "keep-id[:uid=N,gid=N]", conflicts_with_all = ["uidmap", "gidmap"])]
    userns: Option<String>,
    /// Map users by hand; OUTSIDE is an id of the host's, the own one or one granted in /etc/subuid
    /// (rootless podman counts from 0 there instead)
    #[arg(long, value_name = "INSIDE:OUTSIDE:COUNT")]
    uidmap: Vec<String>,
    /// Map groups by hand, from /etc/subgid [default: as --uidmap]
    #[arg(long, value_name = "INSIDE:OUTSIDE:COUNT")]
    gidmap: Vec<String>,
}

impl IdArgs {
    /// What was typed, as it is meant.
    pub(super) fn choice(&self) -> Result<IdChoice, BadValue> {
        match &self.userns {
            Some(text) => parse_userns(text),
            None => Ok(parse_maps(&self.uidmap, &self.gidmap)?.unwrap_or_default()),
        }
    }
}
