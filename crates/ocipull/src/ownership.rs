//! Who the unpacking process is to be, so that files can have the owners that their image says.
//!
//! - `root`: the owners themselves.
//! - `subuid`: the owners inside a user namespace that maps the user's subordinate ids; the whole
//!   program goes on in a child in there.
//! - `single`: all files are the user's, the owners are noted in an attribute.

use ctsys::SysError;
use ctsys::idmap::IdMaps;
use ctsys::record::Ownership;
use ctsys::report::Explain;
use ctsys::userns;

/// What unpacking with true owners needs: CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID
/// (capabilities(7)).
const ROOT_CAPABILITIES: [u8; 4] = [0, 1, 3, 4];

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnershipChoice {
    /// The first of `root`, `subuid` and `single` that works.
    Auto,
    /// As root or not at all.
    Root,
    /// With subordinate ids or not at all.
    Subuid,
    /// All files to the user.
    Single,
}

/// What it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// How owners are stored from here on.
    pub ownership: Ownership,
    /// Why it is not what would have been better.
    pub warning: Option<String>,
}

/// Why owners cannot be stored as asked.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// `root` was asked for by somebody else.
    #[error("ownership root needs root with the power to change owners")]
    NotRoot,
    /// `subuid` was asked for by a user without any.
    #[error("ownership subuid needs subordinate ids and the programs newuidmap and newgidmap")]
    NoSubordinateIds,
    /// The user namespace cannot be had.
    #[error("cannot enter a user namespace with the subordinate ids")]
    Namespace(#[source] SysError),
    /// The system does not say who this process is.
    #[error("cannot find out which ids may be used")]
    Unknown(#[source] SysError),
}

impl Explain for OwnershipError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotRoot => "run it as root, or leave --ownership out",
            Self::NoSubordinateIds => {
                "install uidmap and add ranges to /etc/subuid and /etc/subgid, or use --ownership single"
            }
            Self::Namespace(_) => "allow user namespaces, or use --ownership single",
            Self::Unknown(_) => "mount /proc, or use --ownership single",
        };
        Some(hint.into())
    }
}

/// Becomes who can store owners as asked. To be called first in a program, before any thread.
///
/// With `subuid` it returns in a child process, inside the user namespace; the calling process
/// passes signals on to it and exits with its code ([`userns::enter`]).
pub fn enter(choice: OwnershipChoice) -> Result<Entered, OwnershipError> {
    let quiet = |ownership| Ok(Entered { ownership, warning: None });
    match choice {
        OwnershipChoice::Single => quiet(Ownership::Single),
        OwnershipChoice::Root if is_able_root()? => quiet(Ownership::Root),
        OwnershipChoice::Root => Err(OwnershipError::NotRoot),
        OwnershipChoice::Subuid => enter_subuid().and_then(|()| quiet(Ownership::Subuid)),
        OwnershipChoice::Auto if is_able_root()? => quiet(Ownership::Root),
        OwnershipChoice::Auto => match enter_subuid() {
            Ok(()) => quiet(Ownership::Subuid),
            // A user without subordinate ids is an ordinary one; nothing failed.
            Err(OwnershipError::NoSubordinateIds) => quiet(Ownership::Single),
            Err(error) => {
                let why = ctsys::report::chain(&error);
                let warning = Some(format!("{why}; owners are kept as attributes only"));
                Ok(Entered { ownership: Ownership::Single, warning })
            }
        },
    }
}

/// Root where it means something: not with one id in a user namespace, nor stripped of its power.
fn is_able_root() -> Result<bool, OwnershipError> {
    let has_ids = || userns::mapped_ids().map(|count| count > 1);
    let has_power = || userns::has_capabilities(&ROOT_CAPABILITIES);
    if userns::effective_ids().0 != 0 {
        return Ok(false);
    }
    Ok(has_ids().map_err(OwnershipError::Unknown)?
        && has_power().map_err(OwnershipError::Unknown)?)
}

fn enter_subuid() -> Result<(), OwnershipError> {
    let (uid, gid) = userns::effective_ids();
    let maps = IdMaps::subordinate(uid, gid).map_err(OwnershipError::Unknown)?;
    let maps = maps.ok_or(OwnershipError::NoSubordinateIds)?;
    userns::enter(&maps).map_err(OwnershipError::Namespace)
}
