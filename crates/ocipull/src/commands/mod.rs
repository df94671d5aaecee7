//! The commands that show an image and unpack nothing. What they print is data: standard output is
//! theirs alone.

mod digest;
mod inspect;
mod tags;

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use clap::Args;
use ctsys::report::Explain;
use ocipull::cache::{self, Cache};
use ocipull::error::PullError;
use ocipull::event::Observer;
use ocipull::open;
use ocipull::platform::Platform;
use ocipull::resolve::ResolveError;
use ocipull::source::Source;

pub(crate) use digest::TypedDigest;
pub(crate) use inspect::TypedInspect;
pub(crate) use tags::TypedTags;

use crate::access::TypedRegistry;
use crate::cli::{CliError, Image};
use crate::output::TypedTrace;
use crate::progress::Display;

/// Which of them.
#[derive(Debug)]
pub(crate) enum Show {
    Digest(Box<TypedDigest>),
    Inspect(Box<TypedInspect>),
    Tags(Box<TypedTags>),
}

/// What all of them take.
#[derive(Debug, Args)]
pub(crate) struct TypedQuery {
    /// [REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG] or docker-archive:FILE[:NAME]
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    registry: TypedRegistry,
    #[command(flatten)]
    trace: TypedTrace,
}

/// Why an image could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShowError {
    #[error(transparent)]
    Cli(#[from] CliError),
    #[error(transparent)]
    Pull(Box<PullError>),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl From<PullError> for ShowError {
    fn from(error: PullError) -> Self {
        Self::Pull(Box::new(error))
    }
}

impl From<ResolveError> for ShowError {
    fn from(error: ResolveError) -> Self {
        PullError::from(error).into()
    }
}

impl Explain for ShowError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Cli(error) => error.hint(),
            Self::Pull(error) => error.hint(),
            Self::Output(_) => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Cli(error) => error.exit_code(),
            Self::Pull(error) => error.exit_code(),
            Self::Output(_) => 1,
        }
    }
}

impl Show {
    /// Does it, and prints what came of it. For a thread within a tokio runtime.
    pub(crate) async fn run(self) -> Result<(), ShowError> {
        match self {
            Self::Digest(typed) => typed.run().await,
            Self::Inspect(typed) => typed.run().await,
            Self::Tags(typed) => typed.run().await,
        }
    }
}

/// What was asked for, parsed.
struct Query {
    image: Image,
    observer: Arc<dyn Observer>,
}

impl TypedQuery {
    fn meaning(self) -> Result<Query, CliError> {
        let display = Display::new(self.trace.meaning());
        let image = Image::new(self.image, self.registry.meaning()?)?;
        if let Some(note) = image.note() {
            display.say(&note);
        }
        Ok(Query { image, observer: Arc::new(display) })
    }
}

impl Query {
    async fn open(self) -> Result<(Source, Option<Arc<Cache>>), PullError> {
        let Self { image: Image { typed, location, registry, .. }, observer } = self;
        let source = open::open(location, &typed, &registry, Arc::clone(&observer)).await?;
        let cache = match source.is_local() {
            true => None,
            false => {
                let directory = cache::directory(|name| std::env::var_os(name));
                Cache::open_or_say(directory, &observer)
            }
        };
        Ok((source, cache))
    }
}

fn platform(typed: Option<&str>) -> Result<Option<Platform>, CliError> {
    Ok(typed.map(str::parse).transpose()?)
}

fn print(bytes: &[u8]) -> Result<(), ShowError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // Who has seen enough (head) is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(ShowError::Output(error)),
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), ShowError> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| ShowError::Output(error.into()))?;
    print(format!("{text}\n").as_bytes())
}
