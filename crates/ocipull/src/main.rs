//! The `ocipull` command: parse, run, report.

mod cache_command;
mod cli;
mod commands;
mod password;
mod progress;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use ctsys::SysError;
use ctsys::record::{ImageRecord, Ownership};
use ctsys::report::{Explain, Usage, report};
use nix::sys::stat::{Mode, umask};
use ocipull::apply::{self, ApplyError};
use ocipull::cache::{self, Cache};
use ocipull::copy::{Copied, CopyOptions, copy};
use ocipull::error::PullError;
use ocipull::event::Observer;
use ocipull::location::ImageLocation;
use ocipull::open::open;
use ocipull::ownership::{self, OwnershipChoice, OwnershipError};
use ocipull::pull::{PullOptions, Pulled, pull};
use ocipull::source::Source;
use tokio::signal::unix::{SignalKind, signal};

use cache_command::CacheCommandError;
use cli::{CliError, CopyTask, Image, Output, PullTask, Task, Typed};
use commands::ShowError;
use progress::{Display, size};

/// These take bytes off the network and hash them; the second keeps timers and other connections
/// going when the first is busy. Unpacking has threads of its own.
const WORKER_THREADS: usize = 2;

/// What ends the program before its time.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Cli(#[from] CliError),
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    #[error(transparent)]
    Pull(Box<PullError>),
    #[error("cannot remove")]
    Remove(#[source] Box<ApplyError>),
    #[error(transparent)]
    Cache(#[from] CacheCommandError),
    #[error(transparent)]
    Show(#[from] ShowError),
    #[error("cannot start")]
    Start(#[source] SysError),
    #[error("interrupted by {name}; the destination is as it was")]
    Signal { name: &'static str, code: u8 },
}

impl From<PullError> for MainError {
    fn from(error: PullError) -> Self {
        Self::Pull(Box::new(error))
    }
}

impl Explain for MainError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Cli(error) => error.hint(),
            Self::Ownership(error) => error.hint(),
            Self::Pull(error) => error.hint(),
            Self::Remove(error) => error.hint(),
            Self::Cache(error) => error.hint(),
            Self::Show(error) => error.hint(),
            Self::Start(_) | Self::Signal { .. } => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Cli(error) => error.exit_code(),
            Self::Ownership(error) => error.exit_code(),
            Self::Pull(error) => error.exit_code(),
            Self::Signal { code, .. } => *code,
            Self::Remove(error) => error.exit_code(),
            Self::Cache(error) => error.exit_code(),
            Self::Show(error) => error.exit_code(),
            Self::Start(_) => 1,
        }
    }
}

fn main() -> ExitCode {
    let typed = match Typed::try_parse() {
        Ok(typed) => typed,
        Err(error) if error.use_stderr() => {
            return report("ocipull", &Usage::new("ocipull", &error.render().to_string(), 2));
        }
        // Help and version.
        Err(error) => error.exit(),
    };
    match run(typed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report("ocipull", &error),
    }
}

fn run(typed: Typed) -> Result<(), MainError> {
    spare_the_owner();
    // What follows `enter` may go on in a child, inside a user namespace: so that comes before the
    // first thread.
    match typed.meaning()? {
        Task::Pull(task) => {
            let entered = ownership::enter(task.ownership)?;
            let display = Arc::new(Display::new(task.output));
            if let Some(warning) = &entered.warning {
                display.say(&format!("ocipull: warning: {warning}"));
            }
            let result = run_pull(&task, entered.ownership, &display);
            display.clear();
            tell(&task, &display, result?);
            Ok(())
        }
        Task::Copy(task) => {
            let display = Arc::new(Display::new(task.output));
            let result = run_copy(&task, &display);
            display.clear();
            tell_copied(&task, &display, &result?);
            Ok(())
        }
        Task::Show(show) => Ok(runtime()?.block_on(show.run())?),
        Task::Cache(command) => Ok(command.run()?),
        Task::Remove(dest) => {
            let record =
                ImageRecord::read(&dest).map_err(|e| MainError::Remove(Box::new(e.into())))?;
            if record.is_some_and(|record| record.ownership == Ownership::Subuid) {
                // Its files belong to ids that only the namespace has, but for root.
                ownership::enter(OwnershipChoice::Auto)?;
            }
            apply::remove(&dest).map_err(|e| MainError::Remove(Box::new(e)))
        }
    }
}

/// Takes the owner's bits off the umask: with them a directory of ours would be closed to
/// ourselves. The others' bits, which count for the parents that are made, stay.
fn spare_the_owner() {
    let typed = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    umask(typed & (Mode::S_IRWXG | Mode::S_IRWXO));
}

fn run_pull(
    task: &PullTask,
    ownership: Ownership,
    display: &Arc<Display>,
) -> Result<Pulled, MainError> {
    let observer: Arc<dyn Observer> = Arc::clone(display) as _;
    let options = PullOptions {
        cache: user_cache(&task.image, &observer),
        dest: task.dest.clone(),
        platform: task.platform.clone(),
        ownership,
        force: task.force,
        jobs: task.jobs,
        limits: task.limits,
    };
    until_interrupted(async {
        let source = open_image(&task.image, observer).await?;
        pull(&source, &options).await
    })
}

fn run_copy(task: &CopyTask, display: &Arc<Display>) -> Result<Copied, MainError> {
    let observer: Arc<dyn Observer> = Arc::clone(display) as _;
    let options = CopyOptions {
        dir: task.layout.path.clone(),
        name: task.layout.name.clone(),
        platform: task.platform.clone(),
        jobs: task.jobs,
        cache: user_cache(&task.image, &observer),
    };
    until_interrupted(async {
        let source = open_image(&task.image, observer).await?;
        copy(&source, &options).await
    })
}

async fn open_image(image: &Image, observer: Arc<dyn Observer>) -> Result<Source, PullError> {
    open(image.location.clone(), &image.typed, &image.registry, observer).await
}

/// What is on this machine needs no cache.
fn user_cache(image: &Image, observer: &Arc<dyn Observer>) -> Option<Arc<Cache>> {
    if !image.cached || !matches!(image.location, ImageLocation::Registry(_)) {
        return None;
    }
    Cache::open_or_say(cache::directory(|name| std::env::var_os(name)), observer)
}

/// The runtime is dropped at the end, which waits for threads that clean up.
fn until_interrupted<T>(work: impl Future<Output = Result<T, PullError>>) -> Result<T, MainError> {
    runtime()?.block_on(async {
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        tokio::select! {
            done = work => Ok(done?),
            _ = interrupt.recv() => Err(MainError::Signal { name: "SIGINT", code: 130 }),
            _ = terminate.recv() => Err(MainError::Signal { name: "SIGTERM", code: 143 }),
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, MainError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|e| MainError::Start(SysError::from_io("epoll_create1", "", &e)))
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, MainError> {
    signal(kind).map_err(|e| MainError::Start(SysError::from_io("sigaction", "", &e)))
}

fn tell(task: &PullTask, display: &Display, pulled: Pulled) {
    if task.output == Output::Quiet {
        return;
    }
    let named = |digest: &str| with_digest(&task.image.location, digest);
    let dest = task.dest.display();
    match pulled {
        Pulled::UpToDate { manifest_digest } => {
            display.say(&format!("{dest} is up to date: {}", named(&manifest_digest)));
        }
        Pulled::Unpacked { manifest_digest, layers, bytes, warnings } => {
            for warning in warnings {
                display.say(&format!("ocipull: warning: {warning}"));
            }
            let plural = if layers == 1 { "" } else { "s" };
            display.say(&format!(
                "pulled {} ({layers} layer{plural}, {}) into {dest}",
                named(&manifest_digest),
                size(bytes)
            ));
        }
    }
}

fn tell_copied(task: &CopyTask, display: &Display, copied: &Copied) {
    let Copied { digest, documents, blobs, bytes } = copied;
    let image = with_digest(&task.image.location, digest.as_ref());
    let (documents, blobs) = (count(*documents, "manifest"), count(*blobs, "blob"));
    let layout = &task.layout;
    display.say(&format!("copied {image} ({documents}, {blobs}, {}) to {layout}", size(*bytes)));
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn with_digest(image: &ImageLocation, digest: &str) -> String {
    match image {
        ImageLocation::Registry(reference) if reference.digest().is_some() => image.to_string(),
        ImageLocation::Layout(layout) if layout.digest.is_some() => image.to_string(),
        _ => format!("{image}@{digest}"),
    }
}
