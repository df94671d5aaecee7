//! Podman with a storage of its own in a scratch directory: nothing of the machine's is used.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::programs::{Finished, Run};

/// Podman's storage, as plain directories (the vfs driver): a mounted image is a whole tree there.
pub(crate) struct Podman {
    dir: tempfile::TempDir,
}

impl Podman {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// Unpacks the image `tag` of an OCI layout; the directory of its root filesystem, or what
    /// podman says.
    pub(crate) fn unpack(&self, layout: &Path, tag: &str) -> Result<PathBuf, Finished> {
        // By a relative path: it becomes part of the image's name, which takes no capital letters.
        let (parent, name) = (layout.parent().unwrap(), layout.file_name().unwrap());
        let source = format!("oci:{}:{tag}", name.to_str().unwrap());
        let image = self.run(parent, &["pull", "--quiet", &source])?;
        let mounted = self.run(parent, &["image", "mount", image.trim()])?;
        Ok(PathBuf::from(mounted.trim_end()))
    }

    fn run(&self, current_dir: &Path, arguments: &[&str]) -> Result<String, Finished> {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let (root, runroot, tmpdir) = (at("root"), at("runroot"), at("tmp"));
        let mut all = vec!["--root", &root, "--runroot", &runroot, "--tmpdir", &tmpdir];
        all.extend(["--storage-driver", "vfs"]);
        all.extend(arguments);
        let mut command = Command::new("podman");
        command.args(all).current_dir(current_dir);
        let done = Run::new(command).finish();
        if done.code() == Some(0) { Ok(done.stdout_text()) } else { Err(done) }
    }
}
