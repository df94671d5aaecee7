//! The options that say how registries are reached: mirrors, credentials, TLS, patience.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ocipull::registry::{
    AuthFile, ConfigSources, CredentialSources, Login, RegistryOptions, RetryPolicy, Secret,
    Timeouts, default_files,
};

use crate::cli::CliError;

/// Longest `--ca-cert` file, in bytes: a whole system's CAs have a quarter of it.
pub(crate) const MAX_CA_BYTES: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct TypedRegistry {
    /// Ask this registry first, as a mirror of the image's own; several, given one by one or
    /// separated by commas, are asked in turn
    #[arg(long, value_name = "HOST[:PORT]", env = "OCIPULL_MIRROR", value_delimiter = ',')]
    mirror: Vec<String>,
    /// Log in to the image's registry; without PASS the password is read from standard input
    #[arg(long, value_name = "USER[:PASS]")]
    creds: Option<String>,
    /// Ask nobody: use what earlier pulls left in the cache
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    access: TypedAccess,
}

/// What a login needs as well as a pull.
#[derive(Debug, Args)]
pub(crate) struct TypedAccess {
    /// Credentials in docker's or podman's form [default: their own files]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Talk to the registry without TLS; on a loopback address that is tried anyway
    #[arg(long)]
    plain_http: bool,
    /// Do not check the registry's certificate
    #[arg(long)]
    insecure: bool,
    /// Trust the CA certificates in FILE (PEM) as well
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Send a request that failed, but may pass, again so often
    #[arg(long, value_name = "N", default_value_t = RetryPolicy::default().retries)]
    retries: u32,
    /// Give up a connection that takes so long to be made, or on which nothing comes for so long
    /// [default: 10 to connect, 60 for data]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
}

impl TypedRegistry {
    pub(crate) fn meaning(self) -> Result<RegistryOptions, CliError> {
        // An empty variable is as good as none.
        let mirrors = self.mirror.iter().filter(|text| !text.is_empty());
        let mirrors = mirrors.map(|text| text.parse().map_err(CliError::Mirror));
        let mirrors = mirrors.collect::<Result<_, _>>()?;
        let login = self.creds.map(login).transpose()?;
        let mut options = self.access.meaning()?;
        options.mirrors = mirrors;
        options.credentials.login = login;
        options.offline = self.offline;
        Ok(options)
    }
}

impl TypedAccess {
    /// Options without mirrors, `--creds` and `--offline`.
    pub(crate) fn meaning(self) -> Result<RegistryOptions, CliError> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        Ok(RegistryOptions {
            mirrors: Vec::new(),
            plain_http: self.plain_http,
            insecure: self.insecure,
            ca_pem: self.ca_cert.as_deref().map(read_ca).transpose()?,
            credentials: CredentialSources { login: None, files: auth_files(self.authfile) },
            config: ConfigSources::of_user(variable),
            retry: RetryPolicy { retries: self.retries },
            timeouts: self
                .timeout
                .map(Duration::from_secs)
                .map_or_else(Timeouts::default, |time| Timeouts { connect: time, stall: time }),
            offline: false,
        })
    }
}

/// The credential files that count, `named` alone if it is given.
pub(crate) fn auth_files(named: Option<PathBuf>) -> Vec<AuthFile> {
    default_files(named.as_deref(), |name| std::env::var_os(name).map(PathBuf::from))
}

fn login(creds: String) -> Result<Login, CliError> {
    let (user, password) = match creds.split_once(':') {
        Some((user, password)) => (user.to_owned(), Some(password.to_owned())),
        None => (creds, None),
    };
    if user.is_empty() {
        return Err(CliError::Creds);
    }
    let password = match password {
        Some(password) => password,
        None => crate::password::read(&user).map_err(CliError::Password)?,
    };
    Ok(Login { user, secret: Secret::Password(password) })
}

fn read_ca(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |source| CliError::File { what: "the CA file", path: path.to_path_buf(), source };
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MAX_CA_BYTES + 1).read_to_end(&mut pem).map_err(failed)?;
    if pem.len() as u64 > MAX_CA_BYTES {
        return Err(CliError::LargeFile(path.to_path_buf()));
    }
    Ok(pem)
}
