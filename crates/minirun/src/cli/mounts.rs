//! What a container sees of the host, and what of it may be written, as typed.

use std::path::Path;

use clap::{Args, ValueEnum};

use crate::config::ephemeral::{self, Ephemeral};
use crate::config::mounts::MountChanges;
use crate::config::value::{BadValue, bytes};
use crate::config::{mount_option, tmpfs, volume};

/// The options for mounts.
#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// Show a file or directory of the host inside the container; options, with commas between: ro,
    /// nosuid, nodev, noexec, bind (not what is mounted below), rslave and other propagations
    #[arg(short, long, value_name = "SRC:DST[:OPTIONS]")]
    volume: Vec<String>,
    /// The same in docker's long form, or type=tmpfs: type=bind,source=SRC,target=DST,readonly
    #[arg(long, value_name = "KEY=VALUE,...")]
    mount: Vec<String>,
    /// Put an empty directory in memory there, with tmpfs's options: /tmp:size=64m,exec
    #[arg(long, value_name = "DST[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Show a device of the host inside the container
    #[arg(long, value_name = "SRC[:DST]")]
    device: Vec<String>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// Do not let the root filesystem be written
    #[arg(long)]
    pub(super) read_only: bool,
    /// With --read-only, put an empty directory in memory on /run, /tmp and /var/tmp
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", requires = "read_only")]
    read_only_tmpfs: Option<bool>,
    /// The volumes that the image names: plain directories of the root filesystem, or in memory
    #[arg(long, value_name = "HOW", value_enum, default_value = "ignore")]
    image_volume: ImageVolume,
    /// Throw all changes of the root filesystem away at the end; they lie in memory, SIZE of it at
    /// most [default: half of it]
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true,
          default_missing_value = "")]
    ephemeral: Option<String>,
}

/// What becomes of an image's volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ImageVolume {
    Ignore,
    Tmpfs,
}

impl MountArgs {
    /// What was typed, as it is meant. A relative source is one of `dir`.
    pub(super) fn changes(&self, dir: &Path) -> Result<MountChanges, BadValue> {
        let mut added = Vec::new();
        for text in &self.volume {
            added.push(volume::parse(text, dir)?);
        }
        for text in &self.mount {
            added.push(mount_option::parse(text, dir)?);
        }
        for text in &self.tmpfs {
            added.push(tmpfs::parse(text)?);
        }
        for text in &self.device {
            added.push(volume::parse_device(text)?);
        }
        let changes = MountChanges {
            added,
            shm_size_bytes: self.shm_size.as_deref().map(shm_size).transpose()?,
            scratch: self.read_only_tmpfs.unwrap_or(false),
            image_volumes: self.image_volume == ImageVolume::Tmpfs,
        };
        changes.check()?;
        Ok(changes)
    }

    /// Whether all changes are thrown away.
    pub(super) fn ephemeral(&self) -> Result<Option<Ephemeral>, BadValue> {
        self.ephemeral.as_deref().map(ephemeral::parse).transpose()
    }
}

fn shm_size(text: &str) -> Result<u64, BadValue> {
    bytes(text).filter(|size| *size > 0).ok_or_else(|| {
        BadValue::new("shm-size", text, "no size above 0", "for example: --shm-size 256m")
    })
}
