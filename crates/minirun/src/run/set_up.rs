//! The outside's part of a set-up: ids, helpers, the handshake, the record.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use ctsys::clone::Child;
use ctsys::idmap::MapWriter;
use ctsys::signal::SignalSet;
use nix::errno::Errno;
use nix::sched::CloneFlags;

use super::{Result, RunError, outside};
use crate::guest::Mark;
use crate::handshake::{self, Message};
use crate::launch::Launch;
use crate::network::{self, Helpers};
use crate::plan::Plan;
use crate::record::Record;
use crate::sweep;

/// What a start goes by.
#[derive(Clone, Copy)]
pub(super) struct Course<'a> {
    pub(super) launch: &'a Launch,
    pub(super) plan: &'a Plan,
    /// The signals that programs start with blocked.
    pub(super) mask: &'a SignalSet,
}

/// The outside's part of the handshake; the terminal's master. `Err(None)` when the inside ended
/// without a word. In `made` come the paths that the inside had to make in the root filesystem.
pub(super) fn set_up(
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
    // Told once there is a container that they are about.
    let mut notes = Vec::new();
    let helpers = match attaching.finish(&mut notes) {
        // It has failed already and says why; that they could not find it is no reason.
        Err(_) if has_ended(init) => Helpers::default(),
        other => other.map_err(RunError::Network)?,
    };
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
    notes.iter().for_each(|note| notice(note));
    let is_guest = plan.joins(CloneFlags::CLONE_NEWPID);
    let mark = if is_guest { Mark::of(main) } else { None };
    record.running(init.pid, main).map_err(RunError::State)?;
    Ok((master, Around { helpers, mark }))
}

fn has_ended(child: &Child) -> bool {
    sweep::ended_by(&child.pidfd, Some(Instant::now())).unwrap_or(false)
}

/// The result of saying a word to the inside.
fn tell(sent: ctsys::error::Result<()>) -> Result<()> {
    match sent {
        // It has failed already and says why.
        Err(error) if error.errno() == Errno::EPIPE => Ok(()),
        other => other.map_err(outside("talk to the init")),
    }
}

/// What has to end when the init has ended.
pub(super) struct Around {
    helpers: Helpers,
    /// Of a container in a process namespace that is not its own.
    mark: Option<Mark>,
}

impl Around {
    pub(super) fn end(self) {
        drop(self.helpers);
        if let Some(mark) = self.mark {
            mark.end_all();
        }
    }
}
