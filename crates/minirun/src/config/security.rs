//! `--security-opt`: what a container may do to the kernel.

use std::path::{Path, PathBuf};

use ctsys::report::Explain;
use oci_spec::runtime::Spec;

use crate::seccomp::profile::{Circumstances, Profile};
use crate::seccomp::usual;

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// What filters the system calls.
    pub seccomp: Option<Seccomp>,
    /// Whether set-uid programs and file capabilities give nothing.
    pub no_new_privileges: Option<bool>,
}

/// What filters the system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seccomp {
    /// Nothing.
    Unconfined,
    /// [`usual`].
    Usual,
    /// A profile's absolute path.
    File(PathBuf),
}

/// Why an option cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecurityError {
    /// Nothing of that name, or without its value.
    #[error("invalid --security-opt {0:?}")]
    Unknown(String),
    /// What minirun has no part in.
    #[error("cannot do --security-opt {option:?}: minirun sets no {what}")]
    NotOurs {
        /// As typed.
        option: String,
        /// What it would set.
        what: &'static str,
    },
}

impl Explain for SecurityError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown(_) => {
                "there are seccomp=FILE, seccomp=unconfined and no-new-privileges[=true|false]"
                    .into()
            }
            Self::NotOurs { .. } => "leave it out: the container runs with the caller's".into(),
        })
    }

    fn exit_code(&self) -> u8 {
        125
    }
}

impl Security {
    /// What the options say, the last one of a kind; paths are relative to `dir`. Docker's old form
    /// has a colon for the equals sign.
    pub fn parse(options: &[String], dir: &Path) -> Result<Self, SecurityError> {
        let mut security = Self::default();
        for option in options {
            let unknown = || SecurityError::Unknown(option.clone());
            let not_ours = |what| SecurityError::NotOurs { option: option.clone(), what };
            let (name, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
                Some((name, value)) => (name, Some(value)),
                None => (option.as_str(), None),
            };
            match (name, value) {
                ("seccomp", Some("unconfined")) => security.seccomp = Some(Seccomp::Unconfined),
                ("seccomp", Some("builtin")) => security.seccomp = Some(Seccomp::Usual),
                ("seccomp", Some(path)) if !path.is_empty() => {
                    security.seccomp = Some(Seccomp::File(dir.join(path)));
                }
                ("no-new-privileges", None | Some("true")) => {
                    security.no_new_privileges = Some(true);
                }
                ("no-new-privileges", Some("false")) => security.no_new_privileges = Some(false),
                ("label", _) => return Err(not_ours("SELinux labels")),
                ("apparmor", _) => return Err(not_ours("AppArmor profiles")),
                _ => return Err(unknown()),
            }
        }
        Ok(security)
    }

    /// Changes `spec`. To be called when its capabilities are what they will be. `profile` is what
    /// [`Seccomp::File`] names, with the kernel's version.
    pub fn apply(&self, spec: &mut Spec, profile: Option<(&Profile, (u64, u64))>) {
        if let (Some(wanted), Some(process)) = (self.no_new_privileges, spec.process_mut()) {
            process.set_no_new_privileges(Some(wanted));
        }
        let written = match (&self.seccomp, profile) {
            (None, _) => return,
            (Some(Seccomp::Usual), _) => {
                let annotations = spec.annotations_mut().get_or_insert_default();
                annotations.insert(usual::ANNOTATION.into(), usual::NAME.into());
                None
            }
            (Some(_), profile) => {
                spec.annotations_mut().iter_mut().for_each(|all| {
                    all.remove(usual::ANNOTATION);
                });
                profile.map(|(profile, kernel)| {
                    let capabilities = &bounding(spec);
                    profile.resolve(&Circumstances { capabilities, kernel })
                })
            }
        };
        if let Some(linux) = spec.linux_mut() {
            linux.set_seccomp(written);
        }
    }
}

/// Writes the usual profile out where the annotation stands for it: for a file that other runtimes
/// read too.
pub fn write_out(spec: &mut Spec) {
    let annotations = spec.annotations_mut().as_mut();
    let is_usual = annotations.is_some_and(|all| all.remove(usual::ANNOTATION).is_some());
    let known = |name: String| name.parse::<caps::Capability>().ok();
    let held = bounding(spec).into_iter().filter_map(known);
    let mask = held.fold(0, |mask, capability| mask | 1 << capability.index());
    if let Some(linux) = spec.linux_mut().as_mut().filter(|_| is_usual) {
        linux.set_seccomp(Some(usual::profile(mask)));
    }
}

fn bounding(spec: &Spec) -> Vec<String> {
    let capabilities = spec.process().as_ref().and_then(|p| p.capabilities().as_ref());
    let bounding = capabilities.and_then(|sets| sets.bounding().as_ref());
    bounding.into_iter().flatten().map(|capability| format!("CAP_{capability}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<Security, SecurityError> {
        let options: Vec<String> = options.iter().map(|o| (*o).into()).collect();
        Security::parse(&options, Path::new("/d"))
    }

    #[test]
    fn the_last_one_of_a_kind_counts() {
        let all = parse(&["seccomp=p.json", "no-new-privileges", "seccomp:unconfined"]).unwrap();
        assert_eq!(all.seccomp, Some(Seccomp::Unconfined));
        assert_eq!(all.no_new_privileges, Some(true));
        let file = |option: &str| parse(&[option]).unwrap().seccomp;
        assert_eq!(file("seccomp=p=q.json"), Some(Seccomp::File("/d/p=q.json".into())));
        assert_eq!(file("seccomp:/p.json"), Some(Seccomp::File("/p.json".into())));
        assert_eq!(parse(&["no-new-privileges:false"]).unwrap().no_new_privileges, Some(false));
        assert_eq!(parse(&[]).unwrap(), Security::default());
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for option in ["", "seccomp", "seccomp=", "no-new-privileges=yes", "systempaths=unconfined"]
        {
            assert_eq!(parse(&[option]).unwrap_err(), SecurityError::Unknown(option.into()));
        }
        for option in ["label=disable", "label:type:x", "apparmor=unconfined"] {
            assert!(matches!(parse(&[option]), Err(SecurityError::NotOurs { .. })), "{option}");
        }
    }
}
