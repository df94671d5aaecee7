//! What an image is called: `[registry/]repository[:tag][@digest]`. Pure.
//!
//! The grammar is that of github.com/distribution/reference, which docker, podman and containerd
//! share. It is parsed here, not by [`oci_client::Reference`], because that one says of every
//! mistake "invalid reference format" and knows no IPv6 hosts; the parts end up in one all the same.

use std::fmt;
use std::str::FromStr;

use oci_client::Reference;
use oci_spec::image::{Digest, DigestAlgorithm};

use crate::host::{DEFAULT_REGISTRY, HostError, RegistryHost};

/// docker.io keeps its unprefixed images there.
const OFFICIAL_NAMESPACE: &str = "library";
/// What a name with neither tag nor digest means.
const DEFAULT_TAG: &str = "latest";

/// Longest repository, in bytes (distribution/reference, `RepositoryNameTotalLengthMax`).
const MAX_REPOSITORY_BYTES: usize = 255;
/// Longest tag, in bytes (distribution-spec, "Pulling manifests").
const MAX_TAG_BYTES: usize = 128;

/// An image in a registry, by tag, by digest or by both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    typed: String,
    registry: RegistryHost,
    inner: Reference,
    digest: Option<Digest>,
}

/// Which part of a reference cannot be right, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {typed:?}: {problem}")]
pub struct ReferenceError {
    typed: String,
    problem: Problem,
}

/// What is wrong with a part of a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// `https://…`
    #[error("it starts with the scheme {0:?}, want a registry or a repository first")]
    Scheme(String),
    /// The registry part.
    #[error(transparent)]
    Registry(#[from] HostError),
    /// A registry with nothing after it.
    #[error("no repository after the registry {0:?}")]
    NoRepository(String),
    /// The repository part.
    #[error("repository {repository:?}: {reason}")]
    Repository {
        /// As typed.
        repository: String,
        /// Why it is none.
        reason: &'static str,
    },
    /// The tag.
    #[error("tag {0:?}: want at most {MAX_TAG_BYTES} letters, digits, _ . - and no . or - first")]
    Tag(String),
    /// The digest.
    #[error("digest {0:?}: want sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),
}

impl ReferenceError {
    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The remedy, in one line.
    pub fn hint(&self) -> String {
        match &self.problem {
            Problem::Scheme(scheme) => {
                format!("leave {scheme}:// out; --plain-http asks for a registry without TLS")
            }
            Problem::Repository { repository, .. }
                if *repository != repository.to_ascii_lowercase() =>
            {
                format!("try {}", repository.to_ascii_lowercase())
            }
            _ => "write [REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST], as in centos:latest or \
                  quay.io/centos/centos:stream9"
                .into(),
        }
    }
}

impl ImageReference {
    /// As the user typed it.
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// The registry the image belongs to, whoever serves it.
    pub fn registry(&self) -> &RegistryHost {
        &self.registry
    }

    /// The repository: `library/centos`.
    pub fn repository(&self) -> &str {
        self.inner.repository()
    }

    /// The tag, if one was given or nothing else was.
    pub fn tag(&self) -> Option<&str> {
        self.inner.tag()
    }

    /// The digest, if one was given. It wins over a tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The name as typed, without tag and digest, if it names no registry: `centos`, `team/app`.
    pub fn short_name(&self) -> Option<&str> {
        let (rest, _) = self.typed.split_once('@').unwrap_or((&self.typed, ""));
        let (name, _) = split_tag(rest);
        split_registry(name).0.is_none().then_some(name)
    }

    /// The reference that this short one stands for, where its name means `full`: its tag and digest
    /// stay, and what was typed stays what was typed.
    pub fn expanded(&self, full: &str) -> Result<Self, ReferenceError> {
        let after = self.short_name().and_then(|name| self.typed.strip_prefix(name));
        let written: Self = format!("{full}{}", after.unwrap_or_default()).parse()?;
        Ok(Self { typed: self.typed.clone(), ..written })
    }

    /// What a registry is asked for: the digest, else the tag.
    pub fn selector(&self) -> &str {
        self.digest.as_ref().map_or_else(|| self.tag().unwrap_or(DEFAULT_TAG), |d| d.as_ref())
    }
}

impl fmt::Display for ImageReference {
    /// Written out: `docker.io/library/centos:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(typed: &str) -> Result<Self, ReferenceError> {
        parse(typed).map_err(|problem| ReferenceError { typed: typed.into(), problem })
    }
}

fn parse(typed: &str) -> Result<ImageReference, Problem> {
    if typed.is_empty() {
        return Err(Problem::Empty);
    }
    if let Some((scheme, _)) = typed.split_once("://") {
        return Err(Problem::Scheme(scheme.into()));
    }
    let (rest, digest) = match typed.split_once('@') {
        Some((rest, text)) => (rest, Some(parse_digest(text)?)),
        None => (typed, None),
    };
    let (name, tag) = split_tag(rest);
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(Problem::Tag(tag.into()));
    }
    let (host, path) = split_registry(name);
    let registry = RegistryHost::from_str(host.unwrap_or(DEFAULT_REGISTRY))?;
    if path.is_empty() {
        return Err(Problem::NoRepository(registry.to_string()));
    }
    check_repository(path)?;
    let path = match registry.is_default() && !path.contains('/') {
        true => format!("{OFFICIAL_NAMESPACE}/{path}"),
        false => path.to_owned(),
    };
    // Of the whole: what is written out has to be a reference too.
    if path.len() > MAX_REPOSITORY_BYTES {
        return Err(Problem::Repository { repository: path, reason: "longer than 255 bytes" });
    }
    let host = registry.to_string();
    let inner = match (tag, &digest) {
        (Some(tag), Some(d)) => {
            Reference::with_tag_and_digest(host, path, tag.into(), d.to_string())
        }
        (None, Some(d)) => Reference::with_digest(host, path, d.to_string()),
        (tag, None) => Reference::with_tag(host, path, tag.unwrap_or(DEFAULT_TAG).into()),
    };
    Ok(ImageReference { typed: typed.into(), registry, inner, digest })
}

/// A colon after the last slash starts the tag; one before it belongs to a port or an address.
fn split_tag(rest: &str) -> (&str, Option<&str>) {
    match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !name.is_empty() => (name, Some(tag)),
        _ => (rest, None),
    }
}

/// The first component is a registry when it looks like a host: that is docker's rule, which all
/// peers follow.
fn split_registry(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn parse_digest(text: &str) -> Result<Digest, Problem> {
    let digest = Digest::from_str(text).map_err(|_| Problem::Digest(text.into()))?;
    match digest.algorithm() {
        DigestAlgorithm::Sha256 | DigestAlgorithm::Sha384 | DigestAlgorithm::Sha512 => Ok(digest),
        _ => Err(Problem::Digest(text.into())),
    }
}

/// Whether a text can be a tag.
pub(crate) fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn check_repository(path: &str) -> Result<(), Problem> {
    let wrong = |reason| Err(Problem::Repository { repository: path.into(), reason });
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return wrong("it must be lower case");
    }
    if path.split('/').any(str::is_empty) {
        return wrong("a component between slashes is empty");
    }
    if !path.split('/').all(is_component) {
        return wrong("want lower-case letters and digits, separated by one of . _ __ or dashes");
    }
    Ok(())
}

/// `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_plain = |b: Option<u8>| b.is_some_and(plain);
    ends_plain(component.bytes().next())
        && ends_plain(component.bytes().last())
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "sha256:a1801b843b1bfaf77c501e7a6d3f709401a1e0c83863037fa3aab063a7fdb9dc";

    #[test]
    fn short_names_are_written_out() {
        for (typed, canonical) in [
            ("centos", "docker.io/library/centos:latest"),
            ("centos:7", "docker.io/library/centos:7"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/centos", "docker.io/library/centos:latest"),
            ("index.docker.io/centos:latest", "docker.io/library/centos:latest"),
            ("quay.io/centos/centos:stream9", "quay.io/centos/centos:stream9"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
            ("[::1]:5000/app:1", "[::1]:5000/app:1"),
            ("[2001:db8::1]/app", "[2001:db8::1]/app:latest"),
            ("Registry.Example.org/a", "registry.example.org/a:latest"),
            ("f/a--b__c.d_e", "docker.io/f/a--b__c.d_e:latest"),
        ] {
            let parsed: ImageReference = typed.parse().unwrap();
            assert_eq!(parsed.to_string(), canonical, "{typed}");
        }
    }

    #[test]
    fn a_short_name_can_stand_for_another() {
        for typed in ["app", "app:1", &format!("app:1@{SHA}")] {
            let reference: ImageReference = typed.parse().unwrap();
            assert_eq!(reference.short_name(), Some("app"));
            let full = reference.expanded("quay.io/team/app").unwrap();
            assert_eq!((full.typed(), full.registry().as_str()), (typed, "quay.io"));
            assert_eq!(full.repository(), "team/app");
            assert_eq!((full.digest(), full.tag()), (reference.digest(), reference.tag()));
        }
        let long: ImageReference = "docker.io/library/app".parse().unwrap();
        assert_eq!(long.short_name(), None);
        let short: ImageReference = "team/app".parse().unwrap();
        assert_eq!(short.short_name(), Some("team/app"));
        assert!(short.expanded("Not A Name").is_err());
    }

    #[test]
    fn a_digest_wins_over_the_tag() {
        let parsed: ImageReference = format!("centos:7@{SHA}").parse().unwrap();
        assert_eq!((parsed.tag(), parsed.selector()), (Some("7"), SHA));
        let parsed: ImageReference = format!("centos@{SHA}").parse().unwrap();
        assert_eq!((parsed.tag(), parsed.selector()), (None, SHA));
        assert_eq!(parsed.to_string(), format!("docker.io/library/centos@{SHA}"));
    }

    /// Found by fuzzing: the limit was held against the name as typed, without `library/`.
    #[test]
    fn the_longest_repository_counts_with_its_namespace() {
        assert!("a".repeat(247).parse::<ImageReference>().is_ok());
        let error = "a".repeat(248).parse::<ImageReference>().unwrap_err().to_string();
        assert!(error.contains("longer than 255 bytes"), "{error}");
        assert!(format!("x.y/{}", "a".repeat(255)).parse::<ImageReference>().is_ok());
    }

    #[test]
    fn the_offending_part_is_named() {
        for (typed, part) in [
            ("", "empty"),
            ("https://quay.io/a", "scheme \"https\""),
            ("Centos", "repository \"Centos\": it must be lower case"),
            ("a:b:c/d", "registry \"a:b:c\""),
            ("a/../b", "repository \"a/../b\""),
            ("a//b", "between slashes is empty"),
            ("a/b/", "between slashes is empty"),
            ("quay.io/", "no repository after the registry \"quay.io\""),
            ("a:", "tag \"\""),
            ("a:-x", "tag \"-x\""),
            ("a:b c", "tag \"b c\""),
            ("a@sha256:12", "digest \"sha256:12\""),
            ("a@md5:d41d8cd98f00b204e9800998ecf8427e", "digest \"md5:"),
            ("a@", "digest \"\""),
            ("host:99999/a", "port from 1 to 65535"),
            ("[::1/a", "IPv6 address between the brackets"),
            ("[fe80::1%25eth0]/a", "IPv6 address between the brackets"),
            ("-a.b/c", "registry \"-a.b\""),
            ("a b", "repository \"a b\""),
            ("a___b", "repository"),
            ("user:pass@quay.io/a", "digest"),
        ] {
            let error = typed.parse::<ImageReference>().unwrap_err().to_string();
            assert!(error.contains(part), "{typed:?}: {error}");
        }
    }

    #[test]
    fn agrees_with_the_ecosystems_parser() {
        for typed in
            ["centos", "a/b:c", "localhost:5000/x", "a.b/c/d", "a_b", "a..b", "a-/b", "A/b"]
        {
            let ours = typed.parse::<ImageReference>().map(|r| r.to_string()).ok();
            let theirs = typed.parse::<Reference>().map(|r| r.to_string()).ok();
            // Theirs keeps the case of a host name and reads an upper-case first component as a
            // host only if it has a dot.
            assert_eq!(ours.is_some(), theirs.is_some(), "{typed}: {ours:?} {theirs:?}");
            if !typed.starts_with('A') {
                assert_eq!(ours, theirs, "{typed}");
            }
        }
    }
}
