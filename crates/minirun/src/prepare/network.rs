//! The network of a run: what was asked for, by flag, environment or default, put into its
//! configuration.

use std::path::Path;

use ctsys::idmap::IdMaps;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{Result, RunOptions};
use crate::config::network::{self as config, Net};
use crate::network::{self, Default, Network, NetworkError, Shared};

/// What is to be shared with another container, and the maps that the container then has: the other's
/// where the user namespace is shared, which must hold `own`.
pub(super) fn shared(options: &RunOptions, own: IdMaps) -> Result<(Option<Shared>, IdMaps)> {
    let shared = Shared::find(&options.network)?;
    let theirs = shared.as_ref().map(|shared| shared.maps(&own)).transpose()?.flatten();
    Ok((shared, theirs.unwrap_or(own)))
}

/// What was asked for.
pub(super) struct Asked<'a> {
    pub(super) options: &'a RunOptions,
    pub(super) name: &'a str,
    /// Whether the configuration is minirun's, so that there is a default.
    pub(super) is_generated: bool,
}

/// Decides the network and changes `spec` for it.
pub(super) fn decide(
    asked: Asked<'_>,
    rootfs: &Path,
    shared: Option<Shared>,
    spec: &mut Spec,
    notes: &mut Vec<String>,
) -> Result<Network> {
    let options = asked.options;
    let of_caller = of_environment(options).filter(|_| asked.is_generated).transpose()?;
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let has_namespace =
        namespaces.is_some_and(|all| all.iter().any(|n| n.typ() == LinuxNamespaceType::Network));
    let hostname = options.overrides.hostname.as_ref().or(spec.hostname().as_ref());
    let inputs = network::Inputs {
        options: &options.network,
        default: match &of_caller {
            Some(net) => Some(Default::Net(net)),
            None => asked.is_generated.then_some(Default::WhatWorks),
        },
        has_namespace,
        rootfs,
        id: asked.name,
        hostname: hostname.map_or("", String::as_str),
    };
    let (network, changes) = network::decide(&inputs, shared, notes)?;
    config::apply(spec, &changes);
    Ok(network)
}

/// The default that the caller's environment says, if it is asked. Containers to share are named one
/// by one.
fn of_environment(options: &RunOptions) -> Option<Result<Net>> {
    let text = options.default_net.as_ref().filter(|_| options.network.net.is_none())?;
    Some(match text.parse() {
        Ok(Net::Container(_) | Net::Path(_)) | Err(_) => {
            Err(NetworkError::Variable(text.clone()).into())
        }
        Ok(net) => Ok(net),
    })
}
