//! The `ocipull` command: parse, run, report.

mod cache_command;
mod cli;
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
use ocipull::error::PullError;
use ocipull::event::Observer;
use ocipull::ownership::{self, OwnershipChoice, OwnershipError};
use ocipull::pull::{PullOptions, Pulled, pull};
use ocipull::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};

use cache_command::CacheCommandError;
use cli::{CliError, Output, PullTask, Task, Typed};
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|e| MainError::Start(SysError::from_io("epoll_create1", "", &e)))?;
    let observer: Arc<dyn Observer> = Arc::clone(display) as _;
    let directory = || cache::directory(|name| std::env::var_os(name));
    let options = PullOptions {
        cache: task.cached.then(|| Cache::open_or_say(directory(), &observer)).flatten(),
        dest: task.dest.clone(),
        platform: task.platform.clone(),
        ownership,
        force: task.force,
        jobs: task.jobs,
        limits: task.limits,
    };
    // The runtime is dropped at the end, which waits for the unpacking thread to have cleaned up.
    runtime.block_on(async {
        let registry =
            Registry::new(&task.reference, &task.registry, observer).map_err(PullError::from)?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        tokio::select! {
            pulled = pull(Arc::new(registry), &task.reference, &options) => Ok(pulled?),
            _ = interrupt.recv() => Err(MainError::Signal { name: "SIGINT", code: 130 }),
            _ = terminate.recv() => Err(MainError::Signal { name: "SIGTERM", code: 143 }),
        }
    })
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, MainError> {
    signal(kind).map_err(|e| MainError::Start(SysError::from_io("sigaction", "", &e)))
}

fn tell(task: &PullTask, display: &Display, pulled: Pulled) {
    if task.output == Output::Quiet {
        return;
    }
    let named = |digest: &str| match task.reference.digest() {
        Some(_) => task.reference.to_string(),
        None => format!("{}@{digest}", task.reference),
    };
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
