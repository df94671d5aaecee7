//! Credential files in docker's form, which podman's auth.json shares: what they hold for a
//! registry, and how an entry is put in or taken out (containers-auth.json(5)). Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::credentials::{Login, Secret};
use crate::host::RegistryHost;

/// The name under which docker keeps docker.io's login.
pub(crate) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A credential file's content.
#[derive(Debug, Default)]
pub(crate) struct AuthDocument {
    root: Map<String, Value>,
}

/// Who is to be asked about a registry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HelperCall {
    /// `docker-credential-NAME`.
    pub(crate) name: String,
    /// What the helper knows the registry as.
    pub(crate) server: String,
}

impl AuthDocument {
    /// From a file's bytes. An empty file holds nothing, as podman has it. On failure what is wrong,
    /// without the content.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        // serde's message may quote the content; its place does not.
        let root = serde_json::from_slice(bytes).map_err(|e| {
            format!("no JSON object in docker's form at line {} column {}", e.line(), e.column())
        })?;
        Ok(Self { root })
    }

    /// The file's bytes, laid out as docker does.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        // Strings as keys, into memory: there is nothing that can fail.
        let _ = serde::Serialize::serialize(&self.root, &mut serializer);
        bytes.push(b'\n');
        bytes
    }

    /// The helper that keeps the login for `host`, if one is configured: its own, else the one for
    /// all.
    pub(crate) fn helper(&self, host: &RegistryHost) -> Option<HelperCall> {
        let own = self.section("credHelpers").and_then(|helpers| {
            helpers.iter().find(|(key, _)| normal_key(key, false) == host.as_str())
        });
        let name = |value: &Value| value.as_str().filter(|n| !n.is_empty()).map(str::to_owned);
        if let Some((key, value)) = own {
            return Some(HelperCall { name: name(value)?, server: key.clone() });
        }
        let server = if host.is_default() { DOCKER_HUB_KEY } else { host.as_str() };
        Some(HelperCall { name: name(self.root.get("credsStore")?)?, server: server.to_owned() })
    }

    /// The login for `repository` at `host` that stands in the file itself: the most specific path
    /// first, then the host in the forms that docker writes. On failure the key of an entry that
    /// makes no sense.
    pub(crate) fn login(
        &self,
        host: &RegistryHost,
        repository: &str,
    ) -> Result<Option<Login>, String> {
        let Some(auths) = self.section("auths") else { return Ok(None) };
        let mut scope = match repository {
            "" => host.to_string(),
            repository => format!("{host}/{repository}"),
        };
        loop {
            let with_path = scope.contains('/');
            let keys = auths.iter().filter(|(key, _)| normal_key(key, with_path) == scope);
            for (key, entry) in keys {
                // Of a login that a helper keeps, docker leaves an empty entry here.
                if let Some(login) = entry_login(entry).ok_or_else(|| key.clone())? {
                    return Ok(Some(login));
                }
            }
            match scope.rfind('/') {
                Some(at) => scope.truncate(at),
                None => return Ok(None),
            }
        }
    }

    /// Puts the login for `host` in, in the place of an older one. Without one only the entry by
    /// which docker remembers that a helper keeps it.
    pub(crate) fn put(&mut self, host: &RegistryHost, login: Option<&Login>) -> Result<(), String> {
        self.remove(host);
        let entry = match login.map(|login| (&login.user, &login.secret)) {
            None => json!({}),
            Some((user, Secret::Password(password))) => {
                json!({ "auth": STANDARD.encode(format!("{user}:{password}")) })
            }
            Some((user, Secret::IdentityToken(token))) => {
                json!({ "auth": STANDARD.encode(format!("{user}:")), "identitytoken": token })
            }
        };
        let key = if host.is_default() { DOCKER_HUB_KEY } else { host.as_str() };
        let auths = self.root.entry("auths").or_insert_with(|| json!({}));
        let auths = auths.as_object_mut().ok_or_else(|| "\"auths\" is no object".to_owned())?;
        auths.insert(key.to_owned(), entry);
        Ok(())
    }

    /// Takes the entries for the whole of `host` out. Whether there was one.
    pub(crate) fn remove(&mut self, host: &RegistryHost) -> bool {
        let Some(auths) = self.root.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|key, _| normal_key(key, false) != host.as_str());
        auths.len() != before
    }

    /// Whether it says anything about `host`.
    pub(crate) fn mentions(&self, host: &RegistryHost) -> bool {
        ["auths", "credHelpers"]
            .iter()
            .filter_map(|name| self.section(name))
            .any(|section| section.keys().any(|key| normal_key(key, false) == host.as_str()))
    }

    fn section(&self, name: &str) -> Option<&Map<String, Value>> {
        self.root.get(name)?.as_object()
    }
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

/// The login of an `auths` entry, `Some(None)` if it holds none, `None` if it makes no sense.
fn entry_login(entry: &Value) -> Option<Option<Login>> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let pair = match text("auth") {
        Some(encoded) => {
            let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
            let (user, password) = pair.split_once(':')?;
            // docker pads some with zeros.
            Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
        }
        None => text("username")
            .map(|user| (user.to_owned(), text("password").unwrap_or_default().to_owned())),
    };
    if let Some(token) = text("identitytoken") {
        let user = pair.map(|(user, _)| user).unwrap_or_default();
        return Some(Some(Login { user, secret: Secret::IdentityToken(token.to_owned()) }));
    }
    Some(pair.map(|(user, password)| Login { user, secret: Secret::Password(password) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // base64 of `alice:secret` and `bob:hunter2`.
    const ALICE: &str = "YWxpY2U6c2VjcmV0";
    const BOB: &str = "Ym9iOmh1bnRlcjI=";

    fn document(text: &str) -> AuthDocument {
        AuthDocument::parse(text.as_bytes()).unwrap()
    }

    fn find(text: &str, host: &str, repository: &str) -> Option<String> {
        let login = document(text).login(&host.parse().unwrap(), repository).unwrap()?;
        Some(match login.secret {
            Secret::Password(password) => format!("{}:{password}", login.user),
            Secret::IdentityToken(token) => format!("{}, token {token}", login.user),
        })
    }

    #[test]
    fn docker_ios_login_is_found_under_its_old_name() {
        let text = format!(r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{ALICE}"}}}}}}"#);
        assert_eq!(find(&text, "docker.io", "library/centos").as_deref(), Some("alice:secret"));
        assert_eq!(find(&text, "quay.io", "a"), None);
    }

    #[test]
    fn the_most_specific_path_wins() {
        let text = format!(
            r#"{{"auths":{{"quay.io":{{"auth":"{ALICE}"}},"quay.io/team":{{"auth":"{BOB}"}}}}}}"#
        );
        assert_eq!(find(&text, "quay.io", "team/app").unwrap(), "bob:hunter2");
        assert_eq!(find(&text, "quay.io", "teamx/app").unwrap(), "alice:secret");
        assert_eq!(find(&text, "evil.quay.io", "team/app"), None);
    }

    #[test]
    fn identity_tokens_and_plain_members() {
        let text = r#"{"auths":{"a.b":{"auth":"MDA6","identitytoken":"t"},
                       "c.d":{"username":"u","password":"p"},"e.f":{}}}"#;
        assert_eq!(find(text, "a.b", "x").unwrap(), "00, token t");
        assert_eq!(find(text, "c.d", "x").unwrap(), "u:p");
        assert_eq!(find(text, "e.f", "x"), None);
    }

    #[test]
    fn helpers_know_docker_io_by_its_old_name() {
        let text = r#"{"credsStore":"all","credHelpers":{"gcr.io":"gcloud"},"auths":{}}"#;
        let helper = |host: &str| {
            let call = document(text).helper(&host.parse().unwrap()).unwrap();
            (call.name, call.server)
        };
        assert_eq!(helper("gcr.io"), ("gcloud".into(), "gcr.io".into()));
        assert_eq!(helper("quay.io"), ("all".into(), "quay.io".into()));
        assert_eq!(helper("docker.io"), ("all".into(), DOCKER_HUB_KEY.into()));
        assert_eq!(document("{}").helper(&"x.y".parse().unwrap()), None);
    }

    #[test]
    fn what_is_broken_is_named_and_not_shown() {
        let error = AuthDocument::parse(br#"{"auths":{"x":{"auth":"secret"#).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        assert!(AuthDocument::parse(b"[]").is_err());
        let text = r#"{"auths":{"x":{"auth":"!!!"}}}"#;
        assert_eq!(document(text).login(&"x".parse().unwrap(), "a"), Err("x".into()));
        assert!(AuthDocument::parse(b" \n").is_ok());
    }

    #[test]
    fn the_rest_of_the_file_stays() {
        let text = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{BOB}"}},"docker.io/me":{{"auth":"{BOB}"}}}},
               "proxies":{{"default":{{"httpProxy":"p"}}}},"detachKeys":"ctrl-e"}}"#
        );
        let mut file = document(&text);
        let hub: RegistryHost = "docker.io".parse().unwrap();
        let login = Login { user: "alice".into(), secret: Secret::Password("secret".into()) };
        file.put(&hub, Some(&login)).unwrap();
        let written: Value = serde_json::from_slice(&file.to_bytes()).unwrap();
        let want = json!({
            "auths": {DOCKER_HUB_KEY: {"auth": ALICE}, "docker.io/me": {"auth": BOB}},
            "proxies": {"default": {"httpProxy": "p"}},
            "detachKeys": "ctrl-e",
        });
        assert_eq!(written, want);
        assert!(file.mentions(&hub) && file.remove(&hub) && !file.remove(&hub));
        assert!(document(r#"{"auths":[]}"#).put(&hub, None).is_err());
    }
}
