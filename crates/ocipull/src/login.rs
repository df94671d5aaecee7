//! `ocipull login` and `ocipull logout`: what was typed, what it means, and doing it.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ctsys::report::Explain;
use ocipull::host::{DEFAULT_REGISTRY, RegistryHost};
use ocipull::registry::login::{self, Keeper};
use ocipull::registry::{AuthFile, CredentialError, Login, RegistryError, RegistryOptions, Secret};

use crate::access::{TypedAccess, auth_files};
use crate::cli::CliError;
use crate::output::{Output, TypedTrace};
use crate::password;
use crate::progress::Display;

/// Of `login`.
#[derive(Debug, Args)]
pub(crate) struct TypedLogin {
    /// HOST[:PORT] of the registry
    #[arg(value_name = "REGISTRY", default_value = DEFAULT_REGISTRY)]
    registry: String,
    /// Who to log in as [default: asked for]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Take the password from standard input instead of asking for it
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    access: TypedAccess,
    #[command(flatten)]
    trace: TypedTrace,
}

/// Of `logout`.
#[derive(Debug, Args)]
pub(crate) struct TypedLogout {
    /// HOST[:PORT] of the registry
    #[arg(value_name = "REGISTRY", default_value = DEFAULT_REGISTRY)]
    registry: String,
    /// Credentials in docker's or podman's form [default: their own files]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

/// Who is to be logged in where.
#[derive(Debug)]
pub(crate) struct LoginTask {
    registry: RegistryHost,
    login: Login,
    options: RegistryOptions,
    output: Output,
}

/// What is to be forgotten.
#[derive(Debug)]
pub(crate) struct LogoutTask {
    registry: RegistryHost,
    files: Vec<AuthFile>,
}

/// Why a login was not had, or not forgotten.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("cannot log in to {registry}")]
    Refused {
        registry: RegistryHost,
        #[source]
        source: Box<RegistryError>,
    },
    #[error("cannot keep the login")]
    Keep(#[source] CredentialError),
    #[error("cannot forget the login")]
    Forget(#[source] CredentialError),
    #[error("not logged in to {registry}: nothing in {looked}")]
    NotLoggedIn { registry: RegistryHost, looked: String },
    #[error("cannot keep the login: neither HOME nor DOCKER_CONFIG is set")]
    NoFile,
}

impl Explain for LoginError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused { source, .. } => match source.as_ref() {
                RegistryError::Denied { .. } => {
                    "check the user's name and password; some registries want a token made for this"
                        .into()
                }
                other => return other.hint(),
            },
            Self::Keep(_) | Self::Forget(_) => {
                "check the file, or name another with --authfile".into()
            }
            Self::NotLoggedIn { .. } => "name another file with --authfile".into(),
            Self::NoFile => "name a file with --authfile".into(),
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { source, .. } => source.exit_code(),
            _ => 1,
        }
    }
}

impl TypedLogin {
    /// What it means. Asks for what is missing.
    pub(crate) fn meaning(self) -> Result<LoginTask, CliError> {
        let registry = self.registry.parse().map_err(CliError::Registry)?;
        let options = self.access.meaning()?;
        let user = match self.username {
            Some(user) => user,
            None => password::ask_user().map_err(CliError::Password)?.ok_or(CliError::User)?,
        };
        // Basic has no way to say a colon.
        if user.is_empty() || user.contains(':') {
            return Err(CliError::User);
        }
        let read = if self.password_stdin { password::line() } else { password::read(&user) };
        let secret = Secret::Password(read.map_err(CliError::Password)?);
        let output = self.trace.meaning();
        Ok(LoginTask { registry, login: Login { user, secret }, options, output })
    }
}

impl TypedLogout {
    pub(crate) fn meaning(self) -> Result<LogoutTask, CliError> {
        let registry = self.registry.parse().map_err(CliError::Registry)?;
        Ok(LogoutTask { registry, files: auth_files(self.authfile) })
    }
}

impl LoginTask {
    pub(crate) async fn run(&self) -> Result<(), LoginError> {
        let Self { registry, login, options, output } = self;
        let display = Arc::new(Display::new(*output));
        let observer = Arc::clone(&display);
        let is_asked =
            login::check(registry, login, options, observer).await.map_err(|source| {
                LoginError::Refused { registry: registry.clone(), source: Box::new(source) }
            })?;
        let file = login::file_for(&options.credentials.files, registry);
        let file = file.map_err(LoginError::Keep)?.ok_or(LoginError::NoFile)?;
        let keeper = login::store(file, registry, login).await.map_err(LoginError::Keep)?;
        if !is_asked {
            display.say(&format!(
                "ocipull: warning: {registry} did not ask who logs in: the password is not checked"
            ));
        }
        let kept = match keeper {
            Keeper::File => format!("kept in {}, not encrypted", file.display()),
            Keeper::Helper(name) => format!("kept by docker-credential-{name}"),
        };
        display.say(&format!("logged in to {registry} as {}; {kept}", login.user));
        Ok(())
    }
}

impl LogoutTask {
    pub(crate) async fn run(&self) -> Result<(), LoginError> {
        let Self { registry, files } = self;
        let mut forgotten: Vec<PathBuf> = Vec::new();
        for file in files {
            if login::forget(&file.path, registry).await.map_err(LoginError::Forget)? {
                forgotten.push(file.path.clone());
            }
        }
        let list = |paths: Vec<PathBuf>| {
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            names.join(", ")
        };
        if forgotten.is_empty() {
            let looked = list(files.iter().map(|file| file.path.clone()).collect());
            return Err(LoginError::NotLoggedIn { registry: registry.clone(), looked });
        }
        let display = Display::new(Output::USUAL);
        display.say(&format!("logged out of {registry}; taken out of {}", list(forgotten)));
        Ok(())
    }
}
