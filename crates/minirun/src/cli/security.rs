//! What a container may do to the kernel, as typed.

use std::path::Path;

use clap::Args;

use crate::config::security::Security;
use crate::prepare::{Error, Result};

/// `--security-opt`, as typed.
#[derive(Debug, Args)]
pub struct SecurityArgs {
    /// seccomp=FILE: filter system calls by a profile of docker's form; seccomp=unconfined: by none;
    /// no-new-privileges: let no program gain rights
    #[arg(long, value_name = "OPTION[=VALUE]")]
    security_opt: Vec<String>,
}

impl SecurityArgs {
    /// What is meant. `dir` is the caller's directory.
    pub(super) fn into_security(self, dir: &Path) -> Result<Security> {
        Security::parse(&self.security_opt, dir).map_err(Error::Security)
    }
}
