//! What is to be run: the meeting point of configuration and runtime.
//!
//! `config` ends in a [`Launch`]; everything from `plan` on starts from one.

use std::path::PathBuf;

use ctsys::idmap::IdMaps;
use oci_spec::runtime::Spec;

use crate::network::Network;

/// The bound of a container's log when nobody says: the state directory usually lies in memory.
pub const DEFAULT_LOG_BYTES: u64 = 8 << 20;
/// The smallest bound, two pages: less is no log.
pub const MIN_LOG_BYTES: u64 = 8 << 10;

/// One run of one container, fully decided: the flags are applied, the user is looked up.
#[derive(Debug)]
pub struct Launch {
    /// Unique among the caller's containers.
    pub id: String,
    /// What the user calls it: the same, as a name is taken only once.
    pub name: String,
    /// Absolute path of the bundle. Without one, the container's state directory, where its
    /// generated config.json lies.
    pub bundle: PathBuf,
    /// Absolute path of the root filesystem.
    pub rootfs: PathBuf,
    /// The configuration, as config.json has it or would have it, with this run's flags applied.
    pub spec: Spec,
    /// The user namespace's maps. For a config that minirun did not generate, as it says.
    pub maps: IdMaps,
    /// What connects it, beside the namespaces that the configuration says.
    pub network: Network,
    /// Stay in the background once the command runs.
    pub detach: bool,
    /// Leave nothing behind, also in the background.
    pub remove: bool,
    /// The bound of the log of a container in the background, in bytes.
    pub log_bytes: u64,
    /// Ports that the image says it serves, as in its config: `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// The signal that asks the command to stop; SIGTERM without one.
    pub stop_signal: Option<String>,
}
