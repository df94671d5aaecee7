//! Where an image runs.

use serde_json::{Value, json};

/// What an index's entry says about where an image runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `amd64`, `arm64`, …: GOARCH.
    pub architecture: String,
    /// `linux`, …: GOOS.
    pub os: String,
    /// `v7`, `v8`, …
    pub variant: Option<String>,
}

impl Platform {
    /// A Linux platform from `amd64` or `arm/v7`.
    pub fn linux(text: &str) -> Self {
        let (architecture, variant) = match text.split_once('/') {
            Some((architecture, variant)) => (architecture, Some(variant.to_owned())),
            None => (text, None),
        };
        Self { architecture: architecture.into(), os: "linux".into(), variant }
    }

    /// The machine that the test runs on.
    pub fn host() -> Self {
        Self::linux(match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64/v8",
            "arm" => "arm/v7",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        })
    }

    /// The `platform` object of a descriptor.
    pub(crate) fn json(&self) -> Value {
        let mut value = json!({ "architecture": self.architecture, "os": self.os });
        if let Some(variant) = &self.variant {
            value["variant"] = variant.as_str().into();
        }
        value
    }
}
