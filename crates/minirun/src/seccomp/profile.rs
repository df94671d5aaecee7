//! Profile files: docker's form, which says by machine and capabilities what is in force, and
//! runtime-spec's, which is the same without that.

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg};
use oci_spec::runtime::{LinuxSeccompFilterFlag, LinuxSyscall};
use serde::Deserialize;

/// A profile file. Docker's, and podman's, are some 15 kB; one that names every system call with
/// conditions of its own stays below this.
pub const MAX_PROFILE_BYTES: u64 = 1 << 20;

/// A profile as its file has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Entry>>,
}

/// The interfaces of one kind of machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Of old files.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    /// Podman's way to say it by name, beside the number.
    errno: Option<String>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

/// When an entry is in force, or is not.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    caps: Option<Vec<String>>,
    /// As libseccomp calls them.
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Why a file is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not JSON of that form.
    #[error("it is no seccomp profile")]
    Malformed(#[source] serde_json::Error),
    /// Two ways to say the same.
    #[error("it has both {0} and {1}")]
    Both(&'static str, &'static str),
    /// An error by its name alone, which differs by machine.
    #[error("it has the errno {0:?} without errnoRet, its number")]
    ErrnoByName(String),
    /// Not `MAJOR.MINOR`.
    #[error("it has an invalid minKernel: got {0:?}, want MAJOR.MINOR")]
    MinKernel(String),
}

type Result<T> = std::result::Result<T, ProfileError>;

/// What decides about the entries of a profile.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The container's bounding set, as `CAP_CHOWN`.
    pub capabilities: &'a [String],
    /// This machine's kernel: major and minor number.
    pub kernel: (u64, u64),
}

impl Profile {
    /// Reads the bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let profile: Self = serde_json::from_slice(bytes).map_err(ProfileError::Malformed)?;
        if is_filled(&profile.architectures) && is_filled(&profile.arch_map) {
            return Err(ProfileError::Both("architectures", "archMap"));
        }
        for entry in profile.syscalls.iter().flatten() {
            entry.check()?;
        }
        Ok(profile)
    }

    /// What is in force, in runtime-spec's form.
    pub fn resolve(&self, circumstances: &Circumstances<'_>) -> LinuxSeccomp {
        let entries = self.syscalls.iter().flatten();
        let entries = entries.filter(|entry| entry.is_in_force(circumstances));
        let mut resolved = LinuxSeccomp::default();
        resolved
            .set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno_ret)
            .set_architectures(self.own_architectures())
            .set_flags(self.flags.clone())
            .set_listener_path(self.listener_path.clone())
            .set_listener_metadata(self.listener_metadata.clone())
            .set_syscalls(Some(entries.map(Entry::resolve).collect()));
        resolved
    }

    fn own_architectures(&self) -> Option<Vec<Arch>> {
        let Some(map) = self.arch_map.as_ref().filter(|map| !map.is_empty()) else {
            return self.architectures.clone();
        };
        let own = map.iter().find(|entry| Some(entry.architecture) == native().map(|n| n.0))?;
        let mut all = vec![own.architecture];
        all.extend(own.sub_architectures.iter().flatten());
        Some(all)
    }
}

impl Entry {
    fn check(&self) -> Result<()> {
        if self.name.as_ref().is_some_and(|name| !name.is_empty()) && is_filled(&self.names) {
            return Err(ProfileError::Both("name", "names"));
        }
        if let (Some(name), None) = (&self.errno, self.errno_ret)
            && !name.is_empty()
        {
            return Err(ProfileError::ErrnoByName(name.clone()));
        }
        for condition in self.includes.iter().chain(&self.excludes) {
            if let Some(text) = condition.min_kernel.as_ref().filter(|text| !text.is_empty()) {
                kernel_version(text).ok_or_else(|| ProfileError::MinKernel(text.clone()))?;
            }
        }
        Ok(())
    }

    /// Docker's rule: one of what excludes is enough, of what includes all have to be there.
    fn is_in_force(&self, circumstances: &Circumstances<'_>) -> bool {
        let holds = |cap: &String| circumstances.capabilities.contains(cap);
        let is_own = |arches: &[String]| arches.iter().any(|a| Some(&**a) == native().map(|n| n.1));
        let excluded = self.excludes.as_ref().is_some_and(|excludes| {
            list(&excludes.caps).iter().any(holds)
                || is_own(list(&excludes.arches))
                || excludes.kernel().is_some_and(|least| circumstances.kernel >= least)
        });
        !excluded
            && self.includes.as_ref().is_none_or(|includes| {
                let arches = list(&includes.arches);
                list(&includes.caps).iter().all(holds)
                    && (arches.is_empty() || is_own(arches))
                    && includes.kernel().is_none_or(|least| circumstances.kernel >= least)
            })
    }

    fn resolve(&self) -> LinuxSyscall {
        let old = self.name.iter().filter(|name| !name.is_empty());
        let names = self.names.iter().flatten().chain(old).cloned().collect();
        let mut resolved = LinuxSyscall::default();
        resolved
            .set_names(names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args(self.args.clone().filter(|args| !args.is_empty()));
        resolved
    }
}

impl Condition {
    fn kernel(&self) -> Option<(u64, u64)> {
        kernel_version(self.min_kernel.as_ref()?)
    }
}

/// Major and minor number at the start of a kernel's release, `4.8` as well as `6.1.0-9-amd64`.
pub fn kernel_version(text: &str) -> Option<(u64, u64)> {
    let (major, rest) = text.trim().split_once('.')?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((major.parse().ok()?, rest.get(..end)?.parse().ok()?))
}

/// This machine, as profiles name it: in runtime-spec's words and in libseccomp's.
fn native() -> Option<(Arch, &'static str)> {
    if cfg!(target_arch = "x86_64") {
        Some((Arch::ScmpArchX86_64, "amd64"))
    } else if cfg!(target_arch = "aarch64") {
        Some((Arch::ScmpArchAarch64, "arm64"))
    } else {
        None
    }
}

fn list<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

fn is_filled<T>(optional: &Option<Vec<T>>) -> bool {
    !list(optional).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn in_force(entry: &Value, capabilities: &[&str], kernel: (u64, u64)) -> bool {
        let mut entry = entry.clone();
        entry["names"] = json!(["read"]);
        entry["action"] = json!("SCMP_ACT_ALLOW");
        let text = json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry] }).to_string();
        let capabilities: Vec<String> = capabilities.iter().map(|c| (*c).into()).collect();
        let circumstances = Circumstances { capabilities: &capabilities, kernel };
        let resolved = Profile::parse(text.as_bytes()).unwrap().resolve(&circumstances);
        !resolved.syscalls().as_ref().unwrap().is_empty()
    }

    #[test]
    fn conditions_are_dockers() {
        let (_, own) = native().unwrap();
        for (entry, capabilities, kernel, want) in [
            (json!({}), &[][..], (5, 12), true),
            (json!({"includes": {}, "excludes": {}}), &[], (5, 12), true),
            (json!({"includes": {"caps": ["CAP_A", "CAP_B"]}}), &["CAP_A"], (5, 12), false),
            (json!({"includes": {"caps": ["CAP_A", "CAP_B"]}}), &["CAP_B", "CAP_A"], (5, 12), true),
            (json!({"excludes": {"caps": ["CAP_A", "CAP_B"]}}), &["CAP_A"], (5, 12), false),
            (json!({"includes": {"arches": ["s390x", own]}}), &[], (5, 12), true),
            (json!({"includes": {"arches": ["s390x"]}}), &[], (5, 12), false),
            (json!({"excludes": {"arches": ["s390x"]}}), &[], (5, 12), true),
            (json!({"excludes": {"arches": [own]}}), &[], (5, 12), false),
            (json!({"includes": {"minKernel": "4.8"}}), &[], (5, 12), true),
            (json!({"includes": {"minKernel": "5.13"}}), &[], (5, 12), false),
            (json!({"excludes": {"minKernel": "5.12"}}), &[], (5, 12), false),
        ] {
            assert_eq!(in_force(&entry, capabilities, kernel), want, "{entry}");
        }
    }

    #[test]
    fn the_machines_own_interfaces_are_taken_from_the_map() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]}"#;
        let circumstances = Circumstances { capabilities: &[], kernel: (6, 1) };
        let resolved = Profile::parse(text.as_bytes()).unwrap().resolve(&circumstances);
        let arches = resolved.architectures().clone().unwrap();
        assert_eq!((arches[0], arches.len()), (native().unwrap().0, 2));
    }

    #[test]
    fn what_is_no_profile_is_named() {
        for (text, want) in [
            ("[]", "it is no seccomp profile"),
            ("{}", "it is no seccomp profile"),
            (r#"{"defaultAction": "SCMP_ACT_SING"}"#, "it is no seccomp profile"),
            (
                r#"{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"name": "a", "names": ["b"],
                    "action": "SCMP_ACT_LOG"}]}"#,
                "it has both name and names",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["b"],
                    "action": "SCMP_ACT_ERRNO", "errno": "EPERM"}]}"#,
                "it has the errno \"EPERM\" without errnoRet, its number",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{"names": ["b"],
                    "action": "SCMP_ACT_LOG", "includes": {"minKernel": "x"}}]}"#,
                "it has an invalid minKernel: got \"x\", want MAJOR.MINOR",
            ),
        ] {
            assert_eq!(Profile::parse(text.as_bytes()).unwrap_err().to_string(), want, "{text}");
        }
        assert_eq!(kernel_version("6.18.44-fc-v595\n"), Some((6, 18)));
    }
}
