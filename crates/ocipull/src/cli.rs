//! The command line: what was typed, and what it means.

use std::path::{Component, Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ctsys::report::Explain;
use ocipull::apply::limits::{LIMIT_NAMES, LimitSyntaxError};
use ocipull::host::HostError;
use ocipull::location::{ImageLocation, LayoutName, LocationError};
use ocipull::ownership::OwnershipChoice;
use ocipull::platform::{Platform, PlatformError};
use ocipull::registry::{ExpandError, RegistryOptions};

use crate::access::{MAX_CA_BYTES, TypedRegistry};
use crate::cache_command::TypedCache;
use crate::commands::{Show, TypedDigest, TypedInspect, TypedTags};
use crate::login::{LoginTask, LogoutTask, TypedLogin, TypedLogout};
use crate::output::{Output, TypedOutput};
use crate::resources::{ResourcesTask, TypedResources};

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "ocipull",
    version,
    about = "Pull an image from an OCI registry and unpack it into a root filesystem",
    override_usage = "ocipull [OPTIONS] IMAGE DEST\n       ocipull [OPTIONS] IMAGE --bundle DIR\n       \
                      ocipull [OPTIONS] IMAGE oci:DIR[:TAG]\n       \
                      ocipull digest|inspect|tags [OPTIONS] IMAGE\n       \
                      ocipull verify [OPTIONS] DEST\n       ocipull rm DEST\n       \
                      ocipull cache ls|prune|verify\n       \
                      ocipull login [REGISTRY]\n       ocipull logout [REGISTRY]",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "\
DEST holds the image's files afterwards; DEST.image.json, beside it, says which image it is. A DEST \
that holds the image already is left as it is, unless --force is given. A pull that fails or is \
interrupted leaves DEST as it was.

IMAGE is a registry's, or oci:DIR[:TAG] in an OCI layout, or docker-archive:FILE[:NAME] in what \
docker save wrote. With oci:DIR[:TAG] as DEST the image is kept as it is, in a layout that is made or \
added to.

Credentials come from --creds, else from the files of podman and docker and the helpers they name. \
Mirrors are asked in this order, and the registry itself last: --mirror, containerd's \
certs.d/REGISTRY/hosts.toml, containers' registries.conf. CAs and client certificates are taken from \
certs.d/REGISTRY of docker and containers as well. Proxies: HTTPS_PROXY, HTTP_PROXY, NO_PROXY.

What was downloaded is kept in $XDG_CACHE_HOME/ocipull, by default ~/.cache/ocipull: a pull that was \
cut off goes on from there, and nothing is fetched twice.

With --progress json every line on standard error is an object. \"event\" says what it is: message \
(text); request (method, url, status or error, bytes, and the times of --timing as lookupSeconds to \
totalSeconds); retry (why, attempt, attempts, waitSeconds); layer-started and layer-done (layer, layers, \
digest, bytes); layer-progress (layer, bytes so far); last done (text, digest, dest) or failed \
(message, hint, exitCode).

Exit codes:
   0  success
   1  a failure that has no code of its own
   2  usage; a name that is no image reference
   3  rate limited by the registry
   4  damaged content: another digest, size or diff_id than stated
   5  timed out
   6  no room on the disk
   7  verify could not compare
   8  not found: no such repository, tag or digest
   9  the registry wants a login, or denies access to the one given
  10  no image for the platform
  11  the registry speaks plain HTTP, or its certificate is not trusted
  12  over a limit: a manifest of more than 4 MiB, an image that may be a bomb
 129  ended by SIGHUP, 130 by SIGINT, 143 by SIGTERM"
)]
pub(crate) struct Typed {
    #[command(subcommand)]
    command: Option<TypedCommand>,
    #[command(flatten)]
    pull: TypedPull,
}

#[derive(Debug, Subcommand)]
enum TypedCommand {
    /// Print the digest that a name stands for
    Digest(TypedDigest),
    /// Print what an image is made of, as JSON
    Inspect(TypedInspect),
    /// Print the tags of a repository, or the names in a layout or an archive
    Tags(TypedTags),
    /// What is kept of earlier pulls
    #[command(arg_required_else_help = false)]
    Cache {
        #[command(subcommand)]
        command: TypedCache,
    },
    /// Remove a root filesystem that ocipull made, with its record
    Rm {
        /// The root filesystem's directory
        #[arg(value_name = "DEST")]
        dest: PathBuf,
    },
    /// Log in to a registry: tried there, then kept where docker and podman find it
    Login(TypedLogin),
    /// Forget the login for a registry
    Logout(TypedLogout),
    /// Compare a root filesystem with the image that its record names
    #[command(after_help = VERIFY_HELP)]
    Verify(Box<TypedVerify>),
}

const VERIFY_HELP: &str = "\
A line a path that differs goes to standard output, as by git status --short: A for what the image \
does not have, D for what DEST lacks, M for what is another, with what differs: type, mode, owner, \
size, content, target, device, mtime, xattrs, links (to other paths), mount. A directory ends in a \
slash; of one that was added or removed nothing below is listed. Times of access are not compared. \
Control characters and bytes that are no UTF-8 are escaped.

With --json a line is an object: \"change\" is added, changed or removed; \"path\" is the path, or \
\"pathBase64\" where it is no UTF-8; \"directory\" is true or false; \"aspects\" lists what differs.

The image is unpacked once more beside DEST meanwhile, which takes as much disk space as it has. \
DEST itself is only read, by the user who pulled it.

Exit codes: 0 no difference, 1 differences, 2 usage, 7 could not compare, others as of a \
pull.";

#[derive(Debug, Args)]
struct TypedVerify {
    /// The root filesystem's directory
    #[arg(value_name = "DEST")]
    dest: PathBuf,
    /// Print differences for programs, an object a line
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    #[command(flatten)]
    resources: TypedResources,
    #[command(flatten)]
    registry: TypedRegistry,
    #[command(flatten)]
    output: TypedOutput,
}

#[derive(Debug, Args)]
struct TypedPull {
    /// [REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG] or docker-archive:FILE[:NAME]; centos
    /// is docker.io/library/centos:latest
    #[arg(value_name = "IMAGE", required = true)]
    image: Option<String>,
    /// Directory for the root filesystem: new, empty, or one that ocipull made; or oci:DIR[:TAG]
    #[arg(value_name = "DEST", required_unless_present = "bundle", conflicts_with = "bundle")]
    dest: Option<PathBuf>,
    /// Make an OCI bundle's directory: the root filesystem is DIR/rootfs
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Platform to choose from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Copy the index with the images of all platforms; DEST has to be oci:DIR[:TAG]
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Replace DEST, whatever it holds
    #[arg(long)]
    force: bool,
    /// Where a layer has a directory and a lower one a link to a directory, keep the link
    #[arg(long)]
    keep_dirlinks: bool,
    /// Return only when everything is on the disk, safe from a power cut; a disk error leaves DEST
    /// as it was
    #[arg(long)]
    sync: bool,
    /// How files keep their owners: as root, by subordinate ids, or noted in an attribute
    #[arg(long, value_enum, default_value_t = TypedOwnership::Auto)]
    ownership: TypedOwnership,
    #[command(flatten)]
    resources: TypedResources,
    #[command(flatten)]
    registry: TypedRegistry,
    #[command(flatten)]
    output: TypedOutput,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypedOwnership {
    Auto,
    Root,
    Subuid,
    Single,
}

/// What it means.
#[derive(Debug)]
pub(crate) enum Task {
    Pull(Box<PullTask>),
    Copy(Box<CopyTask>),
    Show(Show),
    /// Absolute, with a last component.
    Remove(PathBuf),
    Login(Box<LoginTask>),
    Logout(Box<LogoutTask>),
    Cache(TypedCache),
    Verify(Box<VerifyTask>),
}

/// What to verify, and how.
#[derive(Debug)]
pub(crate) struct VerifyTask {
    /// Absolute, with a last component.
    pub(crate) dest: PathBuf,
    pub(crate) json: bool,
    pub(crate) resources: ResourcesTask,
    pub(crate) registry: RegistryOptions,
    pub(crate) output: Output,
}

/// What is to be read, and as whom.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) typed: String,
    pub(crate) location: ImageLocation,
    /// The configuration file that says what the short name that was typed stands for.
    pub(crate) named_by: Option<PathBuf>,
    pub(crate) registry: RegistryOptions,
}

impl Image {
    /// Reads what is configured for short names.
    pub(crate) fn new(typed: String, registry: RegistryOptions) -> Result<Self, CliError> {
        let location: ImageLocation = typed.parse()?;
        let expanded = match &location {
            ImageLocation::Registry(reference) => {
                ocipull::registry::expand(reference, &registry.config)?
            }
            _ => None,
        };
        let (location, named_by) = match expanded {
            None => (location, None),
            Some((full, file)) => (ImageLocation::Registry(full), Some(file)),
        };
        Ok(Self { typed, location, named_by, registry })
    }

    /// What is to be said of a name that is configured to mean something.
    pub(crate) fn note(&self) -> Option<String> {
        let file = self.named_by.as_ref()?.display();
        Some(format!("ocipull: note: {} is {} ({file})", self.typed, self.location))
    }
}

/// What to copy, and where to.
#[derive(Debug)]
pub(crate) struct CopyTask {
    pub(crate) image: Image,
    pub(crate) layout: LayoutName,
    /// None for all of them.
    pub(crate) platform: Option<Platform>,
    pub(crate) resources: ResourcesTask,
    pub(crate) output: Output,
}

/// What to pull, and how.
#[derive(Debug)]
pub(crate) struct PullTask {
    pub(crate) image: Image,
    /// Absolute, with a last component.
    pub(crate) dest: PathBuf,
    pub(crate) platform: Platform,
    pub(crate) force: bool,
    pub(crate) keep_dirlinks: bool,
    pub(crate) sync: bool,
    pub(crate) ownership: OwnershipChoice,
    pub(crate) resources: ResourcesTask,
    pub(crate) output: Output,
}

/// What was typed means nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    ShortName(#[from] ExpandError),
    #[error("invalid mirror")]
    Mirror(#[source] HostError),
    #[error("invalid registry")]
    Registry(#[source] HostError),
    #[error("no user to log in as")]
    User,
    #[error("invalid destination {0:?}: want a directory with a name")]
    Dest(PathBuf),
    #[error("--all-platforms is for a destination oci:DIR, a root filesystem is one platform's")]
    AllPlatforms,
    #[error("invalid destination {0:?}: want oci:DIR or oci:DIR:TAG, a digest is what comes of it")]
    LayoutDigest(String),
    #[error(transparent)]
    Limit(#[from] LimitSyntaxError),
    #[error("invalid credentials: want USER:PASS or USER")]
    Creds,
    #[error("cannot read {what} {path:?}")]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("CA file {0:?} is larger than {MAX_CA_BYTES} bytes")]
    LargeFile(PathBuf),
    #[error("cannot read the password")]
    Password(#[source] std::io::Error),
}

impl Explain for CliError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Location(error) => error.hint(),
            Self::Platform(_) => format!("this machine's is {}", Platform::host()),
            Self::ShortName(error) => return error.hint(),
            Self::Registry(_) => "give HOST or HOST:PORT, as in quay.io".into(),
            Self::User => "give --username NAME".into(),
            Self::Mirror(_) => "give --mirror or OCIPULL_MIRROR as HOST or HOST:PORT".into(),
            Self::Dest(_) => "name a directory, as in ./rootfs".into(),
            Self::AllPlatforms => "name a layout, as in oci:./images".into(),
            Self::LayoutDigest(_) => "leave the digest out".into(),
            Self::Limit(_) => format!("the limits are {}", LIMIT_NAMES.join(", ")),
            Self::Creds => "give the user's name before the colon".into(),
            Self::File { .. } | Self::LargeFile(_) => "check the file's path and mode".into(),
            Self::Password(_) => "give it in one line on standard input".into(),
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::LargeFile(_) | Self::Password(_) | Self::ShortName(_) => 1,
            _ => 2,
        }
    }
}

impl Typed {
    /// Whether it is `verify`, whose exit codes are its own.
    pub(crate) fn verifies(&self) -> bool {
        matches!(self.command, Some(TypedCommand::Verify(_)))
    }

    /// Whether a program reads what is told of the run.
    pub(crate) fn speaks_json(&self) -> bool {
        match &self.command {
            None => self.pull.output.is_json(),
            Some(TypedCommand::Verify(typed)) => typed.output.is_json(),
            Some(_) => false,
        }
    }

    /// What it means. Reads the CA file and, where it is not given, the password.
    pub(crate) fn meaning(self) -> Result<Task, CliError> {
        match self.command {
            Some(TypedCommand::Digest(typed)) => Ok(Task::Show(Show::Digest(Box::new(typed)))),
            Some(TypedCommand::Inspect(typed)) => Ok(Task::Show(Show::Inspect(Box::new(typed)))),
            Some(TypedCommand::Tags(typed)) => Ok(Task::Show(Show::Tags(Box::new(typed)))),
            Some(TypedCommand::Cache { command }) => Ok(Task::Cache(command)),
            Some(TypedCommand::Rm { dest }) => destination(dest).map(Task::Remove),
            Some(TypedCommand::Login(typed)) => {
                typed.meaning().map(|task| Task::Login(Box::new(task)))
            }
            Some(TypedCommand::Logout(typed)) => {
                typed.meaning().map(|task| Task::Logout(Box::new(task)))
            }
            Some(TypedCommand::Verify(typed)) => typed.meaning().map(Box::new).map(Task::Verify),
            None => self.pull.meaning(),
        }
    }
}

impl TypedVerify {
    fn meaning(self) -> Result<VerifyTask, CliError> {
        Ok(VerifyTask {
            dest: destination(self.dest)?,
            json: self.json,
            resources: self.resources.meaning()?,
            registry: self.registry.meaning()?,
            output: self.output.meaning(),
        })
    }
}

impl TypedPull {
    fn meaning(self) -> Result<Task, CliError> {
        let image = Image::new(self.image.unwrap_or_default(), self.registry.meaning()?)?;
        let platform = self.platform.as_deref().map(str::parse).transpose()?;
        let platform = platform.unwrap_or_else(Platform::host);
        let resources = self.resources.meaning()?;
        let output = self.output.meaning();
        if let Some(layout) = layout(self.dest.as_deref(), &image.location)? {
            let platform = Some(platform).filter(|_| !self.all_platforms);
            let task = CopyTask { image, layout, platform, resources, output };
            return Ok(Task::Copy(Box::new(task)));
        }
        if self.all_platforms {
            return Err(CliError::AllPlatforms);
        }
        let bundled = self.bundle.map(|dir| dir.join("rootfs"));
        Ok(Task::Pull(Box::new(PullTask {
            image,
            dest: destination(self.dest.or(bundled).unwrap_or_default())?,
            platform,
            force: self.force,
            keep_dirlinks: self.keep_dirlinks,
            sync: self.sync,
            ownership: self.ownership.meaning(),
            resources,
            output,
        })))
    }
}

impl TypedOwnership {
    fn meaning(self) -> OwnershipChoice {
        match self {
            Self::Auto => OwnershipChoice::Auto,
            Self::Root => OwnershipChoice::Root,
            Self::Subuid => OwnershipChoice::Subuid,
            Self::Single => OwnershipChoice::Single,
        }
    }
}

/// The layout that is to be written to, if DEST is one. Without a name the image keeps its own.
fn layout(dest: Option<&Path>, image: &ImageLocation) -> Result<Option<LayoutName>, CliError> {
    let Some(text) = dest.and_then(Path::to_str).filter(|text| LayoutName::is_meant(text)) else {
        return Ok(None);
    };
    let mut layout: LayoutName = text.parse()?;
    if layout.digest.is_some() {
        return Err(CliError::LayoutDigest(text.into()));
    }
    layout.name = layout.name.or_else(|| image.tag().map(str::to_owned));
    Ok(Some(layout))
}

/// An absolute path that ends in a name. Not the current directory: another one takes the place of
/// DEST, and the caller's shell would stand in the old one, which is empty and has no name.
fn destination(typed: PathBuf) -> Result<PathBuf, CliError> {
    let is_here = typed.components().eq([Component::CurDir]);
    match std::path::absolute(&typed) {
        Ok(absolute) if absolute.file_name().is_some() && !is_here => Ok(absolute),
        _ => Err(CliError::Dest(typed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use ocipull::registry::Secret;

    fn meaning(arguments: &[&str]) -> Result<PullTask, CliError> {
        match Typed::try_parse_from([&["ocipull"], arguments].concat()).unwrap().meaning()? {
            Task::Pull(task) => Ok(*task),
            other => panic!("{arguments:?} is no pull: {other:?}"),
        }
    }

    #[test]
    fn the_table_of_flags_is_consistent() {
        Typed::command().debug_assert();
    }

    #[test]
    fn a_bundle_has_its_rootfs_inside() {
        let task = meaning(&["centos", "--bundle", "/x/pod"]).unwrap();
        assert_eq!(task.dest, Path::new("/x/pod/rootfs"));
        for arguments in [&["centos"][..], &["centos", "d", "--bundle", "b"]] {
            assert!(Typed::try_parse_from([&["ocipull"], arguments].concat()).is_err());
        }
    }

    #[test]
    fn a_subcommands_name_wins_over_an_image_of_that_name() {
        let removal = Typed::try_parse_from(["ocipull", "rm", "/x/d"]).unwrap().meaning();
        assert!(matches!(removal, Ok(Task::Remove(dest)) if dest == Path::new("/x/d")));
        let task = meaning(&["library/rm", "d"]).unwrap();
        assert_eq!(task.image.location.to_string(), "docker.io/library/rm:latest");
    }

    #[test]
    fn a_destination_has_a_name() {
        for dest in ["/", "..", "a/..", ".", "./"] {
            assert!(matches!(meaning(&["centos", dest]), Err(CliError::Dest(_))), "{dest}");
        }
    }

    #[test]
    fn a_password_may_hold_colons() {
        let task = meaning(&["centos", "d", "--creds", "u:a:b"]).unwrap();
        let login = task.image.registry.credentials.login.unwrap();
        assert_eq!((login.user.as_str(), login.secret), ("u", Secret::Password("a:b".into())));
        assert!(matches!(meaning(&["centos", "d", "--creds", ":x"]), Err(CliError::Creds)));
    }

    #[test]
    fn what_means_nothing_is_a_usage_error() {
        for arguments in [
            ["Centos", "d"].as_slice(),
            &["a", "d", "--platform", "x"],
            &["a", "d", "--mirror", "a/b"],
        ] {
            let error = meaning(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.hint().is_some());
        }
    }
}
