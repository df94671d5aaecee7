//! A bare name: a container that minirun runs, by name, id, or the start of an id.

use ctsys::state::{ContainerState, StateError, StateRoot, Status};

use super::{Result, Target, TargetError};

/// The running container that `name` means.
pub(super) fn find(name: &str) -> Result<Target> {
    let unknown = |known| TargetError::Unknown {
        name: name.to_owned(),
        known,
        dir: StateRoot::default_dir(),
    };
    let Some(root) = StateRoot::find_default().map_err(TargetError::State)? else {
        return Err(unknown(Vec::new()));
    };
    let state = match root.find(name) {
        Ok(state) => state,
        Err(StateError::NotFound(_) | StateError::InvalidId(_)) => {
            return Err(unknown(names(&root)?));
        }
        Err(StateError::Ambiguous { name, candidates }) => {
            return Err(TargetError::Ambiguous { name, candidates });
        }
        Err(other) => return Err(TargetError::State(other)),
    };
    let status = state.live_status().map_err(TargetError::State)?;
    let not_running =
        |status: Status| TargetError::NotRunning { name: name.to_owned(), status: status.as_str() };
    // The init refuses all but root. A container made for an engine has no separate command: its
    // init is the command.
    let Some(process) = state.main.or(state.init).filter(|_| status != Status::Stopped) else {
        return Err(not_running(status));
    };
    Target::open(name, process, exposed_tcp_ports(&state))?
        .ok_or_else(|| not_running(Status::Stopped))
}

fn names(root: &StateRoot) -> Result<Vec<String>> {
    Ok(root.list().map_err(TargetError::State)?.into_iter().map(|s| s.name).collect())
}

/// `8080/tcp` and `8080` are TCP (image-spec config.md, "ExposedPorts"); others are none of ours.
fn exposed_tcp_ports(state: &ContainerState) -> Vec<u16> {
    let tcp = |text: &String| {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        port.parse().ok().filter(|&port| port != 0 && protocol == "tcp")
    };
    state.exposed_ports.iter().filter_map(tcp).collect()
}
