//! `docker-credential-NAME`: programs that keep credentials (the protocol of
//! github.com/docker/docker-credential-helpers).

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::credentials::{Login, Secret};

/// Longest answer of a helper, in bytes: cloud tokens have a few kilobytes.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// How long a helper may take: some ask a cloud, some ask the user for a passphrase.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Longest message of a helper that is shown, in characters.
const MAX_SHOWN_CHARS: usize = 200;
/// The helpers' word for "none" (credentials/error.go there).
const NOT_FOUND: &str = "credentials not found";
/// The user's name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// A credential helper.
#[derive(Debug, Clone)]
pub(crate) struct Helper {
    program: OsString,
    limit: Duration,
}

/// Why a helper gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// A name that is no part of a program's.
    #[error("its name is not one")]
    Name,
    /// It could not be started, or talked to.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took too long, and was killed.
    #[error("it did not end within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It said more than a credential has.
    #[error("its answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    /// It ended with a failure; the text is its own.
    #[error("it says: {0}")]
    Failed(String),
    /// Its answer is not of the protocol. The answer is a secret and not shown.
    #[error("its answer makes no sense")]
    Malformed,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials {
    #[serde(rename = "ServerURL", default)]
    server: String,
    username: String,
    secret: String,
}

impl Helper {
    /// `docker-credential-NAME`, which is looked for in PATH.
    pub(crate) fn new(name: &str) -> Result<Self, HelperError> {
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(HelperError::Name);
        }
        Ok(Self { program: format!("docker-credential-{name}").into(), limit: TIME_LIMIT })
    }

    /// What it keeps for `server`.
    pub(crate) async fn get(&self, server: &str) -> Result<Option<Login>, HelperError> {
        let answer = match self.run("get", server.as_bytes()).await {
            Err(HelperError::Failed(text)) if text.contains(NOT_FOUND) => return Ok(None),
            other => other?,
        };
        let Credentials { username, secret, .. } =
            serde_json::from_slice(&answer).map_err(|_| HelperError::Malformed)?;
        Ok(Some(match username.as_str() {
            TOKEN_USER => Login { user: String::new(), secret: Secret::IdentityToken(secret) },
            _ => Login { user: username, secret: Secret::Password(secret) },
        }))
    }

    /// Has it keep `login` for `server`.
    pub(crate) async fn store(&self, server: &str, login: &Login) -> Result<(), HelperError> {
        let (username, secret) = match &login.secret {
            Secret::Password(password) => (login.user.clone(), password.clone()),
            Secret::IdentityToken(token) => (TOKEN_USER.to_owned(), token.clone()),
        };
        let credentials = Credentials { server: server.to_owned(), username, secret };
        let text = serde_json::to_vec(&credentials).map_err(io::Error::from)?;
        self.run("store", &text).await.map(drop)
    }

    /// Has it forget what it keeps for `server`. Whether there was something.
    pub(crate) async fn erase(&self, server: &str) -> Result<bool, HelperError> {
        match self.run("erase", server.as_bytes()).await {
            Err(HelperError::Failed(text)) if text.contains(NOT_FOUND) => Ok(false),
            other => other.map(|_| true),
        }
    }

    async fn run(&self, action: &str, input: &[u8]) -> Result<Vec<u8>, HelperError> {
        // Its own environment: helpers find the cloud's account, the keyring and the home there.
        let mut child = Command::new(&self.program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let talk = async {
            if let Some(mut stdin) = stdin {
                // One that ends without reading says why by its code.
                let _ = stdin.write_all(input).await;
            }
            let mut answer = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_ANSWER_BYTES + 1).read_to_end(&mut answer).await?;
            }
            if answer.len() as u64 > MAX_ANSWER_BYTES {
                return Err(HelperError::TooLong);
            }
            Ok((child.wait().await?, answer))
        };
        // The child is killed where it is dropped before its end.
        let talked = tokio::time::timeout(self.limit, talk).await;
        let (status, answer) = talked.map_err(|_| HelperError::TimedOut(self.limit))??;
        if status.success() { Ok(answer) } else { Err(HelperError::Failed(words(&answer))) }
    }
}

/// A failed helper's message: its first line, unless it looks like a credential.
fn words(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let line = text.lines().next().unwrap_or_default().trim();
    match line.is_empty() || line.contains('{') {
        true => "nothing".into(),
        false => line.chars().take(MAX_SHOWN_CHARS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn run(script: &str, limit: Duration) -> Result<Option<Login>, HelperError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let helper = Helper { program: path.into(), limit };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(helper.get("r.example"))
    }

    #[test]
    fn passwords_and_identity_tokens() {
        let script = |user: &str| {
            format!(
                r#"read s; echo "{{\"ServerURL\":\"$s\",\"Username\":\"{user}\",\"Secret\":\"x\"}}""#
            )
        };
        let found = run(&script("alice"), TIME_LIMIT).unwrap().unwrap();
        assert_eq!((found.user.as_str(), found.secret), ("alice", Secret::Password("x".into())));
        let found = run(&script("<token>"), TIME_LIMIT).unwrap().unwrap();
        assert_eq!(found.secret, Secret::IdentityToken("x".into()));
        let none = "echo 'credentials not found in native keychain'; exit 1";
        assert!(run(none, TIME_LIMIT).unwrap().is_none());
    }

    #[test]
    fn bad_helpers_are_bounded() {
        let failed = run("echo locked; exit 1", TIME_LIMIT).unwrap_err();
        assert_eq!(failed.to_string(), "it says: locked");
        let rubbish = run("echo s3cret", TIME_LIMIT).unwrap_err();
        assert!(matches!(rubbish, HelperError::Malformed), "{rubbish}");
        let endless = run("exec cat /dev/zero", TIME_LIMIT).unwrap_err();
        assert!(matches!(endless, HelperError::TooLong), "{endless}");
        let stuck = run("exec sleep 1000", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(stuck, HelperError::TimedOut(_)), "{stuck}");
    }

    #[test]
    fn names_lead_nowhere_else() {
        for name in ["", "../x", "/bin/sh"] {
            assert!(matches!(Helper::new(name), Err(HelperError::Name)), "{name}");
        }
        let helper = Helper::new("there-is-no-such-helper").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(matches!(runtime.block_on(helper.get("x")), Err(HelperError::Io(_))));
    }

    #[test]
    fn messages_are_short_and_no_credentials() {
        assert_eq!(words(b"no such keyring\nsecond line"), "no such keyring");
        assert_eq!(words(br#"{"Username":"u","Secret":"s3cret"}"#), "nothing");
        assert_eq!(words(&b"x".repeat(9999)).len(), MAX_SHOWN_CHARS);
    }
}
