//! Who may do what: Basic, and the distribution specification's Bearer tokens.

use super::answer::Answer;
use super::log::{Request, parse_query};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What a registry demands.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// `Authorization: Basic` with this user and password.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token from the registry's `/token` endpoint.
    Bearer(Bearer),
}

impl Auth {
    /// [`Auth::Basic`].
    pub fn basic(user: &str, password: &str) -> Self {
        Self::Basic { user: user.into(), password: password.into() }
    }

    /// Bearer tokens for everybody.
    pub fn bearer_anonymous() -> Self {
        Self::Bearer(Bearer::default())
    }

    /// Bearer tokens for this user only.
    pub fn bearer_user(user: &str, password: &str) -> Self {
        let user = Some((user.into(), password.into()));
        Self::Bearer(Bearer { user, ..Bearer::default() })
    }
}

/// How tokens are given out.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// The user and password that `/token` wants; `None`: everybody gets one.
    pub user: Option<(String, String)>,
    /// An identity (refresh) token that `POST /token` takes as well.
    pub identity_token: Option<String>,
    /// How long a token is good for.
    pub life: Duration,
    /// The realm in the challenge; `None`: this registry's `/token`.
    pub realm: Option<String>,
    /// The `service` in the challenge.
    pub service: String,
    /// The answer calls the token `access_token` only, as OAuth has it, not also `token`.
    pub oauth_name_only: bool,
}

impl Default for Bearer {
    fn default() -> Self {
        Self {
            user: None,
            identity_token: None,
            life: Duration::from_secs(300),
            realm: None,
            service: "testkit-registry".into(),
            oauth_name_only: false,
        }
    }
}

/// What `/token` was asked.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    /// `GET`, or `POST` for the OAuth form.
    pub method: String,
    /// The `service` parameter.
    pub service: Option<String>,
    /// Every `scope`, in order.
    pub scopes: Vec<String>,
    /// The user who asked; `None` for anonymous ones.
    pub user: Option<String>,
    /// `grant_type` of the OAuth form.
    pub grant_type: Option<String>,
    /// Whether a token was given.
    pub granted: bool,
}

/// The tokens that were given out.
#[derive(Default)]
pub(crate) struct Tokens {
    given: HashMap<String, (Instant, Vec<String>)>,
    pub(crate) asked: Vec<TokenRequest>,
}

impl Tokens {
    /// No token given so far is good any more.
    pub(crate) fn revoke(&mut self) {
        self.given.clear();
    }

    /// `None` when the request may go on, else the 401. `action` is `pull` or `pull,push`.
    pub(crate) fn check(
        &self,
        auth: &Auth,
        request: &Request,
        base: &str,
        name: &str,
        action: &str,
    ) -> Option<Answer> {
        match auth {
            Auth::None => None,
            Auth::Basic { user, password } => {
                let right = basic(request) == Some((user.clone(), password.clone()));
                (!right).then(|| refuse("Basic realm=\"testkit\""))
            }
            Auth::Bearer(bearer) => self.check_bearer(bearer, request, base, name, action),
        }
    }

    fn check_bearer(
        &self,
        bearer: &Bearer,
        request: &Request,
        base: &str,
        name: &str,
        action: &str,
    ) -> Option<Answer> {
        let realm = bearer.realm.clone().unwrap_or_else(|| format!("{base}/token"));
        let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{}\"", bearer.service);
        let scope = format!("repository:{name}:{action}");
        if !name.is_empty() {
            challenge += &format!(",scope=\"{scope}\"");
        }
        let Some(token) = request.authorization().and_then(|a| a.strip_prefix("Bearer ")) else {
            return Some(refuse(&challenge));
        };
        match self.given.get(token) {
            Some((until, scopes)) if Instant::now() < *until => {
                let enough = name.is_empty() || scopes.iter().any(|s| covers(s, name, action));
                (!enough).then(|| refuse(&format!("{challenge},error=\"insufficient_scope\"")))
            }
            _ => Some(refuse(&format!("{challenge},error=\"invalid_token\""))),
        }
    }

    /// Answers a request to `/token`.
    pub(crate) fn give(&mut self, auth: &Auth, request: &Request, body: &[u8]) -> Answer {
        let Auth::Bearer(bearer) = auth else {
            return Answer::error(404, "UNSUPPORTED", "this registry gives no tokens");
        };
        let form = match request.method.as_str() {
            "POST" => String::from_utf8_lossy(body).into_owned(),
            _ => request.query.clone(),
        };
        let pairs = parse_query(&form);
        let value = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let form_user = value("username").zip(value("password"));
        let who = basic(request).or(form_user);
        // The OAuth form joins scopes with spaces, the query repeats the parameter.
        let scopes: Vec<String> = pairs
            .iter()
            .filter(|(k, _)| k == "scope")
            .flat_map(|(_, v)| v.split(' ').map(str::to_owned))
            .filter(|s| !s.is_empty())
            .collect();
        let refresh = value("refresh_token");
        let granted = match (&bearer.user, &refresh) {
            (_, Some(token)) => bearer.identity_token.as_ref() == Some(token),
            // Wrong credentials are refused even where none are needed, as Docker Hub does.
            (None, None) => who.is_none(),
            (Some(user), None) => who.as_ref() == Some(user),
        };
        self.asked.push(TokenRequest {
            method: request.method.clone(),
            service: value("service"),
            scopes: scopes.clone(),
            user: who.map(|(user, _)| user),
            grant_type: value("grant_type"),
            granted,
        });
        if !granted {
            return Answer::error(401, "UNAUTHORIZED", "incorrect username or password");
        }
        let token = format!("testkit-token-{}", self.asked.len());
        self.given.insert(token.clone(), (Instant::now() + bearer.life, scopes));
        let mut answer =
            serde_json::json!({ "access_token": token, "expires_in": bearer.life.as_secs() });
        if !bearer.oauth_name_only {
            answer["token"] = token.into();
        }
        Answer::new(200, "application/json", answer.to_string())
    }
}

/// Whether a granted scope, `repository:NAME:ACTIONS`, lets `action` be done on `name`.
fn covers(scope: &str, name: &str, action: &str) -> bool {
    let Some((resource, actions)) = scope.rsplit_once(':') else { return false };
    let granted: Vec<&str> = actions.split(',').collect();
    resource == format!("repository:{name}")
        && action.split(',').all(|a| granted.contains(&a) || granted.contains(&"*"))
}

fn refuse(challenge: &str) -> Answer {
    Answer::error(401, "UNAUTHORIZED", "authentication required")
        .with("WWW-Authenticate", challenge)
}

/// User and password of `Authorization: Basic`.
fn basic(request: &Request) -> Option<(String, String)> {
    let encoded = request.authorization()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
