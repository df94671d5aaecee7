//! `-v SRC:DST[:OPTIONS]` and `--device`: a file or directory of the host's inside the container.

use std::path::{Path, PathBuf};

use super::mounts::{Added, Source, destination};
use super::value::BadValue;

/// What every bind mount has unless told otherwise: with all that is mounted below, and nothing that
/// is mounted later spreads in or out.
const RECURSIVE: &str = "rbind";
const PRIVATE: &str = "rprivate";
/// How changes of mounts may spread (mount_namespaces(7)).
pub(super) const PROPAGATIONS: [&str; 6] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
/// What may be set on a bind mount, or cleared where the host has not set it.
const ATTRIBUTES: [&str; 6] = ["nosuid", "suid", "nodev", "dev", "noexec", "exec"];

/// Parses a `-v`; a relative source is one of `base`, the caller's directory.
///
/// `ro` holds for all that is mounted below the source too, as with docker. There is no `rw` in what
/// comes out: that would ask to write where the host itself mounted read-only, which the kernel
/// refuses.
pub fn parse(text: &str, base: &Path) -> Result<Added, BadValue> {
    let mut parts = text.split(':');
    let (source, place) = (parts.next().unwrap_or_default(), parts.next());
    let (options, None) = (parts.next().unwrap_or("rw"), parts.next()) else {
        return Err(malformed(text, "want SOURCE:DESTINATION[:OPTIONS]"));
    };
    let Some(place) = place else {
        return Err(BadValue::new(
            "volume",
            text,
            "want SOURCE:DESTINATION[:OPTIONS]",
            format!("minirun keeps no volumes: for an empty directory use --tmpfs {text}"),
        ));
    };
    let is_path = source.contains('/') || matches!(source, "." | "..");
    if !source.is_empty() && !is_path {
        return Err(BadValue::new(
            "volume",
            text,
            "the source is no path",
            format!("for a directory here write ./{text}"),
        ));
    }
    let source = host_path(source, base)
        .ok_or_else(|| malformed(text, "want SOURCE:DESTINATION[:OPTIONS]"))?;
    let destination = destination(place)
        .ok_or_else(|| malformed(text, "the destination is no absolute path below /"))?;
    let options = bind_options(options).map_err(|problem| malformed(text, problem))?;
    Ok(Added { destination, source: Source::Host(source), options })
}

/// Parses a `--device SRC[:DST[:rwm]]`. The device is bound, as a user namespace makes none of its
/// own; what may be done with it is up to the file's mode.
pub fn parse_device(text: &str) -> Result<Added, BadValue> {
    let bad = |problem: &str, hint: &str| BadValue::new("device", text, problem, hint);
    let usual = "give a path of the host's: --device /dev/fuse";
    let mut parts = text.split(':');
    let source = parts.next().unwrap_or_default();
    let place = parts.next().unwrap_or(source);
    let (access, None) = (parts.next().unwrap_or("rwm"), parts.next()) else {
        return Err(bad("want SOURCE[:DESTINATION[:rwm]]", usual));
    };
    if !source.starts_with('/') || source.contains('\0') {
        return Err(bad("the source is no absolute path", usual));
    }
    let destination = destination(place)
        .ok_or_else(|| bad("the destination is no absolute path below /", usual))?;
    // Whether it could be made with mknod makes no difference here.
    if !matches!(access, "rwm" | "rw" | "mrw" | "wrm" | "wr") {
        return Err(bad(
            &format!("access {access:?} cannot be enforced without a device cgroup"),
            "leave it out: the mode of the host's device file decides",
        ));
    }
    let options = ["bind", PRIVATE, "nosuid", "noexec"].map(String::from).into();
    Ok(Added { destination, source: Source::Device(source.into()), options })
}

/// A path of the host's; `None` when there is nothing that could be one.
pub(super) fn host_path(text: &str, base: &Path) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| base.join(text).components().collect())
}

/// The options of a bind mount as config.json has them; the problem when there is one.
fn bind_options(typed: &str) -> Result<Vec<String>, String> {
    let (mut recursive, mut propagation, mut access) = (None, None, None);
    let mut attributes = Vec::new();
    for option in typed.split(',') {
        let first = match option {
            "ro" | "rro" | "rw" => access.replace(option).is_none(),
            "bind" | "rbind" => recursive.replace(option).is_none(),
            _ if PROPAGATIONS.contains(&option) => propagation.replace(option).is_none(),
            _ if ATTRIBUTES.contains(&option) => {
                attributes.push(option.to_owned());
                true
            }
            // Relabelling is SELinux's, and the rest is for macOS: where they mean nothing docker
            // takes them too.
            "z" | "Z" | "cached" | "delegated" | "consistent" => true,
            "U" => {
                return Err(
                    "the option U would change owners on the host: chown the source yourself"
                        .into(),
                );
            }
            "O" => return Err("the option O, an overlay of one volume, is not supported".into()),
            _ => return Err(format!("unknown option {option:?}")),
        };
        if !first {
            return Err(format!("the option {option:?} contradicts an earlier one"));
        }
    }
    let recursive = recursive.unwrap_or(RECURSIVE);
    let mut options = vec![recursive.into(), propagation.unwrap_or(PRIVATE).into()];
    if access.is_some_and(|access| access != "rw") {
        options.push(read_only(recursive == RECURSIVE).into());
    }
    options.extend(attributes);
    Ok(options)
}

/// With all below it, or this mount alone.
pub(super) fn read_only(all_below: bool) -> &'static str {
    if all_below { "rro" } else { "ro" }
}

fn malformed(text: &str, problem: impl Into<String>) -> BadValue {
    let hint = "-v takes an existing path and where it is to appear: -v ./src:/src:ro";
    BadValue::new("volume", text, problem, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(added: &Added) -> (String, String, String) {
        let (Source::Host(source) | Source::Device(source)) = &added.source else {
            panic!("{added:?}")
        };
        let shown = |path: &PathBuf| path.to_string_lossy().into_owned();
        (shown(source), shown(&added.destination), added.options.join(","))
    }

    fn parsed(text: &str) -> (String, String, String) {
        shown(&parse(text, Path::new("/home/eva")).unwrap())
    }

    fn want(source: &str, destination: &str, options: &str) -> (String, String, String) {
        (source.into(), destination.into(), options.into())
    }

    #[test]
    fn sources_are_absolute_or_of_the_callers_directory() {
        assert_eq!(parsed("/a:/b"), want("/a", "/b", "rbind,rprivate"));
        assert_eq!(parsed("/a/:/b/./c/:ro"), want("/a", "/b/c", "rbind,rprivate,rro"));
        assert_eq!(parsed("./src:/src:rw,z"), want("/home/eva/src", "/src", "rbind,rprivate"));
        assert_eq!(parsed("..:/src:ro,Z"), want("/home/eva/..", "/src", "rbind,rprivate,rro"));
        assert_eq!(parsed(".:/src"), want("/home/eva", "/src", "rbind,rprivate"));
    }

    #[test]
    fn options_are_dockers_and_podmans() {
        let options = |text: &str| parsed(&format!("/a:/b:{text}")).2;
        assert_eq!(options("ro,bind"), "bind,rprivate,ro");
        assert_eq!(options("rslave,nosuid,noexec,cached"), "rbind,rslave,nosuid,noexec");
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        let problem = |text: &str| {
            let error = parse(text, Path::new("/")).unwrap_err();
            assert_eq!((error.option, error.value.as_str()), ("volume", text));
            (error.problem, error.hint)
        };
        for text in ["", ":/b", "/a:/b:ro:rw"] {
            assert!(problem(text).0.starts_with("want SOURCE"), "{text:?}");
        }
        assert!(problem("/a").1.contains("--tmpfs /a"));
        for text in ["/a:b", "/a:", "/a:/", "/a:/./", "/a:/b/../c", "/a:/b\0"] {
            assert!(problem(text).0.contains("no absolute path"), "{text:?}");
        }
        assert!(problem("data:/b").1.ends_with("write ./data:/b"));
        for option in ["", "rw2", "U", "O", "ro,rw", "ro,ro", "shared,private", "bind,rbind"] {
            assert!(problem(&format!("/a:/b:{option}")).0.contains("option"), "{option:?}");
        }
    }

    #[test]
    fn devices_are_bound_where_they_are_or_elsewhere() {
        let parsed = |text: &str| shown(&parse_device(text).unwrap());
        let options = "bind,rprivate,nosuid,noexec";
        assert_eq!(parsed("/dev/fuse"), want("/dev/fuse", "/dev/fuse", options));
        assert_eq!(parsed("/dev/fuse:/dev/f:rw"), want("/dev/fuse", "/dev/f", options));
        for text in ["", "fuse", "/dev/fuse:f", "/dev/fuse:/f:r", "/dev/fuse:/f:rw:x", "a.org/c=d"]
        {
            assert!(parse_device(text).is_err(), "{text:?}");
        }
    }
}
