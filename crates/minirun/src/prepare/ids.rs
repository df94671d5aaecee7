//! Which ids the container has: those that the root filesystem was unpacked with, or those that
//! were asked for and the caller may have.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ctsys::idmap::{IdMaps, IdRange, MapWriter, covers};
use ctsys::record::Ownership;
use oci_spec::runtime::Spec;

use super::{Error, Place, Result};
use crate::caller::Caller;
use crate::config;
use crate::config::ids::IdChoice;
use crate::config::value::BadValue;

/// Entries of a root directory that are looked at for their owner: an image has some twenty.
const MAX_OWNERS_LOOKED_AT: usize = 256;

/// The ids of this run; `None` when nothing was asked for.
pub(super) fn asked_for(
    choice: &IdChoice,
    place: &mut Place,
    caller: &Caller,
) -> Result<Option<IdMaps>> {
    if let IdChoice::Maps { uids, gids } = choice {
        return by_hand(uids, gids, caller).map(Some);
    }
    let Some((uid, gid)) = kept(choice, caller) else { return Ok(None) };
    if caller.uid == 0 {
        return Err(Error::Value(BadValue::new(
            "userns",
            "keep-id",
            "root keeps all of its ids anyway",
            "leave it out, or call minirun as the user whom the container is for",
        )));
    }
    Ok(Some(usual(place, caller)?.keeping(uid, gid)))
}

/// The caller's user and group inside, where they are to be kept.
pub(super) fn kept(choice: &IdChoice, caller: &Caller) -> Option<(u32, u32)> {
    match choice {
        IdChoice::Keep { uid, gid } => Some((uid.unwrap_or(caller.uid), gid.unwrap_or(caller.gid))),
        IdChoice::Usual | IdChoice::Maps { .. } => None,
    }
}

/// Root's containers have all ids as they are, in a user namespace all the same. Another caller's
/// have those that the root filesystem was unpacked with. One that came without a record has the
/// caller's id only, unless something in it belongs to a subordinate id.
pub(super) fn usual(place: &mut Place, caller: &Caller) -> Result<IdMaps> {
    if caller.uid == 0 {
        return Ok(caller.own_maps());
    }
    let single = || IdMaps::single(caller.uid, caller.gid);
    let ownership = place.image.as_ref().map(|image| image.ownership);
    match ownership {
        Some(Ownership::Single) => return Ok(single()),
        Some(Ownership::Root) => {
            let rootfs = &place.rootfs;
            place.note =
                Some(format!("{rootfs:?} was unpacked by root: inside, its files are nobody's"));
            return Ok(single());
        }
        Some(Ownership::Subuid) | None => {}
    }
    let subordinate = IdMaps::subordinate(caller.uid, caller.gid).map_err(Error::Subordinate)?;
    match (ownership, subordinate) {
        (Some(_), Some(maps)) => Ok(maps),
        (Some(_), None) => Err(Error::NoSubordinate { rootfs: place.rootfs.clone() }),
        (None, Some(maps)) if has_subordinate_owner(&place.rootfs, &maps, caller.uid) => Ok(maps),
        (None, _) => Ok(single()),
    }
}

/// The ids of a configuration that minirun did not generate, or generated with other ids.
pub(super) fn of_config(spec: &Spec, caller: &Caller) -> Result<Option<IdMaps>> {
    match config::maps_of(spec, caller, None) {
        Some(maps) => Ok(Some(maps)),
        None => Ok(IdMaps::subordinate(caller.uid, caller.gid)
            .map_err(Error::Subordinate)?
            .and_then(|granted| config::maps_of(spec, caller, Some(granted.writer)))),
    }
}

/// A user may map the own ids, and those that are granted by the set-uid helpers; told here, since
/// of those helpers' refusal little can be learnt.
fn by_hand(uids: &[IdRange], gids: &[IdRange], caller: &Caller) -> Result<IdMaps> {
    let maps = |writer| IdMaps { uids: uids.into(), gids: gids.into(), writer };
    if caller.uid == 0 {
        return Ok(maps(MapWriter::Privileged));
    }
    let only_own = |map: &[IdRange], own| matches!(map, [r] if r.outside == own && r.count == 1);
    if only_own(uids, caller.uid) && only_own(gids, caller.gid) {
        return Ok(maps(MapWriter::Direct));
    }
    let granted = IdMaps::subordinate(caller.uid, caller.gid).map_err(Error::Subordinate)?;
    let granted = granted.unwrap_or_else(|| IdMaps::single(caller.uid, caller.gid));
    refuse_foreign("uidmap", "user", uids, &granted.uids)?;
    refuse_foreign("gidmap", "group", gids, &granted.gids)?;
    match granted.writer {
        // One map is the own id alone, so the other is: but in several lines.
        MapWriter::Direct => Err(Error::Value(BadValue::new(
            "uidmap",
            &shown(uids.first()),
            "one id cannot be mapped more than once",
            "map the own user and the own group, each once",
        ))),
        writer => Ok(maps(writer)),
    }
}

fn refuse_foreign(
    option: &'static str,
    kind: &str,
    wanted: &[IdRange],
    granted: &[IdRange],
) -> Result<()> {
    let Some(foreign) = wanted.iter().find(|range| !covers(granted, **range)) else {
        return Ok(());
    };
    let ranges: Vec<_> = granted.iter().map(|r| format!("{}:{}", r.outside, r.count)).collect();
    let problem = format!("not all of its {kind} ids outside are the caller's own or granted");
    let hint = format!(
        "the caller may map these (first id:count): {}; more are granted in /etc/sub{}",
        ranges.join(", "),
        if kind == "user" { "uid" } else { "gid" },
    );
    Err(Error::Value(BadValue::new(option, &shown(Some(foreign)), problem, hint)))
}

fn shown(range: Option<&IdRange>) -> String {
    range.map(|r| format!("{}:{}:{}", r.inside, r.outside, r.count)).unwrap_or_default()
}

fn has_subordinate_owner(rootfs: &Path, maps: &IdMaps, own: u32) -> bool {
    let is_subordinate = |path: &Path| {
        let owner = fs::symlink_metadata(path).map_or(own, |meta| meta.uid());
        let holds = |r: &IdRange| owner.checked_sub(r.outside).is_some_and(|above| above < r.count);
        owner != own && maps.uids.iter().any(holds)
    };
    let entries = fs::read_dir(rootfs).into_iter().flatten().flatten().take(MAX_OWNERS_LOOKED_AT);
    is_subordinate(rootfs) || entries.map(|entry| entry.path()).any(|path| is_subordinate(&path))
}
