//! Runs one container from start to end: the outside of the pipeline.
//!
//! ```text
//! foreground   minirun ─ clone3 ─▶ init ─▶ command
//! detached     minirun ─▶ monitor (a session of its own) ─ clone3 ─▶ init ─▶ command
//! ```

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use ctsys::SysError;
use ctsys::clone::{self, Child};
use ctsys::error::Context;
use ctsys::idmap::MapWriter;
use ctsys::report::{Explain, chain};
use ctsys::signal::{self, SignalSet};
use ctsys::state::{StateError, StateRoot};
use ctsys::{fdpass, isolate, wait};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use crate::cgroup::{Cgroup, CgroupError, Place};
use crate::guest::Mark;
use crate::handshake::{self, Failure, Message};
use crate::init;
use crate::launch::Launch;
use crate::log::Log;
use crate::monitor;
use crate::network::{self, Helpers, NetworkError};
use crate::plan::{Plan, PlanError};
use crate::record::Record;
use crate::refusal;
use crate::terminal::Relay;
use crate::tidy;

mod birth;
mod oom;
mod rootfs;

/// Why a container could not be run; implements `Explain` (exit codes 125, 126, 127).
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be run.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The state directory could not be read or written, or the name is taken.
    #[error(transparent)]
    State(#[from] StateError),
    /// What connects the container, or a namespace that it is to share.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The limits cannot be set.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// There is no root filesystem.
    #[error("no root filesystem at {0:?}")]
    NoRootfs(PathBuf),
    /// The kernel made no process in new namespaces.
    #[error("cannot create the container's namespaces")]
    Namespaces(#[source] SysError),
    /// The user namespace's maps could not be installed.
    #[error("cannot map ids in the container's user namespace")]
    Maps {
        /// Whether the set-uid helpers were to do it.
        by_helpers: bool,
        /// The cause.
        #[source]
        source: SysError,
    },
    /// A step inside the container, or in the monitor, failed; the message is complete.
    #[error("{0}")]
    Inside(Failure),
    /// The init ended while it set the container up, without a word.
    #[error("the container's init ended during set-up: got exit code {0}")]
    InitDied(u8),
    /// The monitor of a detached container ended without a word.
    #[error("the container's monitor ended during set-up: got exit code {0}")]
    MonitorDied(u8),
    /// A system call of the outside.
    #[error("cannot {step}")]
    Outside {
        /// What it was for.
        step: &'static str,
        /// The cause.
        #[source]
        source: SysError,
    },
}

impl Explain for RunError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Plan(error) => error.hint(),
            Self::State(StateError::Exists(name)) => {
                Some(format!("choose another --name, or remove it: minirun delete --force {name}"))
            }
            Self::State(error) => refusal::of_state(error),
            Self::Network(error) => error.hint(),
            Self::Cgroup(error) => error.hint(),
            Self::NoRootfs(_) => {
                Some("name a root filesystem, or make one: ocipull IMAGE ./rootfs".into())
            }
            Self::Namespaces(error) => Some(refusal::namespaces(error.errno()).hint()),
            Self::Maps { by_helpers, source } => Some(refusal::maps(*by_helpers, source).hint()),
            Self::Inside(failure) => Some(failure.remedy()),
            Self::InitDied(_) | Self::MonitorDied(_) => {
                Some("was it killed, or is memory short? look at the kernel's log".into())
            }
            Self::Outside { source, .. } => Some(refusal::step(source.errno()).hint()),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Inside(failure) => failure.code,
            _ => 125,
        }
    }
}

type Result<T> = std::result::Result<T, RunError>;

/// Runs the container in the foreground and returns its command's exit code (128 + n when signal n
/// ended it); with [`Launch::detach`], returns 0 once the command runs (the caller prints the id).
///
/// `notice` is told what the user should know though nothing failed (one line, no prefix).
/// Must be called before any thread is started.
pub fn run(launch: &Launch, notice: &mut dyn FnMut(&str)) -> Result<u8> {
    let plan = Plan::new(&launch.spec, &launch.rootfs, &launch.maps)?;
    rootfs::check(&launch.rootfs)?;
    let joined = birth::Open::new(&plan)?;
    if !launch.network.is_shared_alive()? {
        return Err(NetworkError::Gone.into());
    }
    let states = StateRoot::open_default()?;
    let place = plan.resources.as_ref().map(|r| Place::find(&launch.id, r)).transpose()?;
    let mask = monitor::signals().block().map_err(outside("block signals"))?;
    let result = if launch.detach {
        detached(launch, &plan, &joined, place.as_ref(), states, &mask, notice)
    } else {
        foreground(launch, &plan, &joined, place.as_ref(), states, &mask, notice)
    };
    mask.block().map_err(outside("restore the signal mask"))?;
    result
}

fn foreground(
    launch: &Launch,
    plan: &Plan,
    joined: &birth::Open,
    place: Option<&Place>,
    states: StateRoot,
    mask: &SignalSet,
    notice: &mut dyn FnMut(&str),
) -> Result<u8> {
    let mut record = Record::reserve(states, launch)?;
    let started = start(launch, plan, joined, place, &mut record, mask, notice);
    let result = started.and_then(|started| {
        let relay = started.master.map(Relay::interactive).transpose();
        let relay = relay.map_err(outside("use the terminal"))?;
        record.sweep_others();
        let code = monitor::wait_for(&started.init.pidfd, relay);
        started.around.end();
        let code = code.map_err(outside("wait for the container"))?;
        let kills = started.cgroup.map_or(0, |cgroup| cgroup.oom_kills());
        oom::note(kills, code, plan).iter().for_each(|note| notice(note));
        Ok(code)
    });
    let removed = record.remove();
    let code = result?;
    if let Err(error) = removed {
        // It ran all the same, and its code is what the caller waits for.
        notice(&format!("the container's record stays: {}", chain(&error)));
    }
    Ok(code)
}

/// A container whose command runs.
struct Started {
    init: Child,
    cgroup: Option<Cgroup>,
    master: Option<OwnedFd>,
    around: Around,
}

/// What has to end when the init has ended.
struct Around {
    helpers: Helpers,
    /// Of a container in a process namespace that is not its own.
    mark: Option<Mark>,
}

impl Around {
    fn end(self) {
        drop(self.helpers);
        if let Some(mark) = self.mark {
            mark.end_all();
        }
    }
}

/// From the plan to a command that runs, its record written. On failure nothing is left but the
/// record.
fn start(
    launch: &Launch,
    plan: &Plan,
    joined: &birth::Open,
    place: Option<&Place>,
    record: &mut Record,
    mask: &SignalSet,
    notice: &mut dyn FnMut(&str),
) -> Result<Started> {
    let (ours, theirs) = fdpass::pair().map_err(outside("make a socket"))?;
    let cgroup = place.map(|place| make_cgroup(place, plan, record)).transpose()?.flatten();
    let dir = cgroup.as_ref().map(Cgroup::dir);
    let awaits_go = launch.network.has_helpers();
    let init = birth::init(plan, joined, dir, || init::run(plan, &theirs, mask, awaits_go))?;
    drop(theirs);
    let mut made = Vec::new();
    let course = Course { launch, plan, mask };
    let result = set_up(course, record, &init, &ours, notice, &mut made);
    drop(ours);
    match result {
        Ok((master, around)) => Ok(Started { init, cgroup, master, around }),
        Err(error) => {
            if error.is_some() {
                // When the outside failed, the inside may be well on its way.
                let _ = signal::send(&init.pidfd, libc::SIGKILL);
            }
            let code = wait::wait(&init.pidfd).map_err(outside("wait for the init"))?;
            if !made.is_empty()
                && let Ok(Some(_held)) = record.lock_if_alone()
            {
                tidy::remove_made(&launch.rootfs, &made);
            }
            Err(rootfs::name_bundle(error.unwrap_or(RunError::InitDied(code)), &launch.rootfs))
        }
    }
}

/// The container's cgroup with its limits, in the record before it is there.
fn make_cgroup(place: &Place, plan: &Plan, record: &mut Record) -> Result<Option<Cgroup>> {
    let Some(resources) = &plan.resources else { return Ok(None) };
    record.has_cgroup(place.path())?;
    Ok(Some(place.create(resources)?))
}

/// What a start goes by.
#[derive(Clone, Copy)]
struct Course<'a> {
    launch: &'a Launch,
    plan: &'a Plan,
    /// The signals that programs start with blocked.
    mask: &'a SignalSet,
}

/// The outside's part of the handshake; the terminal's master. `Err(None)` when the inside ended
/// without a word. In `made` come the paths that the inside had to make in the root filesystem.
fn set_up(
    course: Course<'_>,
    record: &mut Record,
    init: &Child,
    socket: &OwnedFd,
    notice: &mut dyn FnMut(&str),
    made: &mut Vec<PathBuf>,
) -> std::result::Result<(Option<OwnedFd>, Around), Option<RunError>> {
    let Course { launch, plan, mask } = course;
    if !plan.joins(CloneFlags::CLONE_NEWUSER) {
        let by_helpers = matches!(launch.maps.writer, MapWriter::Helpers { .. });
        launch.maps.install(init.pid).map_err(|source| RunError::Maps { by_helpers, source })?;
    }
    launch.network.write_files().map_err(RunError::Network)?;
    tell(handshake::send_mapped(socket))?;
    // Meanwhile it sets itself up.
    let attaching = network::start(&launch.network, init.pid, mask).map_err(RunError::Network)?;
    record.keep_config(&launch.spec).map_err(RunError::State)?;
    let helpers = attaching.finish(notice).map_err(RunError::Network)?;
    if launch.network.has_helpers() {
        tell(handshake::send_go(socket))?;
    }
    let mut master = None;
    let mut main = None;
    while let Some((message, fd)) =
        handshake::receive(socket).map_err(outside("hear from the init"))?
    {
        match (message, fd) {
            (Message::Notice(text), _) => notice(&text),
            (Message::Made(path), _) => made.push(path),
            (Message::Failed(failure), _) => return Err(Some(RunError::Inside(failure))),
            (Message::Terminal, Some(fd)) => {
                master = Some(fd);
            }
            (Message::Main, Some(fd)) => {
                main = Some(handshake::pid_of(fd).map_err(outside("identify the command"))?);
            }
            (Message::Started | Message::Terminal | Message::Main | Message::Init, _) => {}
        }
    }
    let main = main.ok_or(None)?;
    let is_guest = plan.joins(CloneFlags::CLONE_NEWPID);
    let mark = if is_guest { Mark::of(main) } else { None };
    record.running(init.pid, main).map_err(RunError::State)?;
    Ok((master, Around { helpers, mark }))
}

/// The result of saying a word to the inside.
fn tell(sent: ctsys::error::Result<()>) -> Result<()> {
    match sent {
        // It has failed already and says why.
        Err(error) if error.errno() == Errno::EPIPE => Ok(()),
        other => other.map_err(outside("talk to the init")),
    }
}

/// Starts the monitor and waits until it says that the command runs.
fn detached(
    launch: &Launch,
    plan: &Plan,
    joined: &birth::Open,
    place: Option<&Place>,
    states: StateRoot,
    mask: &SignalSet,
    notice: &mut dyn FnMut(&str),
) -> Result<u8> {
    let (ours, theirs) = fdpass::pair().map_err(outside("make a socket"))?;
    let monitor = clone::spawn(CloneFlags::empty(), move || {
        match monitor_start(launch, plan, joined, place, states, mask, &theirs) {
            Ok(running) => running.watch(theirs),
            Err(error) => {
                let failure = Failure {
                    what: chain(&error),
                    errno: 0,
                    hint: error.hint(),
                    code: error.exit_code(),
                };
                // A launcher that is gone needs no reason.
                let _ = handshake::send(&theirs, &Message::Failed(failure), None);
                125
            }
        }
    })
    .map_err(outside("start the monitor"))?;
    while let Some((message, _)) =
        handshake::receive(&ours).map_err(outside("hear from the monitor"))?
    {
        match message {
            Message::Notice(text) => notice(&text),
            Message::Failed(failure) => {
                wait::wait(&monitor.pidfd).map_err(outside("wait for the monitor"))?;
                return Err(RunError::Inside(failure));
            }
            Message::Started => return Ok(0),
            Message::Made(_) | Message::Terminal | Message::Main | Message::Init => {}
        }
    }
    let code = wait::wait(&monitor.pidfd).map_err(outside("wait for the monitor"))?;
    Err(RunError::MonitorDied(code))
}

/// A detached container whose command runs, as its monitor has it.
struct Detached {
    init: Child,
    cgroup: Option<Cgroup>,
    record: Record,
    relay: Relay,
    around: Around,
}

/// The monitor's part until the command runs.
fn monitor_start(
    launch: &Launch,
    plan: &Plan,
    joined: &birth::Open,
    place: Option<&Place>,
    states: StateRoot,
    mask: &SignalSet,
    socket: &OwnedFd,
) -> Result<Detached> {
    // What the caller's shell has open must not stay so for as long as the container runs.
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut keep = vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), socket.as_fd()];
    keep.extend(joined.fds());
    isolate::close_all_but(&keep).map_err(outside("close descriptors"))?;
    // Until the command runs, the caller's end is this one's: nobody would be told.
    die_with_parent(Some(Signal::SIGKILL))?;
    setsid().call("setsid", String::new).map_err(outside("start a session"))?;
    chdir("/").call("chdir", || "\"/\"".into()).map_err(outside("leave the directory"))?;
    let mut record = Record::reserve(states, launch)?;
    let log =
        Log::create(record.dir(), launch.log_bytes).map_err(outside("open the container's log"))?;
    if launch.remove {
        record.offer_exit_code()?;
    }
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .call("open", || "\"/dev/null\"".into())
        .map_err(outside("open the null device"))?;
    let (reader, writer) = output_pipe().map_err(outside("make a pipe"))?;
    // The container inherits these; the monitor itself then writes nowhere.
    redirect(&null, &writer).map_err(outside("redirect the standard streams"))?;
    drop(writer);
    let mut notice = |text: &str| {
        let _ = handshake::send(socket, &Message::Notice(text.into()), None);
    };
    let started = match start(launch, plan, joined, place, &mut record, mask, &mut notice) {
        Ok(started) => started,
        Err(error) => {
            record.remove()?;
            return Err(error);
        }
    };
    redirect(&null, &null).map_err(outside("redirect the standard streams"))?;
    let relay = match started.master {
        Some(master) => Relay::terminal_to_log(master, log),
        None => Relay::pipe_to_log(reader, log),
    };
    let relay = relay.map_err(outside("take the container's output"))?;
    die_with_parent(None)?;
    Ok(Detached {
        init: started.init,
        cgroup: started.cgroup,
        record,
        relay,
        around: started.around,
    })
}

impl Detached {
    /// The monitor's part from then on: says so on `socket`, waits, records the end. Returns its
    /// own exit code, which nobody asks for.
    fn watch(mut self, socket: OwnedFd) -> u8 {
        let told = handshake::send(&socket, &Message::Started, None);
        drop(socket);
        self.record.sweep_others();
        if told.is_err() {
            // Nobody was told that there is a container: there is to be none.
            let _ = signal::send(&self.init.pidfd, libc::SIGKILL);
        }
        let code = monitor::wait_for(&self.init.pidfd, Some(self.relay)).unwrap_or(125);
        self.around.end();
        if self.cgroup.is_some_and(|cgroup| cgroup.oom_kills() > 0) {
            self.record.oom_killed();
        }
        let recorded = if told.is_ok() { self.record.ended(code) } else { self.record.remove() };
        u8::from(recorded.is_err())
    }
}

fn die_with_parent(signal: Option<Signal>) -> Result<()> {
    prctl::set_pdeathsig(signal)
        .call("prctl", || format!("PR_SET_PDEATHSIG, {signal:?}"))
        .map_err(outside("tie the monitor to its launcher"))
}

/// What the container writes to. Any user inside may open it anew, as programs do that know of
/// `/dev/stdout` only; nobody needs to read there.
fn output_pipe() -> ctsys::error::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).call("pipe2", || "O_CLOEXEC".into())?;
    let write_only = Mode::from_bits_truncate(0o222);
    fchmod(&writer, write_only).call("fchmod", || "pipe, 0222".into())?;
    Ok((reader, writer))
}

fn redirect(input: impl AsFd, output: impl AsFd) -> ctsys::error::Result<()> {
    dup2_stdin(input).call("dup2", || "0".into())?;
    dup2_stdout(&output).call("dup2", || "1".into())?;
    dup2_stderr(&output).call("dup2", || "2".into())
}

fn outside(step: &'static str) -> impl FnOnce(SysError) -> RunError {
    move |source| RunError::Outside { step, source }
}
