//! The `ocipull` command: parse, run, report.

mod cli;
mod password;
mod progress;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use ctsys::SysError;
use ctsys::record::Ownership;
use ctsys::report::{Explain, report};
use ocipull::error::PullError;
use ocipull::ownership::{self, OwnershipError};
use ocipull::pull::{PullOptions, Pulled, pull};
use ocipull::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};

use cli::{CliError, Output, Task, Typed};
use progress::{Display, size};

/// One thread takes bytes off the network and hashes them while another unpacks; the second worker
/// keeps timers and other connections going when the first is busy.
const WORKER_THREADS: usize = 2;

/// What ends the program before its time.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Cli(#[from] CliError),
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    #[error(transparent)]
    Pull(#[from] PullError),
    #[error("cannot make the bundle's directory")]
    Bundle(#[source] SysError),
    #[error("cannot start")]
    Start(#[source] SysError),
    #[error("interrupted by {name}; the destination is as it was")]
    Signal { name: &'static str, code: u8 },
}

impl Explain for MainError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Cli(error) => error.hint(),
            Self::Ownership(error) => error.hint(),
            Self::Pull(error) => error.hint(),
            Self::Bundle(_) => Some("make its parent directory, or name another".into()),
            Self::Start(_) | Self::Signal { .. } => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Cli(error) => error.exit_code(),
            Self::Ownership(error) => error.exit_code(),
            Self::Pull(error) => error.exit_code(),
            Self::Signal { code, .. } => *code,
            Self::Bundle(_) | Self::Start(_) => 1,
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report("ocipull", &error),
    }
}

fn run() -> Result<(), MainError> {
    let task = Typed::parse().meaning()?;
    // Before the first thread: what follows may go on in a child, inside a user namespace.
    let entered = ownership::enter(task.ownership)?;
    let display = Arc::new(Display::new(task.output));
    if let Some(warning) = &entered.warning {
        display.say(&format!("ocipull: warning: {warning}"));
    }
    let made = make_bundle(&task)?;
    let result = run_pull(&task, entered.ownership, &display);
    display.clear();
    if let (Err(_), Some(dir)) = (&result, made) {
        // Not there before, so not there after.
        let _ = std::fs::remove_dir(dir);
    }
    tell(&task, &display, result?);
    Ok(())
}

/// Makes the bundle's directory, and says which one was made.
fn make_bundle(task: &Task) -> Result<Option<&std::path::Path>, MainError> {
    let Some(dir) = task.bundle.as_deref() else { return Ok(None) };
    match std::fs::create_dir(dir) {
        Ok(()) => Ok(Some(dir)),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        Err(e) => Err(MainError::Bundle(SysError::from_io("mkdir", format!("{dir:?}"), &e))),
    }
}

fn run_pull(
    task: &Task,
    ownership: Ownership,
    display: &Arc<Display>,
) -> Result<Pulled, MainError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|e| MainError::Start(SysError::from_io("epoll_create1", "", &e)))?;
    let options = PullOptions {
        dest: task.dest.clone(),
        platform: task.platform.clone(),
        ownership,
        force: task.force,
    };
    let observer = Arc::clone(display);
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

fn tell(task: &Task, display: &Display, pulled: Pulled) {
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
