//! Logging in and out: a login is tried at the registry, then kept where docker and podman find it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};

use super::auth_file::AuthDocument;
use super::credentials::{AuthFile, CredentialError, CredentialSources, Login, ask, open};
use super::endpoint::Endpoint;
use super::hosts::{Host, scheme};
use super::retry::Attempts;
use super::{Registry, RegistryError, RegistryOptions};
use crate::event::Observer;
use crate::host::RegistryHost;

/// Credentials are for their owner's eyes.
const FILE_MODE: u32 = 0o600;
/// So is the directory that is made for them.
const DIRECTORY_MODE: u32 = 0o700;

/// What keeps a login now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// The file itself, not encrypted.
    File,
    /// `docker-credential-NAME`, which the file names.
    Helper(String),
}

/// Whether `registry` takes `login`: the API's root is asked with it. Tells whether the registry
/// wanted to know at all.
pub async fn check(
    registry: &RegistryHost,
    login: &Login,
    options: &RegistryOptions,
    observer: Arc<dyn Observer>,
) -> Result<bool, RegistryError> {
    let shared = Registry::shared(options, Arc::clone(&observer))?;
    let mut host = Host::plain(registry, "", scheme(registry, options.plain_http));
    host.tls.skip_verify = options.insecure;
    let sources = CredentialSources { login: Some(login.clone()), files: Vec::new() };
    let endpoint = Endpoint::new(host, Arc::new(sources), shared);
    let mut attempts = Attempts::new(options.retry);
    loop {
        match endpoint.ping().await {
            Ok(is_asked) => return Ok(is_asked),
            Err(error) => attempts.after(error, endpoint.has_answered(), &*observer).await?,
        }
    }
}

/// The file to keep a login for `registry` in: of the `files` that are read the first that knows
/// the registry already, so that what is kept is what is found; else the last, docker's.
pub fn file_for<'f>(
    files: &'f [AuthFile],
    registry: &RegistryHost,
) -> Result<Option<&'f Path>, CredentialError> {
    for file in files {
        if open(&file.path, false)?.is_some_and(|document| document.mentions(registry)) {
            return Ok(Some(&file.path));
        }
    }
    Ok(files.last().map(|file| file.path.as_path()))
}

/// Keeps `login` for `registry` in `file`, or with the credential helper that it names. What else
/// the file holds stays.
pub async fn store(
    file: &Path,
    registry: &RegistryHost,
    login: &Login,
) -> Result<Keeper, CredentialError> {
    let _lock = lock(file)?;
    let mut document = open(file, false)?.unwrap_or_default();
    let malformed = |reason| CredentialError::Malformed { path: file.to_path_buf(), reason };
    match document.helper(registry) {
        Some(call) => {
            ask(file, &call, async |helper, server| helper.store(server, login).await).await?;
            document.put(registry, None).map_err(malformed)?;
            write(file, &document)?;
            Ok(Keeper::Helper(call.name))
        }
        None => {
            document.put(registry, Some(login)).map_err(malformed)?;
            write(file, &document)?;
            Ok(Keeper::File)
        }
    }
}

/// Forgets what `file`, or the credential helper that it names, keeps for `registry`. Whether there
/// was something.
pub async fn forget(file: &Path, registry: &RegistryHost) -> Result<bool, CredentialError> {
    if open(file, false)?.is_none() {
        return Ok(false);
    }
    let _lock = lock(file)?;
    let mut document = open(file, false)?.unwrap_or_default();
    let kept = match document.helper(registry) {
        Some(call) => ask(file, &call, async |helper, server| helper.erase(server).await).await?,
        None => false,
    };
    let stood = document.remove(registry);
    if stood {
        write(file, &document)?;
    }
    Ok(kept || stood)
}

/// Puts the new content in the old one's place by rename: whoever reads sees all of one or the
/// other.
fn write(file: &Path, document: &AuthDocument) -> Result<(), CredentialError> {
    let failed = |source| CredentialError::Write { path: file.to_path_buf(), source };
    let (target, parent) = target(file);
    let temporary = Temporary(parent.join(format!(".ocipull-auth.{}", std::process::id())));
    // One with this name is what is left of a process of old that had the same id.
    let _ = std::fs::remove_file(&temporary.0);
    let opened = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&temporary.0);
    let mut opened = opened.map_err(failed)?;
    opened.write_all(&document.to_bytes()).and_then(|()| opened.sync_all()).map_err(failed)?;
    std::fs::rename(&temporary.0, &target).map_err(failed)
}

/// Holds others off who log in at the same time, until it is dropped: each puts its entry beside
/// what it read. Makes the directory where there is none.
fn lock(file: &Path) -> Result<Option<Flock<File>>, CredentialError> {
    let failed = |source| CredentialError::Write { path: file.to_path_buf(), source };
    let (_, parent) = target(file);
    let mut directory = DirBuilder::new();
    directory.recursive(true).mode(DIRECTORY_MODE).create(&parent).map_err(failed)?;
    let opened = File::open(&parent).map_err(failed)?;
    // Where the file system knows no locks, the last one wins.
    Ok(Flock::lock(opened, FlockArg::LockExclusive).ok())
}

/// The file that is written, and its directory. A link, as dotfiles are often kept, stays one.
fn target(file: &Path) -> (PathBuf, PathBuf) {
    let target = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).to_path_buf();
    (target, parent)
}

/// A file that is removed unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
