//! What the user is told of memory that ran out: else an exit code of 137 could be anybody's kill.

use nix::libc;

use crate::config::limits::Size;
use crate::plan::Plan;

/// The line about `kills` processes that the kernel killed in a container that ended with `code`.
pub(super) fn note(kills: u64, code: u8, plan: &Plan) -> Option<String> {
    let killed = i32::from(code) == 128 + libc::SIGKILL;
    let who = match kills {
        0 => return None,
        _ if killed => "the command was".into(),
        1 => "one process in the container was".into(),
        many => format!("{many} processes in the container were"),
    };
    let limit = plan.resources.as_ref().and_then(|resources| resources.memory_bytes);
    let why = limit.map_or_else(
        || "memory was short on the machine".into(),
        |bytes| format!("its memory is limited to {} (--memory)", Size(bytes)),
    );
    Some(format!("{who} killed by the out-of-memory killer: {why}"))
}
