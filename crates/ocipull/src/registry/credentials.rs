//! Who the user is to a registry: `--creds`, and the files of podman and docker.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::auth_file::{AuthDocument, HelperCall};
use super::helper::{Helper, HelperError};
use crate::host::RegistryHost;

/// Longest credential file, in bytes: a few hundred a registry.
const MAX_AUTH_FILE_BYTES: u64 = 1 << 20;

/// Who somebody is. Never printed: `Debug` hides the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name; of an identity token it may be empty.
    pub user: String,
    /// What proves it.
    pub secret: Secret,
}

/// What proves who somebody is.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A password, or a token in its place.
    Password(String),
    /// What a token service gave at login, good for tokens only (distribution's "OAuth2 Token
    /// Authentication", `refresh_token`).
    IdentityToken(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::IdentityToken(_) => "IdentityToken",
        })
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
    /// The file could not be written.
    #[error("cannot write credentials to {path:?}")]
    Write {
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
        /// Why.
        #[source]
        source: HelperError,
    },
}

impl CredentialError {
    /// The remedy, in one line.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Helper { helper, .. } => {
                format!("check that docker-credential-{helper} is in PATH and works")
            }
            Self::Write { .. } => "name a file that you may write with --authfile".into(),
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
    let (user, _) = ctsys::userns::effective_ids();
    let runtime = match variable("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("containers/auth.json"),
        None => format!("/run/containers/{user}/auth.json").into(),
    };
    [
        Some(runtime),
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

    /// The login for `repository` at `host`. Reads files, and may run a helper.
    pub(crate) async fn find(
        &self,
        host: &RegistryHost,
        repository: &str,
    ) -> Result<Option<Found>, CredentialError> {
        if let Some(login) = &self.login {
            return Ok(Some(Found { login: login.clone(), origin: "--creds".into() }));
        }
        for file in &self.files {
            if let Some(found) = find_in_file(file, host, repository).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// A helper comes first, as docker has it: what stands in the file beside it is older.
async fn find_in_file(
    file: &AuthFile,
    host: &RegistryHost,
    repository: &str,
) -> Result<Option<Found>, CredentialError> {
    let Some(document) = open(&file.path, file.required)? else { return Ok(None) };
    if let Some(call) = document.helper(host) {
        let login = ask(&file.path, &call, async |helper, server| helper.get(server).await).await?;
        if let Some(login) = login {
            let origin = format!("docker-credential-{}, {}", call.name, file.path.display());
            return Ok(Some(Found { login, origin }));
        }
    }
    let login = document.login(host, repository).map_err(|key| malformed(&file.path, &key))?;
    Ok(login.map(|login| Found { login, origin: file.path.display().to_string() }))
}

/// Has the helper that `path` names do something; it is told the server.
pub(crate) async fn ask<T>(
    path: &Path,
    call: &HelperCall,
    action: impl AsyncFnOnce(Helper, &str) -> Result<T, HelperError>,
) -> Result<T, CredentialError> {
    let done = match Helper::new(&call.name) {
        Ok(helper) => action(helper, &call.server).await,
        Err(error) => Err(error),
    };
    done.map_err(|source| CredentialError::Helper {
        path: path.to_path_buf(),
        helper: call.name.clone(),
        source,
    })
}

/// The file's content; `None` if it does not exist and need not.
pub(crate) fn open(path: &Path, required: bool) -> Result<Option<AuthDocument>, CredentialError> {
    let Some(bytes) = read(path, required)? else { return Ok(None) };
    let document = AuthDocument::parse(&bytes);
    document.map(Some).map_err(|reason| CredentialError::Malformed { path: path.into(), reason })
}

fn malformed(path: &Path, key: &str) -> CredentialError {
    let reason = format!("the entry {key:?} of \"auths\" makes no sense");
    CredentialError::Malformed { path: path.to_path_buf(), reason }
}

fn read(path: &Path, required: bool) -> Result<Option<Vec<u8>>, CredentialError> {
    let failed = |source| CredentialError::Io { path: path.to_path_buf(), source };
    let opened = match std::fs::File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut text = Vec::new();
    opened.take(MAX_AUTH_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_AUTH_FILE_BYTES {
        let reason = format!("larger than {MAX_AUTH_FILE_BYTES} bytes");
        return Err(CredentialError::Malformed { path: path.to_path_buf(), reason });
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(sources: &CredentialSources, host: &str) -> Result<Option<Found>, CredentialError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sources.find(&host.parse().unwrap(), "a"))
    }

    #[test]
    fn broken_files_are_named_and_their_content_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        let files = vec![AuthFile { path: path.clone(), required: true }];
        let sources = CredentialSources { login: None, files };
        for text in [r#"{"auths":{"x":{"auth":"secret"#, r#"{"auths":{"x":{"auth":"secret!!!"}}}"#]
        {
            std::fs::write(&path, text).unwrap();
            let error = find(&sources, "x").unwrap_err().to_string();
            assert!(error.contains("auth.json") && !error.contains("secret"), "{error}");
        }
        std::fs::write(&path, r#"{"credHelpers":{"x":"there-is-no-such-helper"}}"#).unwrap();
        let error = find(&sources, "x").unwrap_err();
        assert!(
            matches!(&error, CredentialError::Helper { helper, .. } if helper == "there-is-no-such-helper"),
            "{error}"
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
        let without_session = default_files(None, |_| None);
        let (user, _) = ctsys::userns::effective_ids();
        let path = PathBuf::from(format!("/run/containers/{user}/auth.json"));
        assert_eq!(without_session, [AuthFile { path, required: false }]);
        let named = default_files(Some(Path::new("/nonexistent/auth")), set);
        assert_eq!(named.len(), 1);
        let sources = CredentialSources { login: None, files: named };
        assert!(matches!(find(&sources, "x.y"), Err(CredentialError::Io { .. })));
    }

    #[test]
    fn a_login_does_not_print_its_secret() {
        let login = |secret| Login { user: "u".into(), secret };
        for secret in [Secret::Password("hunter2".into()), Secret::IdentityToken("hunter2".into())]
        {
            assert!(!format!("{:?} {secret:?}", login(secret.clone())).contains("hunter2"));
        }
    }
}
