//! A cgroup of version 2 that is delegated to a user, on a machine that may show another layout.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::process::Command;

use serde_json::json;
use testkit::programs::{Finished, Run};

use super::common::{As, unique};
use super::container::Container;

/// A mount namespace that shows version 2 alone, as most hosts have it; then the arguments.
pub(crate) const UNIFIED: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";

/// In that namespace, a cgroup `$1` that is the user `$2`'s as systemd delegates one, and `$3` of the
/// root's controllers in it; then the rest of the arguments in it, alone.
const DELEGATED: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup || exit 99
    [ -z \"$3\" ] || echo \"$3\" >cgroup.subtree_control || exit 99
    mkdir -p $1 && setfattr -n user.delegate -v 1 $1 || exit 99
    chown $2 $1 $1/cgroup.procs $1/cgroup.subtree_control || exit 99
    echo $$ >$1/cgroup.procs || exit 99
    cd - >/dev/null; shift 3; exec \"$@\"";

/// A container's user with a delegated cgroup, removed at the end.
pub(crate) struct Delegated {
    pub(crate) container: Container,
    pub(crate) cgroup: String,
    /// As `cgroup.subtree_control` takes them.
    pub(crate) controllers: &'static str,
}

impl Delegated {
    pub(crate) fn new(who: As) -> Self {
        Self { container: Container::new(who), cgroup: unique("delegated"), controllers: "" }
    }

    fn uid(&self) -> String {
        match &self.container.who {
            As::Root => "0".into(),
            As::User(user) => user.uid().to_string(),
        }
    }

    /// `inner`, in the cgroup.
    pub(crate) fn inside(&self, inner: &Command) -> Command {
        let mut outer = unshared(DELEGATED);
        outer.args([&self.cgroup, &self.uid(), self.controllers]);
        wrap(outer, inner)
    }

    pub(crate) fn minirun(&self, args: &[&str]) -> Finished {
        Run::new(self.inside(&self.container.command(args))).finish()
    }

    /// What the hierarchy has below the delegated cgroup, a path a line.
    pub(crate) fn left(&self) -> String {
        let find = format!("cd /sys/fs/cgroup/{} && find . -mindepth 1 -type d", self.cgroup);
        root_sh(&find).stdout_text()
    }

    /// A config.json whose cgroup can have no cgroups below it, and a namespace that begins there.
    pub(crate) fn configure(&self, resources: serde_json::Value) {
        self.container.configure(|config| {
            config["linux"]["resources"] = resources;
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|n| n["type"] != "cgroup");
            namespaces.push(json!({"type": "cgroup"}));
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|m| m["destination"] != "/sys/fs/cgroup");
            mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
                "source": "cgroup", "options": ["ro"]}));
        });
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        root_sh(&format!(
            "cd /sys/fs/cgroup && find {} -depth -type d -exec rmdir {{}} +",
            self.cgroup
        ));
    }
}

pub(crate) fn unshared(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]);
    command
}

pub(crate) fn wrap(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    outer.envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    outer.current_dir(inner.get_current_dir().unwrap());
    outer
}

pub(crate) fn root_sh(script: &str) -> Finished {
    let mut command = unshared(UNIFIED);
    command.args(["sh", "-c", script]);
    Run::new(command).finish()
}
