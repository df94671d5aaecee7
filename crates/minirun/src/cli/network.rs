//! The options about networks and shared namespaces.

use std::net::IpAddr;
use std::path::Path;

use clap::Args;

use crate::config::network::{HostLine, Net, NetworkOptions, Publish, pid_of_container};

/// The variable that says the default of `--net`.
pub(super) const NET_VARIABLE: &str = "MINIRUN_NET";

/// Network options, as typed.
#[derive(Debug, Args)]
pub(super) struct NetworkArgs {
    /// Network: none, host, pasta, slirp4netns, container:NAME or ns:PATH [default: the config's,
    /// else $MINIRUN_NET, else pasta or slirp4netns where one works, else none]
    #[arg(long, visible_alias = "network", value_name = "NET")]
    net: Option<Net>,
    /// Share the process namespace of a container: container:NAME
    #[arg(long, value_name = "NAME", value_parser = pid_of_container)]
    pid: Option<String>,
    /// Publish a port of the container's here by pfwd, on the loopback addresses unless IP is given
    #[arg(short, long, value_name = "[IP:]HOST:CONTAINER")]
    publish: Vec<Publish>,
    /// Add a line to the container's /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<HostLine>,
    /// Name server, in place of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
}

impl NetworkArgs {
    /// As it is meant. `dir` is the caller's directory.
    pub(super) fn into_options(self, dir: &Path) -> NetworkOptions {
        let net = self.net.map(|net| match net {
            Net::Path(path) => Net::Path(dir.join(path)),
            other => other,
        });
        NetworkOptions {
            net,
            pid: self.pid,
            publish: self.publish,
            hosts: self.add_host,
            dns: self.dns,
        }
    }
}
