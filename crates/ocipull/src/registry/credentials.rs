//! Who the user is to a registry: `--creds`, and the files of podman and docker.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::Value;

use crate::host::RegistryHost;

/// Longest credential file, in bytes: a few hundred a registry.
const MAX_AUTH_FILE_BYTES: u64 = 1 << 20;
/// The name under which docker keeps docker.io's login.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A user's name and password. Never printed: `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub user: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where credentials may come from.
#[derive(Debug, Clone, Default)]
pub struct CredentialSources {
    /// For the image's own registry; nothing else is looked at then.
    pub login: Option<Login>,
    /// The files, the first that has something wins.
    pub files: Vec<AuthFile>,
}

/// A credential file in docker's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthFile {
    /// Where.
    pub path: PathBuf,
    /// Whether the user named it: then it has to be there.
    pub required: bool,
}

/// A login and where it was found, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) login: Login,
    pub(crate) origin: String,
}

/// Why configured credentials could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file could not be read.
    #[error("cannot read credentials from {path:?}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not in docker's form.
    #[error("cannot read credentials from {path:?}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong. Holds nothing of the content.
        reason: String,
    },
    /// `docker-credential-…` failed.
    #[error("credential helper {helper:?}, named by {path:?}, failed")]
    Helper {
        /// The file that names it.
        path: PathBuf,
        /// Its name.
        helper: String,
    },
    /// A login of a kind that is not supported yet.
    #[error("the login for {host} in {path:?} is an identity token, which is not supported")]
    IdentityToken {
        /// The registry.
        host: String,
        /// The file.
        path: PathBuf,
    },
}

impl CredentialError {
    /// The remedy, in one line.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Helper { helper, .. } => {
                format!("check that docker-credential-{helper} is in PATH and works")
            }
            _ => "give --creds USER:PASS, or another file with --authfile".into(),
        }
    }
}

/// The files that podman and docker use, in podman's order (containers-auth.json(5)). A file that
/// the user names, by `--authfile` or `REGISTRY_AUTH_FILE`, stands alone.
pub fn default_files(
    named: Option<&Path>,
    variable: impl Fn(&str) -> Option<PathBuf>,
) -> Vec<AuthFile> {
    let variable = |name: &str| variable(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = named.map(Path::to_path_buf).or_else(|| variable("REGISTRY_AUTH_FILE")) {
        return vec![AuthFile { path, required: true }];
    }
    let home = variable("HOME");
    let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
    [
        variable("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        variable("XDG_CONFIG_HOME")
            .or_else(|| below_home(".config"))
            .map(|dir| dir.join("containers/auth.json")),
        variable("DOCKER_CONFIG")
            .or_else(|| below_home(".docker"))
            .map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .map(|path| AuthFile { path, required: false })
    .collect()
}

impl CredentialSources {
    /// The same files without `--creds`: for a mirror, which is not the registry they are meant for.
    pub(crate) fn files_only(&self) -> Self {
        Self { login: None, files: self.files.clone() }
    }

    /// The login for `repository` at `host`. Blocks: it reads files and may run a helper.
    pub(crate) fn find(
        &self,
        host: &RegistryHost,
        repository: &str,
    ) -> Result<Option<Found>, CredentialError> {
        if let Some(login) = &self.login {
            return Ok(Some(Found { login: login.clone(), origin: "--creds".into() }));
        }
        for file in &self.files {
            if let Some(login) = find_in_file(file, host, repository)? {
                return Ok(Some(Found { login, origin: file.path.display().to_string() }));
            }
        }
        Ok(None)
    }
}

fn find_in_file(
    file: &AuthFile,
    host: &RegistryHost,
    repository: &str,
) -> Result<Option<Login>, CredentialError> {
    let Some(text) = read(file)? else { return Ok(None) };
    let path = || file.path.clone();
    let value: Value = serde_json::from_slice(&text).map_err(|e| CredentialError::Malformed {
        path: path(),
        // serde's message may quote the content; its place does not.
        reason: format!("not JSON at line {} column {}", e.line(), e.column()),
    })?;
    let Some(server) = server_key(&value, host, repository) else { return Ok(None) };
    match docker_credential::get_credential_from_reader(text.as_slice(), &server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Ok(Some(Login { user, password }))
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            Err(CredentialError::IdentityToken { host: host.to_string(), path: path() })
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        Err(CredentialRetrievalError::HelperFailure { helper, stdout, .. }) => {
            // The helpers' word for "none" (docker-credential-helpers, credentials/error.go).
            if stdout.contains("credentials not found") {
                return Ok(None);
            }
            Err(CredentialError::Helper { path: path(), helper })
        }
        Err(
            CredentialRetrievalError::HelperCommunicationError
            | CredentialRetrievalError::MalformedHelperResponse,
        ) => {
            let helper = helper_name(&value, &server).unwrap_or_default().to_owned();
            Err(CredentialError::Helper { path: path(), helper })
        }
        Err(other) => Err(CredentialError::Malformed { path: path(), reason: other.to_string() }),
    }
}

fn read(file: &AuthFile) -> Result<Option<Vec<u8>>, CredentialError> {
    let failed = |source| CredentialError::Io { path: file.path.clone(), source };
    let opened = match std::fs::File::open(&file.path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !file.required => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut text = Vec::new();
    opened.take(MAX_AUTH_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_AUTH_FILE_BYTES {
        let reason = format!("larger than {MAX_AUTH_FILE_BYTES} bytes");
        return Err(CredentialError::Malformed { path: file.path.clone(), reason });
    }
    Ok(Some(text))
}

/// The file's own key that fits best: podman's most specific path first, then the host in the
/// forms that docker writes. With a `credsStore` alone, the host as docker would ask for it.
fn server_key(file: &Value, host: &RegistryHost, repository: &str) -> Option<String> {
    let keys: Vec<&str> = ["auths", "credHelpers"]
        .iter()
        .filter_map(|section| file.get(section)?.as_object())
        .flat_map(|section| section.keys().map(String::as_str))
        .collect();
    let mut scope = format!("{host}/{repository}");
    loop {
        let wanted = scope.as_str();
        if let Some(key) = keys.iter().find(|key| normal_key(key, wanted.contains('/')) == wanted) {
            return Some((*key).to_owned());
        }
        match scope.rfind('/') {
            Some(at) => scope.truncate(at),
            None => break,
        }
    }
    file.get("credsStore")?.as_str().filter(|name| !name.is_empty())?;
    Some(if host.is_default() { DOCKER_HUB_KEY.into() } else { host.to_string() })
}

/// `https://index.docker.io/v1/` is docker.io, `https://host/v2/` is the host: docker's legacy
/// forms. Paths mean something in podman's form only, without a scheme.
fn normal_key(key: &str, with_path: bool) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let name = match bare {
        Some(bare) => bare.split('/').next().unwrap_or_default(),
        None if with_path => key.trim_end_matches('/'),
        None => key,
    };
    match name {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        other => other.to_owned(),
    }
}

fn helper_name<'a>(file: &'a Value, server: &str) -> Option<&'a str> {
    let own = file.get("credHelpers").and_then(|helpers| helpers.get(server));
    own.or_else(|| file.get("credsStore"))?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    // base64 of `alice:secret` and `bob:hunter2`.
    const ALICE: &str = "YWxpY2U6c2VjcmV0";
    const BOB: &str = "Ym9iOmh1bnRlcjI=";

    fn find(text: &str, host: &str, repository: &str) -> Result<Option<String>, CredentialError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, text).unwrap();
        let file = AuthFile { path, required: true };
        let sources = CredentialSources { login: None, files: vec![file] };
        let found = sources.find(&host.parse().unwrap(), repository)?;
        Ok(found.map(|f| format!("{}:{}", f.login.user, f.login.password)))
    }

    #[test]
    fn docker_ios_login_is_found_under_its_old_name() {
        let text = format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{ALICE}"}}}}}}"#);
        let found = find(&text, "docker.io", "library/centos").unwrap();
        assert_eq!(found.as_deref(), Some("alice:secret"));
        assert_eq!(find(&text, "quay.io", "a").unwrap(), None);
    }

    #[test]
    fn the_most_specific_path_wins() {
        let text = format!(
            r#"{{"auths":{{"quay.io":{{"auth":"{ALICE}"}},"quay.io/team":{{"auth":"{BOB}"}}}}}}"#
        );
        let found = |repository| find(&text, "quay.io", repository).unwrap().unwrap();
        assert_eq!(found("team/app"), "bob:hunter2");
        assert_eq!(found("teamx/app"), "alice:secret");
        assert_eq!(find(&text, "evil.quay.io", "team/app").unwrap(), None);
    }

    #[test]
    fn broken_files_are_named_and_their_content_is_not() {
        let error = find(r#"{"auths":{"x":{"auth":"secret"#, "x", "a").unwrap_err().to_string();
        assert!(error.contains("auth.json") && !error.contains("secret"), "{error}");
        let text = r#"{"auths":{"x":{"auth":"!!!"}}}"#;
        assert!(matches!(find(text, "x", "a"), Err(CredentialError::Malformed { .. })));
        let text = r#"{"credHelpers":{"x":"there-is-no-such-helper"}}"#;
        assert!(
            matches!(find(text, "x", "a"), Err(CredentialError::Helper { helper, .. }) if helper == "there-is-no-such-helper")
        );
    }

    #[test]
    fn a_named_file_stands_alone_and_must_exist() {
        let set = |name: &str| match name {
            "HOME" => Some(PathBuf::from("/home/u")),
            "XDG_RUNTIME_DIR" => Some(PathBuf::from("/run/user/1")),
            _ => None,
        };
        let paths: Vec<PathBuf> = default_files(None, set).into_iter().map(|f| f.path).collect();
        assert_eq!(
            paths,
            [
                Path::new("/run/user/1/containers/auth.json"),
                Path::new("/home/u/.config/containers/auth.json"),
                Path::new("/home/u/.docker/config.json")
            ]
        );
        let named = default_files(Some(Path::new("/nonexistent/auth")), set);
        assert_eq!(named.len(), 1);
        let sources = CredentialSources { login: None, files: named };
        let found = sources.find(&"x.y".parse().unwrap(), "a");
        assert!(matches!(found, Err(CredentialError::Io { .. })));
    }

    #[test]
    fn a_login_does_not_print_its_password() {
        let login = Login { user: "u".into(), password: "hunter2".into() };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
