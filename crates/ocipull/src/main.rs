//! The `ocipull` command: parse, run, report.

mod access;
mod cache_command;
mod changes;
mod cli;
mod commands;
mod lines;
mod login;
mod output;
mod password;
mod progress;
mod resources;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use ctsys::SysError;
use ctsys::record::{ImageRecord, Ownership};
use ctsys::report::{Explain, Usage, report};
use nix::sys::stat::{Mode, umask};
use ocipull::apply::{self, ApplyError};
use ocipull::copy::{Copied, CopyOptions, copy};
use ocipull::error::PullError;
use ocipull::event::Observer;
use ocipull::exit::EXIT_UNVERIFIED;
use ocipull::location::ImageLocation;
use ocipull::open::open;
use ocipull::ownership::{self, OwnershipChoice, OwnershipError};
use ocipull::pull::{PullOptions, Pulled, pull};
use ocipull::source::Source;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use cache_command::CacheCommandError;
use changes::VerifyError;
use cli::{CliError, CopyTask, Image, PullTask, Task, Typed};
use commands::ShowError;
use lines::Line;
use login::LoginError;
use progress::{Display, size};

/// These take bytes off the network and hash them; the second keeps timers and other connections
/// going when the first is busy. Unpacking has threads of its own.
const WORKER_THREADS: usize = 2;

/// The exit code of a verification that found differences.
const DIFFERENT: u8 = 1;

/// What ends the program before its time.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Cli(#[from] CliError),
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    #[error(transparent)]
    Pull(Box<PullError>),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("cannot remove")]
    Remove(#[source] Box<ApplyError>),
    #[error(transparent)]
    Cache(#[from] CacheCommandError),
    #[error(transparent)]
    Show(#[from] ShowError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("cannot start")]
    Start(#[source] SysError),
    #[error("interrupted by {}; the destination is as it was", ctsys::signal::name(*.0))]
    Signal(i32),
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
            Self::Login(error) => error.hint(),
            Self::Remove(error) => error.hint(),
            Self::Cache(error) => error.hint(),
            Self::Show(error) => error.hint(),
            Self::Verify(error) => error.hint(),
            Self::Start(_) | Self::Signal(_) => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Cli(error) => error.exit_code(),
            Self::Ownership(error) => error.exit_code(),
            Self::Pull(error) => error.exit_code(),
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(1),
            Self::Remove(error) => error.exit_code(),
            Self::Login(error) => error.exit_code(),
            Self::Cache(error) => error.exit_code(),
            Self::Show(error) => error.exit_code(),
            Self::Verify(error) => error.exit_code(),
            Self::Start(_) => 1,
        }
    }
}

/// A verification that came to no result: its failure must not look like a difference.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unverified(MainError);

impl Explain for Unverified {
    fn hint(&self) -> Option<String> {
        self.0.hint()
    }

    fn exit_code(&self) -> u8 {
        match self.0.exit_code() {
            DIFFERENT => EXIT_UNVERIFIED,
            other => other,
        }
    }
}

fn main() -> ExitCode {
    let typed = match Typed::try_parse() {
        Ok(typed) => typed,
        Err(error) if error.use_stderr() => {
            return report("ocipull", &Usage::new("ocipull", &said_of_usage(&error), 2));
        }
        // Help and version.
        Err(error) => error.exit(),
    };
    let (verifies, speaks_json) = (typed.verifies(), typed.speaks_json());
    match run(typed) {
        Ok(code) => code,
        Err(error) if verifies => tell_failure(&Unverified(error), speaks_json),
        Err(error) => tell_failure(&error, speaks_json),
    }
}

/// What is wrong with the command line. clap takes a word after IMAGE and DEST for a subcommand that
/// stands in the wrong place, also where there is none of that name.
fn said_of_usage(error: &clap::Error) -> String {
    let word = error.get(ContextKind::InvalidSubcommand);
    match (error.kind(), word) {
        (ErrorKind::ArgumentConflict, Some(ContextValue::String(word)))
            if !Typed::command().get_subcommands().any(|known| known.get_name() == word) =>
        {
            format!("unexpected argument '{word}' found")
        }
        _ => error.render().to_string(),
    }
}

fn tell_failure(error: &dyn Explain, speaks_json: bool) -> ExitCode {
    if !speaks_json {
        return report("ocipull", error);
    }
    let _ = std::io::stderr().write_all(Line::failed(error).text().as_bytes());
    ExitCode::from(error.exit_code())
}

fn run(typed: Typed) -> Result<ExitCode, MainError> {
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
            if let Some(note) = task.image.note() {
                display.say(&note);
            }
            let result = run_pull(&task, entered.ownership, &display);
            display.clear();
            tell(&task, &display, result?);
            Ok(ExitCode::SUCCESS)
        }
        Task::Copy(task) => {
            let display = Arc::new(Display::new(task.output));
            if let Some(note) = task.image.note() {
                display.say(&note);
            }
            let result = run_copy(&task, &display);
            display.clear();
            tell_copied(&task, &display, &result?);
            Ok(ExitCode::SUCCESS)
        }
        Task::Show(show) => {
            interruptible(async { Ok(show.run().await?) })?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Verify(task) => {
            let differs = changes::verify(*task)?;
            Ok(if differs { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
        }
        Task::Cache(command) => {
            command.run()?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Login(task) => {
            runtime()?.block_on(task.run())?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Logout(task) => {
            runtime()?.block_on(task.run())?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Remove(dest) => {
            let record =
                ImageRecord::read(&dest).map_err(|e| MainError::Remove(Box::new(e.into())))?;
            if record.is_some_and(|record| record.ownership == Ownership::Subuid) {
                // Its files belong to ids that only the namespace has, but for root.
                ownership::enter(OwnershipChoice::Auto)?;
            }
            apply::remove(&dest).map_err(|e| MainError::Remove(Box::new(e)))?;
            Ok(ExitCode::SUCCESS)
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
        dest: task.dest.clone(),
        platform: task.platform.clone(),
        ownership,
        force: task.force,
        resources: task.resources.open(&task.image.location, &observer),
        keep_dirlinks: task.keep_dirlinks,
        sync: task.sync,
    };
    interruptible(async {
        let source = open_image(&task.image, observer).await?;
        Ok(pull(&source, &options).await?)
    })
}

fn run_copy(task: &CopyTask, display: &Arc<Display>) -> Result<Copied, MainError> {
    let observer: Arc<dyn Observer> = Arc::clone(display) as _;
    let resources = task.resources.open(&task.image.location, &observer);
    let options = CopyOptions {
        dir: task.layout.path.clone(),
        name: task.layout.name.clone(),
        platform: task.platform.clone(),
        jobs: resources.jobs,
        cache: resources.cache,
    };
    interruptible(async {
        let source = open_image(&task.image, observer).await?;
        Ok(copy(&source, &options).await?)
    })
}

async fn open_image(image: &Image, observer: Arc<dyn Observer>) -> Result<Source, PullError> {
    open(image.location.clone(), &image.typed, &image.registry, observer).await
}

/// Runs `work`, which the signals that end a program end by dropping it.
fn interruptible<T>(work: impl Future<Output = Result<T, MainError>>) -> Result<T, MainError> {
    let runtime = runtime()?;
    // The runtime is dropped at the end, which waits for the blocking threads to have cleaned up.
    runtime.block_on(async {
        let mut ending = ending_signals()?;
        tokio::select! {
            done = work => done,
            Some(Ok(number)) = ending.join_next() => Err(MainError::Signal(number)),
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

/// Waits for the signals that end a pull: each task gives its signal's number. Unheard they would
/// end the process with its staging directory left behind. One that the caller has ignored, by
/// nohup(1) or a shell's `&`, stays so.
fn ending_signals() -> Result<JoinSet<i32>, MainError> {
    let mut ending = JoinSet::new();
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
        let number = kind.as_raw_value();
        if ctsys::signal::is_ignored(number).map_err(MainError::Start)? {
            continue;
        }
        let mut stream = signal(kind).map_err(|e| {
            MainError::Start(SysError::from_io("sigaction", number.to_string(), &e))
        })?;
        ending.spawn(async move {
            stream.recv().await;
            number
        });
    }
    Ok(ending)
}

fn tell(task: &PullTask, display: &Display, pulled: Pulled) {
    let named = |digest: &str| with_digest(&task.image.location, digest);
    let dest = task.dest.display().to_string();
    match pulled {
        Pulled::UpToDate { manifest_digest } => {
            let text = format!("{dest} is up to date: {}", named(&manifest_digest));
            display.done(&text, &manifest_digest, &dest);
        }
        Pulled::Unpacked { manifest_digest, layers, bytes, warnings } => {
            for warning in warnings {
                display.say(&format!("ocipull: warning: {warning}"));
            }
            let plural = if layers == 1 { "" } else { "s" };
            let text = format!(
                "pulled {} ({layers} layer{plural}, {}) into {dest}",
                named(&manifest_digest),
                size(bytes)
            );
            display.done(&text, &manifest_digest, &dest);
        }
    }
}

fn tell_copied(task: &CopyTask, display: &Display, copied: &Copied) {
    let Copied { digest, documents, blobs, bytes } = copied;
    let image = with_digest(&task.image.location, digest.as_ref());
    let (documents, blobs) = (count(*documents, "manifest"), count(*blobs, "blob"));
    let layout = task.layout.to_string();
    let text = format!("copied {image} ({documents}, {blobs}, {}) to {layout}", size(*bytes));
    display.done(&text, digest.as_ref(), &layout);
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
