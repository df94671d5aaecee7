//! `--userns`, `--uidmap` and `--gidmap`: which ids a container is to have.

use ctsys::idmap::{IdRange, MAX_LINES};

use super::value::BadValue;

/// Which ids were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IdChoice {
    /// Those that the root filesystem was unpacked with, the caller being 0.
    #[default]
    Usual,
    /// The same, but the caller keeps its numbers or has these.
    Keep {
        /// The caller's user id inside; without one, as outside.
        uid: Option<u32>,
        /// The caller's group id inside; without one, as outside.
        gid: Option<u32>,
    },
    /// These.
    Maps {
        /// For users; not empty.
        uids: Vec<IdRange>,
        /// For groups; not empty.
        gids: Vec<IdRange>,
    },
}

/// Parses a `--userns`.
pub fn parse_userns(text: &str) -> Result<IdChoice, BadValue> {
    let usual = "--userns keep-id makes you the same user inside, --userns keep-id:uid=1000,gid=1000 another";
    let bad = |problem: &str, hint: &str| BadValue::new("userns", text, problem, hint);
    if text == "host" {
        let hint = "leave --userns out; for other ids see --uidmap and --gidmap";
        return Err(bad("without root there is no container in the host's user namespace", hint));
    }
    let rest = match text.strip_prefix("keep-id") {
        Some("") => return Ok(IdChoice::Keep { uid: None, gid: None }),
        Some(rest) => rest.strip_prefix(':').ok_or_else(|| bad("want keep-id", usual))?,
        None => return Err(bad("want keep-id", usual)),
    };
    let (mut uid, mut gid) = (None, None);
    for field in rest.split(',') {
        let slot = match field.split_once('=') {
            Some(("uid", _)) => &mut uid,
            Some(("gid", _)) => &mut gid,
            _ => return Err(bad("want keep-id:uid=N,gid=N", usual)),
        };
        let number = field.split_once('=').and_then(|(_, number)| id(number));
        let number = number.ok_or_else(|| bad("an id is a number up to 4294967294", usual))?;
        if slot.replace(number).is_some() {
            return Err(bad("one id is there twice", usual));
        }
    }
    Ok(IdChoice::Keep { uid, gid })
}

/// Parses all of `--uidmap` and `--gidmap`; where only one kind is there it holds for both, as with
/// podman. `None` without any.
pub fn parse_maps(uidmap: &[String], gidmap: &[String]) -> Result<Option<IdChoice>, BadValue> {
    if uidmap.is_empty() && gidmap.is_empty() {
        return Ok(None);
    }
    let map = |own: &[String], other: &[String], option| {
        parse_map(if own.is_empty() { other } else { own }, option)
    };
    let uids = map(uidmap, gidmap, "uidmap")?;
    let gids = map(gidmap, uidmap, "gidmap")?;
    Ok(Some(IdChoice::Maps { uids, gids }))
}

fn parse_map(lines: &[String], option: &'static str) -> Result<Vec<IdRange>, BadValue> {
    let mut map: Vec<IdRange> = Vec::with_capacity(lines.len());
    for text in lines {
        let bad = |problem: &str| {
            let hint = "give INSIDE:OUTSIDE:COUNT, OUTSIDE being an id of the host's: --uidmap 0:1000:1 --uidmap 1:100000:65536";
            BadValue::new(option, text, problem, hint)
        };
        let range = parse_range(text).ok_or_else(|| bad("want INSIDE:OUTSIDE:COUNT"))?;
        let end = |start: u32| start.checked_add(range.count);
        if range.count == 0 || end(range.inside).is_none() || end(range.outside).is_none() {
            return Err(bad("ids end at 4294967294, and a count is 1 or more"));
        }
        if map.iter().any(|other| overlap(*other, range)) {
            return Err(bad("it has an id that an earlier line has"));
        }
        if map.len() == MAX_LINES {
            return Err(bad("there are more than 340 lines, the kernel's limit"));
        }
        map.push(range);
    }
    Ok(map)
}

/// `IN:OUT[:COUNT]`; podman marks ids of the host's with `@`, which all are here.
fn parse_range(text: &str) -> Option<IdRange> {
    let mut parts = text.split(':');
    let (inside, outside) = (id(parts.next()?)?, parts.next()?);
    let outside = id(outside.strip_prefix('@').unwrap_or(outside))?;
    let count = parts.next().map_or(Some(1), id)?;
    parts.next().is_none().then_some(IdRange { inside, outside, count })
}

fn overlap(a: IdRange, b: IdRange) -> bool {
    let meet = |a_start: u32, b_start: u32| {
        let (a_start, b_start) = (u64::from(a_start), u64::from(b_start));
        a_start < b_start + u64::from(b.count) && b_start < a_start + u64::from(a.count)
    };
    meet(a.inside, b.inside) || meet(a.outside, b.outside)
}

/// Digits only, and not (uid_t) -1, which is nobody's.
fn id(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&id| is_number && id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn keep_id_is_podmans() {
        let keep = |uid, gid| Ok(IdChoice::Keep { uid, gid });
        assert_eq!(parse_userns("keep-id"), keep(None, None));
        assert_eq!(parse_userns("keep-id:uid=5"), keep(Some(5), None));
        assert_eq!(parse_userns("keep-id:gid=7,uid=5"), keep(Some(5), Some(7)));
        for text in [
            "",
            "host",
            "auto",
            "nomap",
            "keep-id:",
            "keep-id2",
            "keep-id:5",
            "keep-id:uid=",
            "keep-id:uid=1,uid=1",
            "keep-id:uid=-1",
            "keep-id:uid=4294967295",
            "keep-id:size=1",
        ] {
            assert!(parse_userns(text).is_err_and(|e| e.value == text), "{text:?}");
        }
    }

    #[test]
    fn maps_are_lines_of_three_numbers() {
        let range = |inside, outside, count| IdRange { inside, outside, count };
        let maps = |uids: &[&str], gids: &[&str]| parse_maps(&texts(uids), &texts(gids));
        let one = vec![range(0, 1000, 1)];
        let both = Ok(Some(IdChoice::Maps { uids: one.clone(), gids: one.clone() }));
        assert_eq!(maps(&[], &[]), Ok(None));
        assert_eq!(maps(&["0:1000:1"], &[]), both);
        assert_eq!(maps(&[], &["0:@1000"]), both);
        assert_eq!(maps(&["0:1000:1"], &["0:1:1", "1:5:2"]), {
            Ok(Some(IdChoice::Maps { uids: one, gids: vec![range(0, 1, 1), range(1, 5, 2)] }))
        });
        for (lines, option) in [
            (&["0"][..], "uidmap"),
            (&["0:1:2:3"], "uidmap"),
            (&["a:1:1"], "uidmap"),
            (&["0:1:0"], "uidmap"),
            (&["0:4294967295:1"], "uidmap"),
            (&["0:4294967294:2"], "uidmap"),
            (&["0:1:5", "4:100:1"], "uidmap"),
            (&["0:1:5", "5:3:1"], "uidmap"),
        ] {
            let error = maps(lines, &[]).unwrap_err();
            assert_eq!((error.option, error.value.as_str()), (option, lines[lines.len() - 1]));
        }
        let many: Vec<_> = (0..=340).map(|n| format!("{n}:{n}:1")).collect();
        assert!(parse_maps(&many, &[]).is_err_and(|e| e.problem.contains("340")));
    }
}
