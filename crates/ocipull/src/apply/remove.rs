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
    let record = place.record_name();
    let failed = |e| place.failed("remove", e);
    // Both go in one turn, so that it is never the record of a tree that another run puts here
    // meanwhile.
    let turn = place.take_turn()?;
    let found = place.look()?;
    let has_record = rootdir::stat_at(place.parent(), &record).map_err(failed)?.is_some();
    match (found, has_record) {
        (Found::Nothing, false) => return Err(ApplyError::Missing { dest: dest.into() }),
        (_, false) => return Err(ApplyError::NoRecord { dest: dest.into() }),
        (Found::Nothing, true) => rootdir::unlink_at(place.parent(), &record).map_err(failed)?,
        (Found::EmptyDir | Found::FullDir, true) => {
            place.refuse_mounts()?;
            let (tree_aside, record_aside) = (place.fresh_name(""), place.fresh_name(".old.json"));
            // Aside first: at no moment is there a record of half a tree.
            rootdir::rename_at(place.parent(), place.name(), &tree_aside).map_err(failed)?;
            let moved = rootdir::rename_at(place.parent(), &record, &record_aside);
            drop(turn);
            if let Err(error) = moved.and_then(|()| rootdir::remove_at(place.parent(), &tree_aside))
            {
                let _turn = place.take_turn()?;
                // Back for another try, unless another run has filled the place.
                if rootdir::rename_at(place.parent(), &tree_aside, place.name()).is_ok() {
                    let _ = rootdir::rename_at(place.parent(), &record_aside, &record);
                }
                return Err(failed(error));
            }
            match rootdir::unlink_at(place.parent(), &record_aside) {
                Err(e) if e.errno() != Errno::ENOENT => return Err(failed(e)),
                _ => {}
            }
        }
    }
    place.remove_leftovers()
}
