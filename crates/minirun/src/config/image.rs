//! What an image wants, from the config in its record (image-spec, conversion.md).

use std::collections::HashMap;
use std::path::PathBuf;

use ctsys::record::{ImageRecord, Ownership};
use oci_spec::image::ImageConfiguration;

use super::annotations;
use super::mounts::destination;

/// The part of an image that a configuration is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The words that stay in front when a command is given.
    pub entrypoint: Vec<String>,
    /// The default command, or its arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute working directory.
    pub cwd: String,
    /// Who the process runs as, `USER[:GROUP]` as the image has it; empty for root.
    pub user: String,
    /// Where it wants what is written to be kept apart; below the root.
    pub volumes: Vec<PathBuf>,
    /// Annotations for the configuration.
    pub annotations: HashMap<String, String>,
    /// How the root filesystem's owners were stored.
    pub ownership: Ownership,
    /// What of it could not be taken over, a line each.
    pub notes: Vec<String>,
}

/// Why an image's config is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not of image-spec's form.
    #[error("the image's config is malformed")]
    Malformed(#[source] serde_json::Error),
}

impl Image {
    /// Takes what is needed out of a record.
    pub fn from_record(record: &ImageRecord) -> Result<Self, ImageError> {
        let image: ImageConfiguration =
            serde_json::from_value(record.config.clone()).map_err(ImageError::Malformed)?;
        let config = image.config().clone().unwrap_or_default();
        let mut notes = Vec::new();
        let annotations = annotations::convert(&image, &mut notes);
        Ok(Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: environment(config.env().clone().unwrap_or_default(), &mut notes),
            cwd: absolute(config.working_dir().as_deref().unwrap_or_default()),
            user: config.user().clone().unwrap_or_default(),
            volumes: volumes(config.volumes().as_deref().unwrap_or_default()),
            annotations,
            ownership: record.ownership,
            notes,
        })
    }

    /// Entrypoint and Cmd, one after the other.
    pub fn args(&self) -> Vec<String> {
        [self.entrypoint.as_slice(), self.cmd.as_slice()].concat()
    }
}

/// The entries that are variables: runc refuses a configuration with any other.
fn environment(entries: Vec<String>, notes: &mut Vec<String>) -> Vec<String> {
    let is_variable = |entry: &String| entry.find('=').is_some_and(|at| at > 0);
    let (good, bad): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_variable);
    notes.extend(
        bad.iter().map(|e| {
            format!("the image's environment entry {e:?} is no NAME=value and was left out")
        }),
    );
    good
}

/// What is no place below the root cannot be a mount's.
fn volumes(named: &[String]) -> Vec<PathBuf> {
    let mut volumes: Vec<_> = named.iter().filter_map(|name| destination(name)).collect();
    // The image has them as the keys of an object, which has no order.
    volumes.sort();
    volumes.dedup();
    volumes
}

/// runtime-spec wants an absolute directory; engines read a relative one from the root.
fn absolute(dir: &str) -> String {
    if dir.starts_with('/') { dir.into() } else { format!("/{dir}") }
}
