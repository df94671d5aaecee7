//! What the files of containerd, docker and podman say about registries: where they lie, and a
//! bounded read of each.
//!
//! ```text
//! document         TOML with line numbers
//! certs            certs.d folders -> CA and client files
//! hosts_toml       containerd's hosts.toml
//! registries_conf  podman's registries.conf
//! ```

mod certs;
mod document;
mod hosts_toml;
mod registries_conf;

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

pub(crate) use certs::TlsFiles;
pub(crate) use hosts_toml::{ApiUrl, Capabilities, ConfiguredHost, HostsToml};
pub(crate) use registries_conf::{ConfiguredRegistry, RegistriesConf};

use crate::host::RegistryHost;
use document::Mistake;

/// Longest configuration file, in bytes: a distribution's own have some ten thousand.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most files of a `registries.conf.d`, and most names of a `certs.d` folder: far more than anybody
/// keeps there.
const MAX_NAMES: usize = 1024;
/// podman's own list of short names, as distributions ship it. What a short name means to ocipull
/// is what it means to docker and containerd, unless this machine's people say otherwise.
const SHIPPED_ALIASES: &str = "shortnames.conf";

/// Where configuration is looked for. The default is nowhere.
#[derive(Debug, Clone, Default)]
pub struct ConfigSources {
    /// containerd's `certs.d`; of each the first folder for a registry counts.
    pub containerd: Vec<PathBuf>,
    /// `registries.conf`: the first that exists.
    pub registries_conf: Vec<RegistriesFile>,
    /// `certs.d` of docker and podman; all that have a folder for a registry count.
    pub certs: Vec<PathBuf>,
}

/// A `registries.conf` and the folders of additions that are read after it.
#[derive(Debug, Clone)]
pub struct RegistriesFile {
    /// The file.
    pub path: PathBuf,
    /// Whether the user named it: then it has to be there.
    pub required: bool,
    /// Its `registries.conf.d`, in order.
    pub drop_ins: Vec<PathBuf>,
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path:?}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It says something that makes no sense.
    #[error("{path:?}, line {line}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Names the key.
        reason: String,
    },
    /// It is not what its name says.
    #[error("{path:?}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ConfigError {
    /// The remedy, in one line.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Io { path, .. } => format!("check that {} may be read", path.display()),
            Self::Invalid { path, .. } | Self::Unusable { path, .. } => {
                format!("correct {}, or move it away", path.display())
            }
        }
    }
}

impl ConfigSources {
    /// The files that containerd, docker and podman read, those of the user first. `variable` looks
    /// up an environment variable.
    pub fn of_user(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let variable = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
        let home = variable("HOME");
        let config =
            variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let docker =
            variable("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let user = |path: &str| config.as_ref().map(|config| config.join(path));
        let user_drop_ins = user("containers/registries.conf.d");
        let system_drop_ins = Some(PathBuf::from("/etc/containers/registries.conf.d"));
        let file = |path: Option<PathBuf>, required, drop_ins: [&Option<PathBuf>; 2]| {
            path.map(|path| RegistriesFile {
                path,
                required,
                drop_ins: drop_ins.into_iter().flatten().cloned().collect(),
            })
        };
        let both = [&system_drop_ins, &user_drop_ins];
        let registries_conf = match variable("CONTAINERS_REGISTRIES_CONF") {
            Some(path) => vec![file(Some(path), true, both)],
            // The user's own stands without the system's (containers-registries.conf.d(5)).
            None => vec![
                file(user("containers/registries.conf"), false, [&None, &user_drop_ins]),
                file(Some("/etc/containers/registries.conf".into()), false, both),
            ],
        };
        let paths = |paths: Vec<Option<PathBuf>>| paths.into_iter().flatten().collect();
        Self {
            containerd: paths(vec![
                user("containerd/certs.d"),
                Some("/etc/containerd/certs.d".into()),
            ]),
            registries_conf: registries_conf.into_iter().flatten().collect(),
            certs: paths(vec![
                user("containers/certs.d"),
                docker.map(|docker| docker.join("certs.d")),
                Some("/etc/containers/certs.d".into()),
                Some("/etc/docker/certs.d".into()),
            ]),
        }
    }

    /// The `hosts.toml` for `host` and its path: of the first root that has a folder for it.
    pub(crate) fn hosts_toml(
        &self,
        host: &RegistryHost,
    ) -> Result<Option<(PathBuf, HostsToml)>, ConfigError> {
        let Some(dir) = self.containerd_folder(host) else { return Ok(None) };
        let path = dir.join("hosts.toml");
        match read(&path)? {
            // containerd takes an empty file for none.
            None => Ok(None),
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => {
                let parsed = hosts_toml::parse(&text, &dir).map_err(|m| invalid(&path, m))?;
                Ok(Some((path, parsed)))
            }
        }
    }

    fn containerd_folder(&self, host: &RegistryHost) -> Option<PathBuf> {
        let folders = self.containerd.iter().flat_map(|root| hosts_toml::directories(root, host));
        folders.into_iter().find(|folder| folder.exists())
    }

    /// All that `registries.conf` and its additions say.
    pub(crate) fn registries(&self) -> Result<RegistriesConf, ConfigError> {
        let mut conf = RegistriesConf::default();
        for file in &self.registries_conf {
            let text = read(&file.path)?;
            let is_last = self.registries_conf.last().is_some_and(|last| last.path == file.path);
            match text {
                Some(text) => conf.merge(registries(&text, &file.path)?),
                None if file.required => {
                    let source = ErrorKind::NotFound.into();
                    return Err(ConfigError::Io { path: file.path.clone(), source });
                }
                None if !is_last => continue,
                None => {}
            }
            for folder in &file.drop_ins {
                for name in names(folder)?.iter().filter(|name| name.ends_with(".conf")) {
                    let path = folder.join(name);
                    let Some(text) = read(&path)? else { continue };
                    let addition = registries(&text, &path)?;
                    // Fedora calls it 000-shortnames.conf.
                    let shipped = name.ends_with(SHIPPED_ALIASES);
                    conf.merge(if shipped { addition.without_aliases() } else { addition });
                }
            }
            break;
        }
        Ok(conf)
    }

    /// The TLS files that lie in folders for `host`.
    pub(crate) fn certs(&self, host: &RegistryHost) -> Result<TlsFiles, ConfigError> {
        let mut files = TlsFiles::default();
        let folders = self.certs.iter().map(|root| root.join(host.as_str()));
        // containerd's folder counts as one of docker's where it has no hosts.toml.
        let containerd =
            self.containerd_folder(host).filter(|dir| !dir.join("hosts.toml").exists());
        for folder in folders.chain(containerd) {
            let names = names(&folder)?;
            files.add(certs::of_folder(&folder, &names).map_err(|(name, lacks)| {
                let path = folder.join(name);
                ConfigError::Unusable { path, reason: format!("{lacks} is missing beside it") }
            })?);
        }
        Ok(files)
    }
}

fn registries(text: &str, path: &Path) -> Result<RegistriesConf, ConfigError> {
    registries_conf::parse(text, path).map_err(|m| invalid(path, m))
}

fn invalid(path: &Path, Mistake { line, reason }: Mistake) -> ConfigError {
    ConfigError::Invalid { path: path.to_path_buf(), line, reason }
}

/// A text file's content; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let unusable =
        |reason: &str| ConfigError::Unusable { path: path.into(), reason: reason.into() };
    match read_bytes(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(unusable("it is not UTF-8")),
        },
        Err(ConfigError::Io { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// All of a file that is named by configuration.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source| ConfigError::Io { path: path.to_path_buf(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let reason = format!("it is larger than {MAX_FILE_BYTES} bytes");
        return Err(ConfigError::Unusable { path: path.to_path_buf(), reason });
    }
    Ok(bytes)
}

/// The names in a folder, sorted. None where there is no folder, or one that is not for this user
/// to see (as podman has it: the system's may be closed).
fn names(folder: &Path) -> Result<Vec<String>, ConfigError> {
    let failed = |source| ConfigError::Io { path: folder.to_path_buf(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied => {
                return Ok(Vec::new());
            }
            _ => return Err(failed(error)),
        },
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not UTF-8 ends in nothing that is looked for.
        names.extend(entry.map_err(failed)?.file_name().into_string());
        if names.len() > MAX_NAMES {
            let reason = format!("it holds more than {MAX_NAMES} files");
            return Err(ConfigError::Unusable { path: folder.to_path_buf(), reason });
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(home: &Path) -> ConfigSources {
        ConfigSources::of_user(|name| (name == "HOME").then(|| home.to_path_buf()))
    }

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_users_own_file_stands_without_the_systems() {
        let sources = sources(Path::new("/home/u"));
        let own = &sources.registries_conf[0];
        assert_eq!(own.path, Path::new("/home/u/.config/containers/registries.conf"));
        assert_eq!(own.drop_ins, [Path::new("/home/u/.config/containers/registries.conf.d")]);
        assert_eq!(sources.registries_conf[1].drop_ins.len(), 2);
        assert_eq!(sources.containerd[0], Path::new("/home/u/.config/containerd/certs.d"));
        assert_eq!(sources.certs[1], Path::new("/home/u/.docker/certs.d"));
    }

    #[test]
    fn additions_are_read_in_order_and_shipped_aliases_are_not_ours() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".config/containers");
        write(dir.join("registries.conf"), "[aliases]\napp = \"a.example/app\"\n");
        let drop_in =
            |name: &str, text: &str| write(dir.join("registries.conf.d").join(name), text);
        drop_in("10-b.conf", "[aliases]\napp = \"b.example/app\"\nmine = \"b.example/mine\"\n");
        drop_in("000-shortnames.conf", "[aliases]\nmine = \"x.example/x\"\ncentos = \"x.y/z\"\n");
        drop_in("20-c.conf.bak", "rubbish");
        let conf = sources(home.path()).registries().unwrap();
        assert_eq!(conf.expand("app").unwrap().0, "b.example/app");
        assert_eq!(conf.expand("mine").unwrap().0, "b.example/mine");
        assert!(conf.expand("centos").is_none());
    }

    /// Files that are cut off or damaged at any place end in a result or a mistake with a line.
    #[test]
    fn rubbish_is_a_mistake_and_no_more() {
        let hosts = "server = \"https://a.example/x\"\ndial_timeout = \"1m30s\"\n\
                     [host.\"https://[::1]:5000\"]\ncapabilities = [\"pull\"]\n\
                     client = [[\"a\", \"b\"]]\nca = \"c\"\n\
                     [host.\"https://[::1]:5000\".header]\nx = [\"y\", \"z\"]\n";
        let registries = "unqualified-search-registries = [\"a.b\"]\n[aliases]\n\"a\" = \"b.c/d\"\n\
                          [[registry]]\nprefix = \"*.a.b\"\nlocation = \"c.d:5/e\"\n\
                          [[registry.mirror]]\nlocation = \"x/y\"\npull-from-mirror = \"all\"\n";
        let check = |text: &str| {
            let _ = hosts_toml::parse(text, Path::new("/d"));
            if let Ok(conf) = registries_conf::parse(text, Path::new("/r")) {
                for name in ["x.a.b/n", "x.a.b:1/n", "c.d:5/e", "c.d:5/e/f"] {
                    if let Some(found) = conf.find(name)
                        && let Some(location) = &found.location
                    {
                        found.rewritten(name, location);
                    }
                }
            }
        };
        for seed in [hosts, registries] {
            assert!(hosts_toml::parse(hosts, Path::new("/d")).is_ok());
            assert!(registries_conf::parse(registries, Path::new("/r")).is_ok());
            for at in 0..seed.len() {
                check(&seed[..at]);
                for with in ["", "\"", "[", "/", ":", "*", "=", "\n", "é", "9", "."] {
                    check(&format!("{}{with}{}", &seed[..at], &seed[at + 1..]));
                }
            }
        }
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        let sources = ConfigSources::of_user(|name| {
            (name == "CONTAINERS_REGISTRIES_CONF").then(|| PathBuf::from("/nonexistent/r.conf"))
        });
        assert!(matches!(sources.registries(), Err(ConfigError::Io { .. })));
    }

    #[test]
    fn huge_and_binary_files_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".config/containers/registries.conf");
        write(path.clone(), &"#".repeat((1 << 20) + 1));
        assert!(matches!(sources(home.path()).registries(), Err(ConfigError::Unusable { .. })));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(sources(home.path()).registries(), Err(ConfigError::Unusable { .. })));
    }
}
