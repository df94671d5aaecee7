//! Stand-in for the unpacker until it is merged: takes the layers and writes none of them.

use std::io::Read;
use std::path::{Path, PathBuf};

use ctsys::record::{ImageRecord, Ownership, record_path};
use oci_spec::image::Digest;

/// Stand-in.
#[derive(Debug)]
pub struct Staging {
    dest: PathBuf,
    temporary: PathBuf,
}
/// Stand-in.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions {
    /// ownership
    pub ownership: Ownership,
    /// force
    pub force: bool,
}
/// Stand-in.
#[derive(Debug)]
pub struct LayerSpec<'a> {
    /// type
    pub media_type: &'a str,
    /// id
    pub diff_id: &'a Digest,
    /// digest
    pub digest: &'a Digest,
}
/// Stand-in.
#[derive(Debug)]
pub struct LayerStats;
/// Stand-in.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Warning(String);
/// Stand-in.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ApplyError(String);
impl ctsys::report::Explain for ApplyError {}
impl Staging {
    /// Stand-in.
    pub fn create(dest: &Path, options: ApplyOptions) -> Result<Self, ApplyError> {
        let full = std::fs::read_dir(dest).is_ok_and(|mut d| d.next().is_some());
        if full && !options.force {
            return Err(ApplyError(format!("{dest:?} is not empty")));
        }
        let temporary = dest.with_extension("staging");
        std::fs::create_dir(&temporary).map_err(|e| ApplyError(e.to_string()))?;
        Ok(Self { dest: dest.into(), temporary })
    }
    /// Stand-in.
    pub fn apply_layer(
        &mut self,
        layer: &LayerSpec<'_>,
        blob: &mut (dyn Read + Send),
    ) -> Result<LayerStats, ApplyError> {
        let name = layer.digest.digest();
        let mut file = std::fs::File::create(self.temporary.join(name))
            .map_err(|e| ApplyError(e.to_string()))?;
        std::io::copy(blob, &mut file).map_err(|e| ApplyError(e.to_string()))?;
        Ok(LayerStats)
    }
    /// Stand-in.
    pub fn commit(self, record: &ImageRecord) -> Result<Vec<Warning>, ApplyError> {
        let _ = std::fs::remove_dir_all(&self.dest);
        std::fs::rename(&self.temporary, &self.dest).map_err(|e| ApplyError(e.to_string()))?;
        std::fs::write(record_path(&self.dest), record.to_json())
            .map_err(|e| ApplyError(e.to_string()))?;
        Ok(Vec::new())
    }
}
impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}
