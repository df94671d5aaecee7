//! Connects a container's network namespace and publishes its ports, from outside, while the
//! container sets itself up.

use std::path::Path;

use ctsys::SysError;
use ctsys::error::Context;
use ctsys::signal::SignalSet;
use nix::sys::prctl;

use super::files::{ADDRESS, FORWARDER, GATEWAY, NETMASK_BITS};
use super::helper::{self, Helper, Ready, Starting};
use super::{Connection, Kind, Network, NetworkError, Program, Result, without};

/// What works for a container from outside, for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Helpers(#[allow(dead_code, reason = "dropped for its effect")] Vec<Helper>);

/// Helpers that are on their way.
pub(crate) struct Attaching<'a> {
    network: &'a Network,
    init: i32,
    mask: &'a SignalSet,
    /// The first of the programs.
    connecting: Option<Starting>,
    publishing: Option<Starting>,
}

/// Starts what `network` asks for, for the container whose init is `init`: its ids are mapped, and it
/// is open to its owner until all of this has [finished](Attaching::finish).
pub(crate) fn start<'a>(
    network: &'a Network,
    init: i32,
    mask: &'a SignalSet,
) -> Result<Attaching<'a>> {
    // A helper is looked for in PATH: where minirun runs in a container it may be the image's, and
    // would reach the host's file through its parent's /proc/PID/exe (CVE-2019-5736).
    if network.has_helpers() {
        prctl::set_dumpable(false)
            .call("prctl", || "PR_SET_DUMPABLE, 0".into())
            .map_err(sys("hide from helpers"))?;
    }
    let mut attaching = Attaching { network, init, mask, connecting: None, publishing: None };
    if let Some(first) = network.programs().first() {
        attaching.connecting = Some(first.start(init, mask)?);
    }
    if let Some((program, ports)) = &network.publish {
        attaching.publishing = Some(publish(program, ports, init, mask)?);
    }
    Ok(attaching)
}

impl Attaching<'_> {
    /// Waits until all are ready. Where nothing could connect the namespace though nothing was asked
    /// for, `notice` is told, and the container's files say so.
    pub(crate) fn finish(mut self, notice: &mut dyn FnMut(&str)) -> Result<Helpers> {
        let mut helpers = Helpers::default();
        let mut reasons = Vec::new();
        for program in self.network.programs() {
            let starting = match self.connecting.take() {
                Some(starting) => starting,
                None => program.start(self.init, self.mask)?,
            };
            match starting.finish(|told| !told.is_empty()).map_err(sys("hear from a helper"))? {
                Ok((helper, _)) => {
                    helpers.0.push(helper);
                    break;
                }
                Err(said) => reasons.push((program.kind.name(), reason(&said))),
            }
        }
        if helpers.0.is_empty() && !reasons.is_empty() {
            self.unconnected(reasons, notice)?;
        }
        if let (Some(publishing), Some((_, ports))) =
            (self.publishing.take(), &self.network.publish)
        {
            helpers.0.push(published(publishing, ports, notice)?);
        }
        Ok(helpers)
    }

    fn unconnected(
        &self,
        mut reasons: Vec<(&'static str, String)>,
        notice: &mut dyn FnMut(&str),
    ) -> Result<()> {
        if matches!(self.network.connection, Connection::By { required: true, .. })
            && let Some((program, reason)) = reasons.pop()
        {
            return Err(NetworkError::Refused { program, reason });
        }
        let reasons: Vec<_> = reasons.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        notice(&without(&reasons.join("; ")));
        self.network.files.as_ref().map_or(Ok(()), |files| files.write(false))
    }
}

impl Network {
    fn programs(&self) -> &[Program] {
        match &self.connection {
            Connection::By { programs, .. } => programs,
            Connection::None => &[],
        }
    }
}

impl Program {
    fn start(&self, init: i32, mask: &SignalSet) -> Result<Starting> {
        let args = match self.kind {
            Kind::Pasta => pasta(init),
            Kind::Slirp4netns => slirp4netns(init),
        };
        helper::start(&self.path, &args, Ready::Input, mask).map_err(sys("start a helper"))
    }
}

/// Nothing is published, neither way (`none` four times), nor is the gateway the host's loopback
/// (`--no-map-gw`). In the foreground it has no daemon of its own that could outlive it; the pid file
/// is written once all is set up.
fn pasta(init: i32) -> Vec<String> {
    let init = init.to_string();
    let mut args = vec!["-f", "-q", "-t", "none", "-u", "none", "-T", "none", "-U", "none"];
    args.extend(["--config-net", "--no-map-gw", "--dns-forward", FORWARDER]);
    args.extend(["-a", ADDRESS, "-n", NETMASK_BITS, "-g", GATEWAY, "-I", "eth0"]);
    args.extend(["-P", "/proc/self/fd/0"]);
    if nix::unistd::geteuid().is_root() {
        // As nobody, which it becomes else, it could not join root's user namespace.
        args.extend(["--runas", "0:0"]);
    }
    args.push(&init);
    args.into_iter().map(str::to_owned).collect()
}

fn slirp4netns(init: i32) -> Vec<String> {
    let init = init.to_string();
    let args = [
        "--configure",
        "--mtu=65520",
        "--disable-host-loopback",
        "--enable-sandbox",
        "--enable-seccomp",
        "--ready-fd=0",
        &init,
        "eth0",
    ];
    args.map(str::to_owned).into()
}

fn publish(program: &Path, ports: &[String], init: i32, mask: &SignalSet) -> Result<Starting> {
    // By number: the container's name leads nowhere before its command runs.
    let args: Vec<_> =
        std::iter::once(format!("pid:{init}")).chain(ports.iter().cloned()).collect();
    helper::start(program, &args, Ready::Errors, mask).map_err(sys("start pfwd"))
}

/// Ready when a line for each port is there. Where it chose one, the user has to know.
fn published(
    publishing: Starting,
    ports: &[String],
    notice: &mut dyn FnMut(&str),
) -> Result<Helper> {
    let forwarded = |line: &&str| line.starts_with("forwarding ");
    let is_ready = |told: &str| told.lines().filter(forwarded).count() >= ports.len();
    match publishing.finish(is_ready).map_err(sys("hear from pfwd"))? {
        Ok((helper, told)) => {
            let chosen = told.lines().filter(forwarded).zip(ports);
            for (line, _) in chosen.filter(|(_, port)| port.starts_with(':')) {
                // `forwarding 127.0.0.1:40123 and [::1]:40123 -> pid:7:80`
                let (local, target) = line.split_once(" -> ").unwrap_or((line, ""));
                let port = target.rsplit(':').next().unwrap_or_default();
                let local = local.trim_start_matches("forwarding ");
                notice(&format!("port {port} is published on {local}"));
            }
            Ok(helper)
        }
        Err(said) => {
            let line = |prefix: &str| said.lines().find_map(|l| l.strip_prefix(prefix));
            let reason = line("pfwd: ").map_or_else(|| reason(&said), str::to_owned);
            Err(NetworkError::Publish { reason, hint: line("hint: ").map(str::to_owned) })
        }
    }
}

/// Of what a helper said, the line that most likely is the reason: the last.
fn reason(said: &str) -> String {
    let lines = said.lines().map(str::trim);
    // pasta's own trouble with a system log that is not there.
    let mut lines = lines.filter(|line| !line.is_empty() && !line.ends_with("to syslog"));
    lines.next_back().unwrap_or("it ended without a word").to_owned()
}

fn sys(step: &'static str) -> impl Fn(SysError) -> NetworkError {
    move |source| NetworkError::Sys { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_is_the_reason() {
        let said = "Failed to send 42 bytes to syslog\nNo routable interface\nnot usable\n\n";
        assert_eq!(reason(said), "not usable");
        assert_eq!(reason("\n"), "it ended without a word");
    }
}
