//! Which of an index's images suits a machine. Pure.

use std::fmt;
use std::str::FromStr;

use ctsys::record::RecordedPlatform;

/// An operating system, an architecture and perhaps a variant, in GOOS's and GOARCH's words, in
/// normal form: `linux/arm64/v8` and `linux/aarch64` are `linux/arm64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: want OS/ARCH or OS/ARCH/VARIANT, as in linux/arm64")]
pub struct PlatformError(String);

impl Platform {
    /// From the words of an index or a config, brought to normal form.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.map(str::to_ascii_lowercase).filter(|v| !v.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            // The names that uname(2) and people use (containerd, platforms/database.go).
            ("x86_64" | "x86-64" | "amd64", Some("v1")) | ("x86_64" | "x86-64", None) => {
                ("amd64", None)
            }
            ("x86_64" | "x86-64", other) => ("amd64", other),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64", other) => ("arm64", other),
            ("armhf", None) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("armel", None) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            ("i386" | "i486" | "i586" | "i686", None) => ("386", None),
            other => other,
        };
        Self {
            os: os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// The platform this program was built for, on Linux.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            // What the program itself needs is the least that the machine can do.
            "arm" if cfg!(target_feature = "v7") => ("arm", Some("v7")),
            "arm" => ("arm", Some("v6")),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            "powerpc64" => ("ppc64", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self::new("linux", architecture, variant)
    }

    /// How well an image for `offered` suits a machine of this platform: 0 is exactly, more is
    /// worse, `None` is not at all. A machine runs the older variants of its architecture too, and
    /// what is made for the architecture as such.
    pub fn suits(&self, offered: &Self) -> Option<usize> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let older: &[&str] = match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm", Some("v8")) => &["v8", "v7", "v6", "v5"],
            ("arm", Some("v7")) => &["v7", "v6", "v5"],
            ("arm", Some("v6")) => &["v6", "v5"],
            ("amd64", Some("v4")) => &["v4", "v3", "v2", ""],
            ("amd64", Some("v3")) => &["v3", "v2", ""],
            ("amd64", Some("v2")) => &["v2", ""],
            // No variant is the oldest: normal form has none for amd64/v1 and arm64/v8. An older
            // one of which no more is known is none to guess at.
            (_, Some(own)) => &[own, ""],
            (_, None) => &[""],
        };
        let offered = offered.variant.as_deref().unwrap_or_default();
        older.iter().position(|variant| *variant == offered)
    }

    /// For the image record.
    pub fn to_record(&self) -> RecordedPlatform {
        RecordedPlatform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }

    /// From the image record.
    pub fn from_record(record: &RecordedPlatform) -> Self {
        Self::new(&record.os, &record.architecture, record.variant.as_deref())
    }

    /// Whether this marks an entry that is no image at all: attestations are `unknown/unknown`
    /// (docker buildx, "Image attestation storage").
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |word: &&str| {
            !word.is_empty()
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        match parts.as_slice() {
            _ if !parts.iter().all(is_word) => Err(PlatformError(text.into())),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(PlatformError(text.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_one_platform_are_equal() {
        for (one, other) in [
            ("linux/aarch64", "linux/arm64/v8"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/i686", "linux/386"),
        ] {
            assert_eq!(platform(one), platform(other));
        }
    }

    #[test]
    fn a_machine_takes_the_newest_variant_it_can_run() {
        let machine = platform("linux/arm/v7");
        assert_eq!(machine.suits(&platform("linux/arm/v7")), Some(0));
        assert_eq!(machine.suits(&platform("linux/arm/v6")), Some(1));
        assert_eq!(machine.suits(&platform("linux/arm/v8")), None);
        assert_eq!(machine.suits(&platform("linux/arm64")), None);
        assert_eq!(platform("linux/amd64").suits(&platform("linux/amd64/v3")), None);
        assert_eq!(platform("linux/amd64/v3").suits(&platform("linux/amd64")), Some(2));
        assert_eq!(platform("linux/arm64").suits(&platform("linux/arm64/v8")), Some(0));
    }

    #[test]
    fn variants_fall_back_in_order_and_never_upwards() {
        let order = |wanted: &str, offered: &[&'static str]| {
            let mut suiting: Vec<(usize, &'static str)> = offered
                .iter()
                .filter_map(|o| Some((platform(wanted).suits(&platform(o))?, *o)))
                .collect();
            suiting.sort_unstable();
            suiting.into_iter().map(|(_, offered)| offered).collect::<Vec<_>>()
        };
        let arm = ["linux/arm/v5", "linux/arm/v6", "linux/arm", "linux/arm/v8"];
        assert_eq!(
            order("linux/arm/v8", &arm),
            ["linux/arm/v8", "linux/arm", "linux/arm/v6", "linux/arm/v5"]
        );
        assert_eq!(order("linux/arm/v6", &arm), ["linux/arm/v6", "linux/arm/v5"]);
        let amd = ["linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"];
        assert_eq!(
            order("linux/AMD64/V3", &amd),
            ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"]
        );
        assert_eq!(order("linux/amd64/v1", &amd), ["linux/amd64"]);
        assert_eq!(order("linux/arm64/v9", &["linux/arm64/v8"]), ["linux/arm64/v8"]);
        assert_eq!(order("linux/arm64", &["linux/arm64/v9"]), Vec::<&str>::new());
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "linux//v7", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
    }
}
