//! `--mount KEY=VALUE,…`: docker's long form of a mount.

use std::path::Path;

use super::mounts::{Added, Source, destination};
use super::tmpfs;
use super::value::{BadValue, bytes, octal};
use super::volume::{PROPAGATIONS, host_path, read_only};

/// What was typed, key by key.
#[derive(Default)]
struct Typed {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    propagation: Option<String>,
    recursive: Option<String>,
    size: Option<String>,
    mode: Option<String>,
}

/// Parses a `--mount`; a relative source is one of `base`, the caller's directory.
pub fn parse(text: &str, base: &Path) -> Result<Added, BadValue> {
    let bad = |problem: String| {
        let hint = "for example: --mount type=bind,source=./src,target=/src,readonly or --mount type=tmpfs,target=/tmp,tmpfs-size=64m";
        BadValue::new("mount", text, problem, hint)
    };
    let typed = read(text).map_err(bad)?;
    let target = typed.target.as_deref().ok_or_else(|| bad("target= is missing".into()))?;
    let place = destination(target)
        .ok_or_else(|| bad(format!("the target {target:?} is no absolute path below /")))?;
    match typed.kind.as_deref() {
        Some("bind") => bind(&typed, place, base).map_err(bad),
        Some("tmpfs") => in_memory(&typed, place).map_err(bad),
        Some("volume") | None => Err(BadValue::new(
            "mount",
            text,
            "minirun keeps no volumes",
            "name a directory with type=bind,source=DIR, or take type=tmpfs",
        )),
        Some(other) => Err(bad(format!("unknown type {other:?}"))),
    }
}

fn bind(typed: &Typed, destination: std::path::PathBuf, base: &Path) -> Result<Added, String> {
    if typed.size.is_some() || typed.mode.is_some() {
        return Err("tmpfs-size and tmpfs-mode are for type=tmpfs".into());
    }
    let source = typed.source.as_deref().and_then(|source| host_path(source, base));
    let source = source.ok_or("source= is missing")?;
    let (kind, access) = match typed.recursive.as_deref().unwrap_or("enabled") {
        "enabled" => ("rbind", read_only(true)),
        "disabled" => ("bind", read_only(false)),
        "writable" => ("rbind", read_only(false)),
        "readonly" if typed.read_only => ("rbind", read_only(true)),
        "readonly" => return Err("bind-recursive=readonly needs readonly".into()),
        other => return Err(format!("unknown bind-recursive {other:?}")),
    };
    let propagation = typed.propagation.as_deref().unwrap_or("rprivate");
    if !PROPAGATIONS.contains(&propagation) {
        return Err(format!("unknown bind-propagation {propagation:?}"));
    }
    let mut options = vec![kind.to_owned(), propagation.to_owned()];
    options.extend(typed.read_only.then(|| access.to_owned()));
    Ok(Added { destination, source: Source::Host(source), options })
}

fn in_memory(typed: &Typed, place: std::path::PathBuf) -> Result<Added, String> {
    if typed.source.is_some() {
        return Err("a tmpfs has no source".into());
    }
    if typed.propagation.is_some() || typed.recursive.is_some() {
        return Err("bind-propagation and bind-recursive are for type=bind".into());
    }
    let mut options = Vec::new();
    if let Some(size) = &typed.size {
        let size = bytes(size).ok_or_else(|| format!("no size: tmpfs-size={size}"))?;
        options.push(format!("size={size}"));
    }
    if let Some(mode) = &typed.mode {
        let mode =
            octal(mode, 0o7777).ok_or_else(|| format!("no octal mode: tmpfs-mode={mode}"))?;
        options.push(format!("mode={mode:o}"));
    }
    options.extend(typed.read_only.then(|| "ro".to_owned()));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Ok(tmpfs::added(place, &options))
}

fn read(text: &str) -> Result<Typed, String> {
    let mut typed = Typed::default();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (field.as_str(), None),
        };
        let wanted =
            || value.clone().filter(|v| !v.is_empty()).ok_or(format!("{key}= has no value"));
        let slot = match key {
            "type" => &mut typed.kind,
            "source" | "src" => &mut typed.source,
            "target" | "destination" | "dst" => &mut typed.target,
            "bind-propagation" => &mut typed.propagation,
            "bind-recursive" => &mut typed.recursive,
            "tmpfs-size" => &mut typed.size,
            "tmpfs-mode" => &mut typed.mode,
            "readonly" | "ro" => {
                typed.read_only = is_true(key, value.as_deref())?;
                continue;
            }
            // Docker's older name for bind-recursive=disabled.
            "bind-nonrecursive" => {
                if is_true(key, value.as_deref())? {
                    typed.recursive = Some("disabled".into());
                }
                continue;
            }
            // Of no meaning on Linux without SELinux.
            "consistency" | "relabel" => continue,
            _ if key.starts_with("volume-") => {
                return Err(format!("minirun keeps no volumes: {key}"));
            }
            _ => return Err(format!("unknown key {key:?}")),
        };
        if slot.replace(wanted()?).is_some() {
            return Err(format!("{key}= is there twice, under that name or another"));
        }
    }
    Ok(typed)
}

/// Go's boolean values, which docker and podman take; without a value, true.
fn is_true(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => Err(format!("{key}= takes true or false: got {other:?}")),
    }
}

/// The fields of one line of CSV (RFC 4180): a field in quotes may hold commas, and quotes doubled.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let (Some(c), Some(field)) = (chars.next(), fields.last_mut()) {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            _ => field.push(c),
        }
    }
    if quoted { Err("a quote is not closed".into()) } else { Ok(fields) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        let added = parse(text, Path::new("/home/eva")).map_err(|e| e.problem)?;
        let source = match &added.source {
            Source::Host(path) => path.display().to_string(),
            Source::Tmpfs => "tmpfs".into(),
            Source::Device(_) => panic!("{added:?}"),
        };
        Ok(format!("{source} {} {}", added.destination.display(), added.options.join(",")))
    }

    #[test]
    fn all_names_of_a_key_mean_the_same() {
        let want = Ok("/a /b rbind,rprivate,rro".to_owned());
        for text in [
            "type=bind,source=/a,target=/b,readonly",
            "type=bind,src=/a,dst=/b,ro",
            "readonly=true,destination=/b,src=/a,type=bind",
            "type=bind,src=/a,dst=/b,ro=1,consistency=cached,relabel=shared",
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
    }

    #[test]
    fn binds_have_dockers_recursion_and_propagation() {
        let bind = |more: &str| shown(&format!("type=bind,src=./a,dst=/b{more}"));
        let want = |options: &str| Ok(format!("/home/eva/a /b {options}"));
        assert_eq!(bind(""), want("rbind,rprivate"));
        assert_eq!(bind(",readonly=false"), want("rbind,rprivate"));
        assert_eq!(bind(",bind-propagation=rslave"), want("rbind,rslave"));
        assert_eq!(bind(",bind-nonrecursive"), want("bind,rprivate"));
        assert_eq!(bind(",bind-recursive=disabled,ro"), want("bind,rprivate,ro"));
        assert_eq!(bind(",bind-recursive=writable,ro"), want("rbind,rprivate,ro"));
        assert_eq!(bind(",bind-recursive=readonly,ro"), want("rbind,rprivate,rro"));
        assert_eq!(
            shown("type=bind,\"src=/a,\"\"b\",dst=/b"),
            Ok("/a,\"b /b rbind,rprivate".into())
        );
    }

    #[test]
    fn a_tmpfs_has_a_size_and_a_mode() {
        assert_eq!(shown("type=tmpfs,dst=/t"), Ok("tmpfs /t noexec,nosuid,nodev,mode=1777".into()));
        let typed = "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700,ro";
        assert_eq!(shown(typed), {
            Ok("tmpfs /t noexec,nosuid,nodev,size=1048576,mode=700,ro".into())
        });
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        for (text, says) in [
            ("", "unknown key \"\""),
            ("dst=/b", "keeps no volumes"),
            ("type=volume,src=v,dst=/b", "keeps no volumes"),
            ("type=bind,src=/a,dst=/b,volume-nocopy", "keeps no volumes"),
            ("type=npipe,dst=/b", "unknown type"),
            ("type=bind,dst=/b", "source= is missing"),
            ("type=bind,src=/a", "target= is missing"),
            ("type=bind,src=,dst=/b", "src= has no value"),
            ("type=bind,src,dst=/b", "src= has no value"),
            ("type=bind,src=/a,source=/b,dst=/c", "is there twice"),
            ("type=bind,src=/a,dst=b", "no absolute path"),
            ("type=bind,src=/a,dst=/b,ro=maybe", "true or false"),
            ("type=bind,src=/a,dst=/b,bind-propagation=up", "bind-propagation"),
            ("type=bind,src=/a,dst=/b,bind-recursive=no", "bind-recursive"),
            ("type=bind,src=/a,dst=/b,bind-recursive=readonly", "needs readonly"),
            ("type=bind,src=/a,dst=/b,tmpfs-size=1m", "for type=tmpfs"),
            ("type=tmpfs,dst=/b,src=/a", "has no source"),
            ("type=tmpfs,dst=/b,tmpfs-size=much", "no size"),
            ("type=tmpfs,dst=/b,tmpfs-mode=rwx", "no octal mode"),
            ("type=tmpfs,dst=/b,bind-propagation=private", "for type=bind"),
            ("type=bind,\"src=/a,dst=/b", "not closed"),
        ] {
            assert!(shown(text).is_err_and(|e| e.contains(says)), "{text}: {:?}", shown(text));
        }
    }
}
