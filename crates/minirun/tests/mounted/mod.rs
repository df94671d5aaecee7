//! A caller whose view of the bundle root has changed before.

use std::process::Command;

use testkit::programs::{Finished, Run};

use crate::container::Container;

/// Runs it where root has first mounted something, in a mount namespace of the test's own: `mount` is
/// a script in the bundle's directory.
pub(crate) fn after_mounting(c: &Container, mount: &str, args: &[&str]) -> Finished {
    let inner = c.command(args);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(&c.bundle);
    command.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    Run::new(command).finish()
}
