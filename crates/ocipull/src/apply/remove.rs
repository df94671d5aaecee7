//! `ocipull rm`: a root filesystem and its record.

use std::path::Path;

use ctsys::Errno;
use ctsys::rootdir;

use super::ApplyError;
use super::place::{DestPlace, Found};

/// Removes the root filesystem at `dest` with its record, and what killed runs left beside it.
///
/// Where owners are stored in subordinate ids only a process in that user namespace may: enter it
/// first ([`crate::ownership::enter`]). A directory without a record is not an image's and stays.
pub fn remove(dest: &Path) -> Result<(), ApplyError> {
    let place = DestPlace::open(dest, false)?;
    let found = place.look()?;
    let record = place.record_name();
    let failed = |e| place.failed("remove", e);
    let has_record = rootdir::stat_at(place.parent(), &record).map_err(failed)?.is_some();
    match (found, has_record) {
        (Found::Nothing, false) => return Err(ApplyError::Missing { dest: dest.into() }),
        (_, false) => return Err(ApplyError::NoRecord { dest: dest.into() }),
        (Found::Nothing, true) => {}
        (Found::EmptyDir | Found::FullDir, true) => {
            place.refuse_mounts()?;
            // Aside first: at no moment is there a record of half a tree.
            let aside = place.fresh_name("");
            rootdir::rename_at(place.parent(), place.name(), &aside).map_err(failed)?;
            let removed = rootdir::remove_at(place.parent(), &aside);
            if let Err(error) = removed {
                let _ = rootdir::rename_at(place.parent(), &aside, place.name());
                return Err(failed(error));
            }
        }
    }
    match rootdir::unlink_at(place.parent(), &record) {
        Err(e) if e.errno() != Errno::ENOENT => return Err(failed(e)),
        _ => {}
    }
    place.remove_leftovers()
}
