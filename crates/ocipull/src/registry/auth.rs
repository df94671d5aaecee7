//! From a 401 to an `Authorization` header: Basic, or a Bearer token from a realm
//! (distribution's "Token Authentication Specification").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use url::Url;

use super::challenge::Challenge;
use super::credentials::{Found, Login};
use super::error::{Problem, RegistryError, ServerWords};
use super::target::{authority, is_link_local, is_loopback, shown};
use super::transport::{Ask, Method, Transport};

/// Longest answer of a token service, in bytes. Tokens have one to a few kilobytes.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// Longest error body that is looked at, in bytes.
pub(crate) const MAX_ERROR_BYTES: u64 = 64 << 10;

/// A 401 to be answered.
pub(crate) struct Asked<'a> {
    /// The request that got it.
    pub(crate) ask: &'a Ask,
    /// The registry, as the user knows it.
    pub(crate) host: &'a str,
    /// What the registry offers.
    pub(crate) challenges: &'a [Challenge],
    /// What a token must be good for, if the challenge does not say.
    pub(crate) repository: &'a str,
    /// Who the user is to the registry.
    pub(crate) found: Option<&'a Found>,
}

/// The header that answers the challenge. A token service is preferred: it sees the password once.
pub(crate) async fn authorize(
    transport: &Transport,
    asked: &Asked<'_>,
) -> Result<HeaderValue, RegistryError> {
    let bearer = asked.challenges.iter().find_map(|challenge| match challenge {
        Challenge::Bearer { realm, service, scope } => Some((realm, service, scope)),
        Challenge::Basic => None,
    });
    if let Some((realm, service, scope)) = bearer {
        let default_scope = || format!("repository:{}:pull", asked.repository);
        let scope = scope.clone().unwrap_or_else(default_scope);
        return fetch_token(transport, asked, realm, service.as_deref(), &scope).await;
    }
    if !asked.challenges.contains(&Challenge::Basic) {
        return Err(refused(asked, Problem::NoChallenge));
    }
    match asked.found {
        Some(found) => basic(&found.login).ok_or_else(|| refused(asked, Problem::NoToken)),
        None => Err(RegistryError::LoginNeeded {
            method: asked.ask.method.as_str(),
            url: shown(&asked.ask.url, asked.ask.foreign),
            host: asked.host.to_owned(),
        }),
    }
}

async fn fetch_token(
    transport: &Transport,
    asked: &Asked<'_>,
    realm: &str,
    service: Option<&str>,
    scope: &str,
) -> Result<HeaderValue, RegistryError> {
    let mut url = check_realm(realm, &asked.ask.url, asked.found.is_some())
        .map_err(|problem| refused(asked, problem))?;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", scope);
        if let Some(found) = asked.found {
            query.append_pair("account", &found.login.user);
        }
    }
    let insecure = asked.ask.insecure && super::target::same_origin(&url, &asked.ask.url);
    let authorization = asked.found.and_then(|found| basic(&found.login));
    let ask = Ask {
        method: Method::Get,
        url,
        accept: None,
        range: None,
        authorization,
        insecure,
        foreign: false,
    };
    // No redirects: the realm is the one that the registry named.
    let mut answer = transport.exchange(&ask).await?;
    if answer.status() != 200 {
        let body = answer.collect("an error", MAX_ERROR_BYTES).await.unwrap_or_default();
        let words = ServerWords::parse(&body);
        let (method, url, status) = (answer.method(), answer.url().to_owned(), answer.status());
        return Err(match status {
            401 | 403 => {
                RegistryError::Denied { method, url, who: who(asked.found), status, words }
            }
            _ => RegistryError::unexpected(&answer, words),
        });
    }
    let body = answer.collect("a token", MAX_TOKEN_BYTES).await?;
    token_header(&body).ok_or_else(|| answer.refused(Problem::NoToken))
}

/// A realm that credentials may go to: https, or on this machine for a registry on this machine.
/// Without credentials a registry that was asked without TLS may name one without TLS.
fn check_realm(realm: &str, registry: &Url, with_credentials: bool) -> Result<Url, Problem> {
    let mut url = Url::parse(realm).map_err(|_| Problem::Url)?;
    let _ = url.set_username("");
    let _ = url.set_password(None);
    if is_link_local(&url) {
        return Err(Problem::LinkLocal(authority(&url)));
    }
    let fits = match url.scheme() {
        "https" => true,
        "http" if is_loopback(registry) => is_loopback(&url) || !with_credentials,
        "http" => registry.scheme() == "http" && !with_credentials && !is_loopback(&url),
        _ => false,
    };
    if fits { Ok(url) } else { Err(Problem::Realm(shown(&url, true))) }
}

fn token_header(body: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Token = serde_json::from_slice(body).ok()?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
    secret_header(&format!("Bearer {token}"))
}

fn basic(login: &Login) -> Option<HeaderValue> {
    let pair = STANDARD.encode(format!("{}:{}", login.user, login.password));
    secret_header(&format!("Basic {pair}"))
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Who asked, for messages.
pub(crate) fn who(found: Option<&Found>) -> String {
    match found {
        Some(found) => format!("user {:?} (from {})", found.login.user, found.origin),
        None => "an anonymous user".into(),
    }
}

fn refused(asked: &Asked<'_>, problem: Problem) -> RegistryError {
    RegistryError::Refused {
        method: asked.ask.method.as_str(),
        url: shown(&asked.ask.url, asked.ask.foreign),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_https_realms_only() {
        let check = |realm: &str, registry: &str, with_credentials| {
            check_realm(realm, &Url::parse(registry).unwrap(), with_credentials).is_ok()
        };
        assert!(check("https://auth.docker.io/token", "https://registry-1.docker.io/", true));
        assert!(!check("http://auth.example/token", "https://r.example/", true));
        assert!(!check("http://auth.example/token", "https://r.example/", false));
        assert!(check("http://auth.example/token", "http://r.example/", false));
        assert!(!check("http://auth.example/token", "http://r.example/", true));
        assert!(check("http://127.0.0.1:5001/token", "http://localhost:5000/", true));
        assert!(!check("http://127.0.0.1:5001/token", "http://r.example/", false));
        assert!(!check("http://127.0.0.1:5001/token", "https://r.example/", true));
        assert!(!check("http://169.254.169.254/token", "http://localhost:5000/", false));
        assert!(!check("https://[fe80::1]/token", "https://r.example/", false));
        assert!(!check("file:///etc/passwd", "http://localhost/", false));
        assert!(!check("/token", "http://localhost/", false));
    }

    #[test]
    fn a_token_has_one_of_two_names() {
        for body in [r#"{"token":"abc"}"#, r#"{"access_token":"abc","expires_in":60}"#] {
            let header = token_header(body.as_bytes()).unwrap();
            assert_eq!(header, "Bearer abc");
            assert!(header.is_sensitive());
        }
        for body in ["", "{}", r#"{"token":""}"#, "{\"token\":\"a\\nb\"}", "[]"] {
            assert!(token_header(body.as_bytes()).is_none(), "{body}");
        }
    }
}
