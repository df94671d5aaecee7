//! podman's `registries.conf`, version 2 (containers-registries.conf(5)). Pure.

use std::path::{Path, PathBuf};

use super::document::{self, Mistake, Section, Value};
use crate::host::RegistryHost;

/// What one or several files say.
#[derive(Debug, Clone, Default)]
pub(crate) struct RegistriesConf {
    registries: Vec<ConfiguredRegistry>,
    aliases: Vec<Alias>,
    /// `unqualified-search-registries` and the file it is from.
    search: Option<(Vec<String>, PathBuf)>,
}

/// A `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfiguredRegistry {
    prefix: String,
    /// Where it says so.
    pub(crate) file: PathBuf,
    pub(crate) location: Option<Location>,
    pub(crate) insecure: bool,
    pub(crate) blocked: bool,
    mirrors: Vec<Mirror>,
}

/// A `[[registry.mirror]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirror {
    pub(crate) location: Location,
    pub(crate) insecure: bool,
    pull: PullFromMirror,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PullFromMirror {
    All,
    DigestOnly,
    TagOnly,
}

/// `host[:port][/namespace…]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) host: RegistryHost,
    /// Without slashes at its ends, empty for none.
    namespace: String,
}

/// A short name and what it stands for, empty for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alias {
    short: String,
    full: String,
    file: PathBuf,
}

/// Parses the text of `file`.
pub(crate) fn parse(text: &str, file: &Path) -> Result<RegistriesConf, Mistake> {
    document::parse(text, |root| {
        if let Some(old) = root.get("registries") {
            return Err(old.wrong("version 1 of this format is not supported: want [[registry]]"));
        }
        let registries = match root.get("registry") {
            None => Vec::new(),
            Some(value) => {
                let sections = value.sections()?.into_iter();
                sections.map(|section| registry(value, section, file)).collect::<Result<_, _>>()?
            }
        };
        let search = root.get("unqualified-search-registries");
        let search = search.map(|value| value.strings()).transpose()?;
        Ok(RegistriesConf {
            registries,
            aliases: aliases(root, file)?,
            search: search
                .map(|names| (names.into_iter().map(str::to_owned).collect(), file.to_path_buf())),
        })
    })
}

fn registry(
    whole: Value<'_>,
    section: Section<'_>,
    file: &Path,
) -> Result<ConfiguredRegistry, Mistake> {
    let at = |key: &str| section.get(key).unwrap_or(whole);
    let filled = |key: &str| Ok(section.string(key)?.filter(|text| !text.is_empty()));
    let location = match filled("location")? {
        None => None,
        Some(text) => Some(location(at("location"), text)?),
    };
    let prefix = match filled("prefix")? {
        Some(text) => check_prefix(at("prefix"), text)?,
        None => match filled("location")? {
            Some(text) => text.trim_end_matches('/').to_owned(),
            None => return Err(whole.wrong("a table has neither prefix nor location")),
        },
    };
    if location.is_none() && !prefix.starts_with("*.") {
        return Err(at("prefix").wrong("want a location too, unless it starts with \"*.\""));
    }
    if section.get("pull-from-mirror").is_some() {
        return Err(at("pull-from-mirror").wrong("belongs into a [[registry.mirror]]"));
    }
    let digest_only = section.flag("mirror-by-digest-only")?;
    let mirrors = match section.get("mirror") {
        None => Vec::new(),
        Some(value) => {
            let sections = value.sections()?.into_iter();
            sections.map(|table| mirror(value, table, digest_only)).collect::<Result<_, _>>()?
        }
    };
    Ok(ConfiguredRegistry {
        prefix,
        file: file.to_path_buf(),
        location,
        insecure: section.flag("insecure")?,
        blocked: section.flag("blocked")?,
        mirrors,
    })
}

fn mirror(whole: Value<'_>, section: Section<'_>, digest_only: bool) -> Result<Mirror, Mistake> {
    let at = section.get("location").ok_or_else(|| whole.wrong("a table has no location"))?;
    let pull = match section.get("pull-from-mirror") {
        None if digest_only => PullFromMirror::DigestOnly,
        None => PullFromMirror::All,
        Some(value) if digest_only => {
            return Err(value.wrong("cannot stand beside mirror-by-digest-only = true"));
        }
        Some(value) => match value.string()? {
            "" | "all" => PullFromMirror::All,
            "digest-only" => PullFromMirror::DigestOnly,
            "tag-only" => PullFromMirror::TagOnly,
            _ => return Err(value.wrong("want \"all\", \"digest-only\" or \"tag-only\"")),
        },
    };
    Ok(Mirror { location: location(at, at.string()?)?, insecure: section.flag("insecure")?, pull })
}

fn location(value: Value<'_>, text: &str) -> Result<Location, Mistake> {
    if text.contains("://") {
        return Err(value.wrong("want HOST[:PORT][/NAMESPACE] without a scheme"));
    }
    let text = text.trim_end_matches('/');
    let (host, namespace) = text.split_once('/').unwrap_or((text, ""));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/".contains(c);
    if !namespace.chars().all(plain) || namespace.split('/').any(|part| part == "..") {
        return Err(value.wrong("want HOST[:PORT][/NAMESPACE] without a tag or digest"));
    }
    let host = host.parse().map_err(|e| value.wrong(e))?;
    Ok(Location { host, namespace: namespace.to_owned() })
}

fn check_prefix(value: Value<'_>, text: &str) -> Result<String, Mistake> {
    if text.contains("://") {
        return Err(value.wrong("want HOST[:PORT][/NAMESPACE] without a scheme"));
    }
    let star = text.strip_prefix("*.");
    let wrong_star = match star {
        Some(rest) => rest.contains(['*', '/', ':']),
        None => text.contains('*'),
    };
    if wrong_star {
        return Err(value.wrong("a star may stand only as in *.example.com"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn aliases(root: Section<'_>, file: &Path) -> Result<Vec<Alias>, Mistake> {
    let Some(table) = root.get("aliases") else { return Ok(Vec::new()) };
    let entries = table.section()?;
    entries
        .entries()
        .map(|entry| {
            let full = entry.string()?;
            let host = full.split('/').next().unwrap_or_default();
            let is_host = host.contains(['.', ':']) || host == "localhost";
            if !full.is_empty() && !is_host {
                return Err(entry.wrong("want a name with its registry, as in quay.io/org/app"));
            }
            let (short, full) = (entry.name.to_owned(), full.to_owned());
            Ok(Alias { short, full, file: file.to_path_buf() })
        })
        .collect()
}

impl RegistriesConf {
    /// Takes in what a file says that is read later: it wins.
    pub(crate) fn merge(&mut self, later: Self) {
        self.registries.retain(|old| later.registries.iter().all(|new| new.prefix != old.prefix));
        self.registries.extend(later.registries);
        self.aliases.retain(|old| later.aliases.iter().all(|new| new.short != old.short));
        self.aliases.extend(later.aliases);
        self.search = later.search.or(self.search.take());
    }

    /// Forgets the aliases.
    pub(crate) fn without_aliases(mut self) -> Self {
        self.aliases.clear();
        self
    }

    /// The table for `name`, `host/repository`: the one with the longest prefix.
    pub(crate) fn find(&self, name: &str) -> Option<&ConfiguredRegistry> {
        // Of equal prefixes the first counts.
        let matching = self.registries.iter().rev().filter(|r| matched(name, &r.prefix).is_some());
        matching.max_by_key(|registry| registry.prefix.len())
    }

    /// What a name without a registry stands for, if that is configured, and the file that says
    /// so: an alias, or the search list where it leaves no choice. Several registries to search
    /// would let whoever owns the name in one of them serve it, so then it stays docker.io's.
    pub(crate) fn expand(&self, short: &str) -> Option<(String, &Path)> {
        if let Some(alias) = self.aliases.iter().find(|alias| alias.short == short) {
            return (!alias.full.is_empty()).then(|| (alias.full.clone(), alias.file.as_path()));
        }
        match self.search.as_ref() {
            Some((names, file)) => match names.as_slice() {
                [only] => Some((format!("{}/{short}", only.trim_end_matches('/')), file.as_path())),
                _ => None,
            },
            None => None,
        }
    }
}

impl ConfiguredRegistry {
    /// Where the image `name` lies in truth: host and repository.
    pub(crate) fn rewritten<'a>(
        &'a self,
        name: &str,
        location: &'a Location,
    ) -> (&'a RegistryHost, String) {
        let rest = name.get(matched(name, &self.prefix).unwrap_or(name.len())..);
        let rest = rest.unwrap_or_default().trim_start_matches('/');
        let repository = match (location.namespace.as_str(), rest) {
            ("", rest) => rest.to_owned(),
            (namespace, "") => namespace.to_owned(),
            (namespace, rest) => format!("{namespace}/{rest}"),
        };
        (&location.host, repository)
    }

    /// The mirrors that may serve an image that is asked for by digest, or by tag.
    pub(crate) fn mirrors(&self, by_digest: bool) -> impl Iterator<Item = &Mirror> {
        self.mirrors.iter().filter(move |mirror| match mirror.pull {
            PullFromMirror::All => true,
            PullFromMirror::DigestOnly => by_digest,
            PullFromMirror::TagOnly => !by_digest,
        })
    }

    /// As the file names it.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// How much of `name` the prefix takes. Unlike podman's (which says not to rely on it), a host
/// without a port does not stand for the same host with one.
fn matched(name: &str, prefix: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(domain) => {
            let host = name.split('/').next().unwrap_or_default();
            let name_only = host.rsplit_once(':').map_or(host, |(name, _)| name);
            name_only.ends_with(domain).then_some(host.len())?
        }
        None => name.starts_with(prefix).then_some(prefix.len())?,
    };
    matches!(name.as_bytes().get(end), None | Some(b'/')).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RegistriesConf {
        parse(text, Path::new("/r.conf")).unwrap()
    }

    fn where_is(conf: &RegistriesConf, name: &str) -> String {
        let registry = conf.find(name).unwrap();
        let (host, repository) = registry.rewritten(name, registry.location.as_ref().unwrap());
        format!("{host}/{repository}")
    }

    #[test]
    fn the_longest_prefix_is_rewritten() {
        let conf = read(
            r#"
            [[registry]]
            location = "quay.io"
            [[registry]]
            prefix = "k8s.gcr.io"
            location = "registry.k8s.io"
            [[registry]]
            prefix = "quay.io/team"
            location = "internal.example:5000/copies/"
            [[registry]]
            prefix = "quay.io/team/app"
            location = "other.example/one/app"
            [[registry]]
            prefix = "*.corp.example"
            location = "mirror.corp.example"
            "#,
        );
        for (name, want) in [
            ("k8s.gcr.io/pause", "registry.k8s.io/pause"),
            ("quay.io/teams/x", "quay.io/teams/x"),
            ("quay.io/team/x", "internal.example:5000/copies/x"),
            ("quay.io/team/app", "other.example/one/app"),
            ("quay.io/team/app/sub", "other.example/one/app/sub"),
            ("a.b.corp.example/x/y", "mirror.corp.example/x/y"),
            ("a.corp.example:5000/x", "mirror.corp.example/x"),
        ] {
            assert_eq!(where_is(&conf, name), want, "{name}");
        }
        for name in ["corp.example/x", "evil-corp.example/x", "quay.io.evil/x", "quay.io:5000/x"] {
            assert!(conf.find(name).is_none(), "{name}");
        }
    }

    #[test]
    fn mirrors_may_be_for_digests_or_tags_only() {
        let conf = read(
            r#"
            [[registry]]
            location = "quay.io"
            [[registry.mirror]]
            location = "a.example"
            [[registry.mirror]]
            location = "b.example"
            pull-from-mirror = "digest-only"
            insecure = true
            [[registry.mirror]]
            location = "c.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "x.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "d.example"
            "#,
        );
        let hosts = |name: &str, by_digest| {
            let mirrors = conf.find(name).unwrap().mirrors(by_digest);
            mirrors.map(|m| m.location.host.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(hosts("quay.io/a", true), ["a.example", "b.example"]);
        assert_eq!(hosts("quay.io/a", false), ["a.example", "c.example"]);
        assert_eq!(hosts("x.example/a", true), ["d.example"]);
        assert_eq!(hosts("x.example/a", false), Vec::<String>::new());
    }

    #[test]
    fn later_files_win() {
        let mut conf = read("[[registry]]\nlocation = \"quay.io\"\n[aliases]\na = \"x.y/a\"\n");
        conf.merge(read(
            "unqualified-search-registries = [\"only.example\"]\n[[registry]]\n\
             location = \"quay.io\"\nblocked = true\n[aliases]\nb = \"x.y/b\"\na = \"\"\n",
        ));
        assert!(conf.find("quay.io/x").unwrap().blocked);
        let full = |short: &str| conf.expand(short).map(|(full, _)| full);
        assert_eq!(full("b").as_deref(), Some("x.y/b"));
        assert_eq!(full("a"), None);
        assert_eq!(full("c").as_deref(), Some("only.example/c"));
        conf.merge(read("unqualified-search-registries = [\"a.example\", \"docker.io\"]\n"));
        assert!(conf.expand("c").is_none());
    }

    #[test]
    fn mistakes_name_line_and_key() {
        for (text, line, words) in [
            ("[[registry]]\nlocation = \"https://a\"", 2, "location: want HOST"),
            ("[[registry]]\nlocation = \"a/b:tag\"", 2, "location: want HOST"),
            ("[[registry]]\nprefix = \"a.b\"", 2, "prefix: want a location too"),
            ("[[registry]]\nprefix = \"a.*.b\"\nlocation = \"c\"", 2, "prefix: a star"),
            ("[[registry]]\nblocked = true", 1, "registry: a table has neither"),
            ("[[registry]]\nlocation = \"a\"\nblocked = \"yes\"", 3, "blocked: want true"),
            ("[[registry]]\nlocation = \"a\"\n[[registry.mirror]]", 3, "mirror: a table has no"),
            ("[registries.search]\nregistries = [\"a\"]", 1, "registries: version 1"),
            ("[aliases]\na = \"b/c\"", 2, "a: want a name with its registry"),
            ("[[registry]\n", 1, "no TOML"),
        ] {
            let mistake = parse(text, Path::new("/r.conf")).unwrap_err();
            assert_eq!(mistake.line, line, "{text:?}: {mistake:?}");
            assert!(mistake.reason.starts_with(words), "{text:?}: {mistake:?}");
        }
    }
}
