//! What the flags change in a configuration's mounts.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use super::value::BadValue;
use crate::spec;

/// What `--read-only-tmpfs` keeps writable: podman's choice.
const SCRATCH: [&str; 3] = ["/run", "/tmp", "/var/tmp"];
/// Where POSIX shared memory lies.
const SHM: &str = "/dev/shm";

/// The mounts that were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountChanges {
    /// By `-v`, `--mount`, `--tmpfs` and `--device`.
    pub added: Vec<Added>,
    /// Size of /dev/shm.
    pub shm_size_bytes: Option<u64>,
    /// Let a read-only root have a writable /run, /tmp and /var/tmp.
    pub scratch: bool,
    /// Put an empty tmpfs on each volume of the image that nothing else is mounted on.
    pub image_volumes: bool,
}

/// One mount that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Absolute path in the container, below its root.
    pub destination: PathBuf,
    /// What appears there.
    pub source: Source,
    /// As in config.json.
    pub options: Vec<String>,
}

/// What an added mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or directory of the host's, absolute.
    Host(PathBuf),
    /// A device file of the host's, or a directory of them.
    Device(PathBuf),
    /// An empty filesystem in memory.
    Tmpfs,
}

impl MountChanges {
    /// Refuses two mounts on one place, as docker does: one of them would be hidden.
    pub fn check(&self) -> Result<(), BadValue> {
        for (index, mount) in self.added.iter().enumerate() {
            if self.added.iter().take(index).any(|m| m.destination == mount.destination) {
                return Err(BadValue::new(
                    "mount point",
                    &mount.destination.to_string_lossy(),
                    "two mounts are to be there",
                    "leave one of -v, --mount, --tmpfs and --device out",
                ));
            }
        }
        Ok(())
    }

    /// Changes the mounts of `spec`. One that is asked for takes the place of one that the
    /// configuration has there; the host's /dev that of all below it. `volumes` are the image's.
    pub(super) fn apply(&self, spec: &mut Spec, volumes: &[PathBuf]) {
        let mounts = spec.mounts_mut().get_or_insert_default();
        let mut added: Vec<Mount> = self.added.iter().map(Added::to_mount).collect();
        mounts.retain(|old| !added.iter().any(|new| takes_the_place_of(new, old)));
        let volumes = volumes.iter().filter(|_| self.image_volumes).map(PathBuf::as_path);
        let scratch = SCRATCH.iter().filter(|_| self.scratch).map(Path::new);
        for place in volumes.chain(scratch) {
            if !mounts.iter().chain(&added).any(|mount| mount.destination() == place) {
                added.push(empty(place));
            }
        }
        // What lies above is mounted first, so that it hides nothing.
        added.sort_by_key(|mount| mount.destination().components().count());
        mounts.extend(added);
        if let Some(size) = self.shm_size_bytes {
            set_shm_size(mounts, size);
        }
    }
}

impl Added {
    fn to_mount(&self) -> Mount {
        let (kind, source) = match &self.source {
            Source::Host(path) | Source::Device(path) => ("bind", path.clone()),
            Source::Tmpfs => ("tmpfs", "tmpfs".into()),
        };
        let mut mount = spec::mount("", kind, "", &[]);
        mount
            .set_destination(self.destination.clone())
            .set_source(Some(source))
            .set_options(Some(self.options.clone()));
        mount
    }
}

/// Where a mount may appear: an absolute path below the root, without `..`; `.` and double slashes
/// are taken out. `None` for any other.
pub(super) fn destination(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let has_parent = path.components().any(|c| c == Component::ParentDir);
    let normal: PathBuf = path.components().filter(|c| *c != Component::CurDir).collect();
    let fits = path.is_absolute() && !has_parent && !text.contains('\0');
    (fits && normal != Path::new("/")).then_some(normal)
}

fn takes_the_place_of(new: &Mount, old: &Mount) -> bool {
    let (new, old) = (new.destination(), old.destination());
    old == new || new == Path::new("/dev") && old.starts_with(new)
}

/// A tmpfs that every user may write, as the directories that it hides often are for one.
fn empty(place: &Path) -> Mount {
    let mut mount = spec::mount("", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777"]);
    mount.set_destination(place.into());
    mount
}

fn set_shm_size(mounts: &mut Vec<Mount>, bytes: u64) {
    let is_shm =
        |m: &&mut Mount| m.destination() == Path::new(SHM) && m.typ().as_deref() == Some("tmpfs");
    if let Some(shm) = mounts.iter_mut().find(is_shm) {
        let options = shm.options_mut().get_or_insert_default();
        options.retain(|option| !option.starts_with("size="));
        options.push(format!("size={bytes}"));
        return;
    }
    let size = format!("size={bytes}");
    let options = ["nosuid", "noexec", "nodev", "mode=1777", &size];
    mounts.push(spec::mount(SHM, "tmpfs", "shm", &options));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(destination: &str) -> Added {
        Added { destination: destination.into(), source: Source::Tmpfs, options: Vec::new() }
    }

    fn places(changes: &MountChanges, volumes: &[&str]) -> Vec<String> {
        let mut spec = spec::example(false);
        let volumes: Vec<PathBuf> = volumes.iter().map(PathBuf::from).collect();
        changes.apply(&mut spec, &volumes);
        let mounts = spec.mounts().iter().flatten();
        mounts.map(|m| m.destination().display().to_string()).collect()
    }

    #[test]
    fn a_mount_takes_the_place_of_the_configurations() {
        let usual = places(&MountChanges::default(), &[]);
        let with = |paths: &[&str]| {
            let added = paths.iter().map(|path| added(path)).collect();
            places(&MountChanges { added, ..MountChanges::default() }, &["/data"])
        };
        let want: Vec<_> = usual
            .iter()
            .filter(|place| *place != "/dev/shm")
            .cloned()
            .chain(["/x", "/dev/shm"].map(String::from))
            .collect();
        assert_eq!(with(&["/dev/shm", "/x"]), want, "and the deeper one comes later");
        assert!(!with(&["/dev"]).contains(&"/dev/pts".to_owned()), "the host's /dev has all");
    }

    #[test]
    fn scratch_and_volumes_leave_what_is_there() {
        let changes = MountChanges {
            added: vec![added("/data"), added("/tmp")],
            scratch: true,
            image_volumes: true,
            ..MountChanges::default()
        };
        let after = places(&changes, &["/data", "/var/lib/db"]);
        let count = |place: &str| after.iter().filter(|p| *p == place).count();
        for place in ["/data", "/tmp", "/run", "/var/tmp", "/var/lib/db"] {
            assert_eq!(count(place), 1, "{place} in {after:?}");
        }
    }

    #[test]
    fn two_on_one_place_are_refused() {
        let changes = MountChanges {
            added: vec![added("/a"), added("/b"), added("/a")],
            ..MountChanges::default()
        };
        assert!(changes.check().is_err_and(|e| e.value == "/a"));
    }

    #[test]
    fn a_destination_is_absolute_and_below_the_root() {
        assert_eq!(destination("/b/./c//d/"), Some("/b/c/d".into()));
        for text in ["", "b", "/", "/./", "/b/../c", "/a\0"] {
            assert_eq!(destination(text), None, "{text:?}");
        }
    }
}
