//! What can be said against a run before anything is made.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use ctsys::idmap::{IdMaps, IdRange};
use nix::sys::resource::getrlimit;
use oci_spec::runtime::Spec;

use super::{Error, Result, RunOptions};
use crate::config;
use crate::config::image::Image;
use crate::config::mounts::{Added, Source};
use crate::config::ulimit::{Ulimit, resource};
use crate::config::value::BadValue;

/// What was asked for, as far as it depends on the machine.
pub(super) fn options(options: &RunOptions) -> Result<()> {
    if let Some(name) = &options.name {
        ctsys::state::check_id(name).map_err(Error::Name)?;
    }
    options.overrides.mounts.added.iter().try_for_each(check_source)?;
    options.overrides.rights.ulimits.iter().try_for_each(check_ulimit)
}

/// The configuration that comes of it; its further checks are the plan's.
pub(super) fn spec(spec: &Spec, maps: &IdMaps) -> Result<()> {
    let Some(process) = spec.process() else { return Err(Error::NoCommand) };
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::NoCommand);
    }
    let env = process.env().as_deref().unwrap_or_default();
    if let Some(word) = args.iter().chain(env).find(|word| word.contains('\0')) {
        return Err(Error::Nul { word: word.clone() });
    }
    let user = process.user();
    let unmapped = |kind, map: &[IdRange], id| {
        if map.is_empty() || config::is_mapped(map, id) {
            return Ok(());
        }
        Err(Error::Unmapped { kind, id })
    };
    unmapped("user", &maps.uids, user.uid())?;
    unmapped("group", &maps.gids, user.gid())
}

/// An image that names volumes counts on writing there. A root that may be written has them as plain
/// directories; where it may not, that should be known before the command fails.
pub(super) fn read_only_volume(spec: &Spec, image: Option<&Image>) -> Option<String> {
    spec.root().as_ref().filter(|root| root.readonly() == Some(true))?;
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let has_mount = |volume: &&PathBuf| mounts.iter().any(|m| volume.starts_with(m.destination()));
    let volume = image?.volumes.iter().find(|volume| !has_mount(volume))?;
    Some(format!(
        "the image's volume {volume:?} may not be written either: --image-volume tmpfs, or -v DIR:{}",
        volume.display()
    ))
}

/// The mount point's type follows the source's, so it has to be there first.
fn check_source(mount: &Added) -> Result<()> {
    let (Source::Host(path) | Source::Device(path)) = &mount.source else { return Ok(()) };
    let meta = fs::metadata(path);
    let kind = meta.map_err(|cause| Error::Source { path: path.clone(), cause })?.file_type();
    let is_device = kind.is_char_device() || kind.is_block_device() || kind.is_dir();
    if matches!(mount.source, Source::Device(_)) && !is_device {
        let hint = "to show a file of the host's use -v";
        let shown = path.to_string_lossy();
        return Err(Error::Value(BadValue::new("device", &shown, "it is no device", hint)));
    }
    Ok(())
}

/// Only the host's root with CAP_SYS_RESOURCE could raise a hard limit, and nobody in a user
/// namespace is that.
fn check_ulimit(ulimit: &Ulimit) -> Result<()> {
    match getrlimit(resource(ulimit.typ)) {
        Ok((_, own)) if ulimit.hard > own => Err(Error::Value(BadValue::new(
            "ulimit",
            &ulimit.typed,
            format!("the hard limit is above the caller's own, {own}"),
            "ask for that or less, or have the caller's raised (limits.conf(5), LimitNOFILE= and such of systemd)",
        ))),
        _ => Ok(()),
    }
}
