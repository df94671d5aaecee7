//! The config.json of a bundle: whose it is, and writing it.
//!
//! A generated one carries its own hash as an annotation. As long as the hash is right nobody
//! edited the file, and it is written anew when the image or the machine changes; an edited or a
//! foreign one is used as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ctsys::SysError;
use ctsys::error::Context;
use nix::errno::Errno;
use oci_spec::runtime::Spec;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::json;

/// The file's name in a bundle.
pub const CONFIG_FILE: &str = "config.json";
/// The annotation that says a configuration is minirun's work: the hash of all the rest.
pub const GENERATED: &str = "minirun.generated";
/// An image's config has at most 4 MiB, and what of it comes into a configuration does not double;
/// one written by hand has a few kB.
const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// Room for a usual one, which then takes one read.
const FIRST_READ_BYTES: usize = 8 << 10;

/// What a bundle has.
#[derive(Debug, Clone, PartialEq)]
pub enum Existing {
    /// No config.json.
    None,
    /// One that minirun generated and nobody edited.
    Generated(Spec),
    /// One to be used as it is.
    Own(Spec),
}

/// Why a bundle's config.json could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A system call failed.
    #[error("cannot access {path:?}")]
    Access {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// Past the limit.
    #[error("{path:?} is larger than {MAX_CONFIG_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// No runtime configuration.
    #[error("{path:?} is no runtime configuration")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and how.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads the config.json of the bundle at `dir`.
pub fn read(dir: &Path) -> Result<Existing, BundleError> {
    let path = dir.join(CONFIG_FILE);
    let Some(bytes) = read_file(&path)? else { return Ok(Existing::None) };
    let malformed = |source| BundleError::Malformed { path: path.clone(), source };
    let value: Value = serde_json::from_slice(&bytes).map_err(malformed)?;
    let untouched = is_untouched(&value);
    let spec = serde_json::from_value(value).map_err(malformed)?;
    Ok(if untouched { Existing::Generated(spec) } else { Existing::Own(spec) })
}

/// Marks `spec` as generated.
///
/// # Errors
/// When a path in it is not UTF-8, which JSON cannot say.
pub fn seal(spec: &mut Spec) -> Result<(), serde_json::Error> {
    spec.annotations_mut().get_or_insert_default().remove(GENERATED);
    let hash = hash(&json::to_value(spec)?);
    spec.annotations_mut().get_or_insert_default().insert(GENERATED.into(), hash);
    Ok(())
}

/// Writes `spec` as the bundle's config.json, by rename. `false` when the directory may not be
/// written, which is no failure: the configuration is only for those who want to see it.
pub fn write(dir: &Path, spec: &Spec) -> Result<bool, BundleError> {
    let path = dir.join(CONFIG_FILE);
    let text = json::to_text(spec)
        .map_err(|source| BundleError::Malformed { path: path.clone(), source })?;
    // The process number keeps two runs in the same bundle apart.
    let temporary = dir.join(format!(".{CONFIG_FILE}.{}", std::process::id()));
    match replace(&temporary, &path, &text) {
        Ok(()) => Ok(true),
        Err(e) if matches!(e.errno(), Errno::EROFS | Errno::EACCES | Errno::EPERM) => Ok(false),
        Err(source) => {
            // Nothing half made stays; that there was nothing to remove is no news.
            let _ = fs::remove_file(&temporary);
            Err(BundleError::Access { path, source })
        }
    }
}

fn replace(temporary: &Path, path: &Path, text: &str) -> Result<(), SysError> {
    let shown = || format!("{temporary:?}");
    // What an earlier process of this number left behind when it was killed.
    let _ = fs::remove_file(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(temporary)
        .call("open", shown)?;
    file.write_all(text.as_bytes()).call("write", shown)?;
    fs::rename(temporary, path).call("rename", || format!("{temporary:?}, {path:?}"))
}

fn read_file(path: &Path) -> Result<Option<Vec<u8>>, BundleError> {
    let access = |source| BundleError::Access { path: path.into(), source };
    let shown = || format!("{path:?}");
    // O_NONBLOCK: opening a FIFO would wait for a writer.
    let opened = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.call("open", shown).map_err(access)?,
    };
    let mut bytes = Vec::with_capacity(FIRST_READ_BYTES);
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).call("read", shown).map_err(access)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(BundleError::TooLarge { path: path.into() });
    }
    Ok(Some(bytes))
}

/// The file is looked at as JSON, not as a [`Spec`]: a field that the type does not know is an
/// edit too.
fn is_untouched(value: &Value) -> bool {
    let mut rest = value.clone();
    let annotations = rest.get_mut("annotations").and_then(Value::as_object_mut);
    let mark = annotations.and_then(|annotations| annotations.remove(GENERATED));
    mark.is_some_and(|mark| mark.as_str() == Some(&hash(&rest)))
}

fn hash(value: &Value) -> String {
    let digest = Sha256::digest(json::value_to_text(value));
    digest.iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn sealed() -> Spec {
        let mut spec = crate::spec::example(true);
        seal(&mut spec).unwrap();
        spec
    }

    #[test]
    fn only_an_untouched_config_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG_FILE);
        assert_eq!(read(dir.path()).unwrap(), Existing::None);
        assert!(write(dir.path(), &sealed()).unwrap());
        assert_eq!(read(dir.path()).unwrap(), Existing::Generated(sealed()));
        let text = fs::read_to_string(&path).unwrap();

        fs::write(&path, text.replace("\"hostname\": \"runc\"", "\"hostname\": \"mine\"")).unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Existing::Own(_)), "edited");
        fs::write(&path, text.replacen('{', "{\n\t\"unknown\": 1,", 1)).unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Existing::Own(_)), "a field was added");
        fs::write(&path, text.replace(GENERATED, "other")).unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Existing::Own(_)), "the mark was removed");
        fs::write(&path, text.replace('\t', "    ")).unwrap();
        assert!(matches!(read(dir.path()).unwrap(), Existing::Generated(_)), "only laid out anew");
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [CONFIG_FILE], "no temporary file is left");
    }

    #[test]
    fn what_is_no_configuration_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG_FILE);
        fs::write(&path, "{\"mounts\": 5}").unwrap();
        assert!(matches!(read(dir.path()), Err(BundleError::Malformed { .. })));
        let file = File::create(&path).unwrap();
        file.set_len(MAX_CONFIG_BYTES + 1).unwrap();
        assert!(matches!(read(dir.path()), Err(BundleError::TooLarge { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(dir.path()), Err(BundleError::Access { .. })));
    }

    #[test]
    fn the_file_may_be_read_by_others() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &sealed()).unwrap();
        let mode = fs::metadata(dir.path().join(CONFIG_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o044, 0o600);
    }
}
