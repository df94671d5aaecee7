//! `minirun spec`: writes the config.json that `runc spec` writes.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use ctsys::SysError;
use ctsys::error::Context;
use ctsys::report::Explain;
use nix::errno::Errno;

use crate::bundle::CONFIG_FILE;
use crate::caller::Caller;
use crate::{json, spec};

/// Why no config.json was written. Ends as runc does, with 1.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// There is one.
    #[error("{0:?} exists")]
    Exists(PathBuf),
    /// It could not be written.
    #[error("cannot write {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// It could not be put in words.
    #[error("cannot write the configuration")]
    Json(#[source] serde_json::Error),
}

impl Explain for SpecError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Exists(_) => Some("remove it first".into()),
            Self::Write { .. } => Some("--bundle takes a directory that may be written".into()),
            Self::Json(_) => None,
        }
    }
}

/// Writes the configuration of `runc spec [--rootless]` to `dir`, where there must be none.
pub fn write(dir: &Path, rootless: bool, caller: &Caller) -> Result<(), SpecError> {
    let mut spec = spec::example(caller.cgroup2);
    if rootless {
        spec::to_rootless(&mut spec, caller.uid, caller.gid);
    }
    let text = json::to_text(&spec).map_err(SpecError::Json)?;
    let path = dir.join(CONFIG_FILE);
    let write = || -> Result<(), SysError> {
        let shown = || format!("{path:?}");
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(&path).call("open", shown)?;
        file.write_all(text.as_bytes()).call("write", shown)
    };
    write().map_err(|source| match source.errno() {
        Errno::EEXIST => SpecError::Exists(path.clone()),
        _ => SpecError::Write { path: path.clone(), source },
    })
}
