//! What could not be kept, counted: one line for each kind, not one for each file.

use std::fmt;

use super::name::quoted;

/// Something that the user should know and that is no failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(String);

impl Warning {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Files of one kind: how many, and the first.
#[derive(Debug, Default)]
pub(super) struct Count {
    files: u64,
    first: Vec<u8>,
}

impl Count {
    pub(super) fn add(&mut self, path: &[u8]) {
        if self.files == 0 {
            self.first = path.to_vec();
        }
        self.files += 1;
    }

    fn absorb(&mut self, other: &mut Self) {
        let other = std::mem::take(other);
        if self.files == 0 {
            self.first = other.first;
        }
        self.files += other.files;
    }
}

/// All that was counted.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) devices: Count,
    pub(super) owners: Count,
    pub(super) capabilities: Count,
    pub(super) xattrs: Count,
}

impl Notes {
    /// Takes over what was counted for a layer above.
    pub(super) fn absorb(&mut self, other: &mut Self) {
        self.devices.absorb(&mut other.devices);
        self.owners.absorb(&mut other.owners);
        self.capabilities.absorb(&mut other.capabilities);
        self.xattrs.absorb(&mut other.xattrs);
    }

    /// A warning for each kind that occurred.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let kinds = [
            (&self.devices, "device files cannot be made without root; made empty files instead"),
            (&self.owners, "owners cannot be kept"),
            (&self.capabilities, "file capabilities cannot be kept without root"),
            (&self.xattrs, "extended attributes cannot be kept here"),
        ];
        let told = kinds.iter().filter(|(count, _)| count.files > 0);
        told.map(|(count, what)| {
            let first = quoted(&count.first);
            Warning(match count.files {
                1 => format!("{what}: {first}"),
                files => format!("{what}: {files} files, the first {first}"),
            })
        })
        .collect()
    }
}
