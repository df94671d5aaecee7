//! `--tmpfs DST[:OPTIONS]`: an empty directory in memory.

use super::mounts::{Added, Source, destination};
use super::value::{BadValue, octal};

/// What a tmpfs has unless its opposite is asked for: docker's and podman's.
const USUAL: [&str; 3] = ["noexec", "nosuid", "nodev"];
/// Attributes of the mount that may be asked for.
const ATTRIBUTES: [&str; 14] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "relatime",
    "strictatime",
    "nodiratime",
    "private",
    "rprivate",
];
/// Anybody may write, as in /tmp: docker's.
const USUAL_MODE: &str = "mode=1777";

/// Parses a `--tmpfs`.
pub fn parse(text: &str) -> Result<Added, BadValue> {
    let bad = |problem: String| {
        let hint = "give a path of the container's, and what tmpfs(5) takes: --tmpfs /tmp:size=64m,mode=1777";
        BadValue::new("tmpfs", text, problem, hint)
    };
    let (place, typed) = text.split_once(':').unwrap_or((text, ""));
    let place = destination(place)
        .ok_or_else(|| bad("the destination is no absolute path below /".into()))?;
    let typed: Vec<&str> = typed.split(',').filter(|option| !option.is_empty()).collect();
    match typed.iter().find(|option| !is_known(option)) {
        Some(option) => Err(bad(format!("unknown option or value {option:?}"))),
        None => Ok(added(place, &typed)),
    }
}

/// The mount at `place` with what it usually has and `typed` besides.
pub(super) fn added(place: std::path::PathBuf, typed: &[&str]) -> Added {
    let usual = USUAL.iter().copied().filter(|usual| {
        // `exec` takes `noexec` away.
        !typed.iter().any(|option| option == usual || usual.strip_prefix("no") == Some(option))
    });
    let mut options: Vec<String> = usual.map(String::from).collect();
    if !typed.iter().any(|option| option.starts_with("mode=")) {
        options.push(USUAL_MODE.into());
    }
    let is_asked = |option: &&&str| {
        **option != "rw" && !USUAL.iter().any(|u| u.strip_prefix("no") == Some(option))
    };
    options.extend(typed.iter().filter(is_asked).map(|option| (*option).to_owned()));
    Added { destination: place, source: Source::Tmpfs, options }
}

fn is_known(option: &str) -> bool {
    let Some((key, value)) = option.split_once('=') else { return ATTRIBUTES.contains(&option) };
    match key {
        "size" | "nr_blocks" | "nr_inodes" => is_count(value),
        "mode" => octal(value, 0o7777).is_some(),
        "uid" | "gid" => value.parse::<u32>().is_ok() && !value.starts_with('+'),
        _ => false,
    }
}

/// As tmpfs(5): digits with one of k, m, g, or for a size `%` of the memory.
fn is_count(value: &str) -> bool {
    let number = value.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G', '%']).unwrap_or(value);
    number.parse::<u64>().is_ok() && !number.starts_with('+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_wins_over_what_is_usual() {
        let options = |text: &str| parse(text).unwrap().options.join(",");
        assert_eq!(options("/t"), "noexec,nosuid,nodev,mode=1777");
        assert_eq!(options("/t:"), "noexec,nosuid,nodev,mode=1777");
        assert_eq!(options("/t:rw,exec,size=64m"), "nosuid,nodev,mode=1777,size=64m");
        assert_eq!(options("/t:ro,noexec,mode=700"), "nosuid,nodev,ro,noexec,mode=700");
        assert_eq!(options("/t:size=50%,uid=1,gid=2,nr_inodes=1k"), {
            "noexec,nosuid,nodev,mode=1777,size=50%,uid=1,gid=2,nr_inodes=1k"
        });
    }

    #[test]
    fn what_tmpfs_does_not_take_is_refused() {
        for text in [
            "",
            "t",
            "/",
            "/../t",
            "/t:bogus",
            "/t:size=",
            "/t:size=x",
            "/t:size=-1",
            "/t:mode=9",
            "/t:uid=a",
            "/t:tmpcopyup",
            "/t:huge=always",
            "/t:ro:rw",
        ] {
            assert!(parse(text).is_err_and(|e| e.option == "tmpfs" && e.value == text), "{text:?}");
        }
    }
}
