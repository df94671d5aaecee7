//! Names in a layer: cleaned paths and the whiteouts of image-spec's layer.md. Pure.

use super::limits::MAX_PATH_BYTES;

/// What marks a whiteout.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// What AUFS keeps for itself; of these only the opaque marker means something in a layer.
const META_PREFIX: &[u8] = b".wh..wh.";
/// Hides everything that lower layers have in its directory.
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Where AUFS kept the files that have several names: the targets of hard links.
pub const AUFS_LINKS_DIR: &[u8] = b".wh..wh.plnk";

/// Of a name in a message, at most.
const MAX_SHOWN_BYTES: usize = 200;

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// More `..` than directories.
    #[error("the path leads out of the root")]
    Escapes,
    /// A NUL byte, which ends a name for the kernel.
    #[error("the path has a NUL byte")]
    Nul,
    /// Past [`MAX_PATH_BYTES`].
    #[error("the path is too long: got {0}, want at most {MAX_PATH_BYTES} bytes")]
    TooLong(usize),
    /// `.wh.` without a name, or with `.` or `..`.
    #[error("a whiteout that names nothing")]
    EmptyWhiteout,
    /// Something inside of a whiteout.
    #[error("a whiteout used as a directory")]
    InsideWhiteout,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A path to make; empty for the root itself.
    Path(Vec<u8>),
    /// The path that is hidden.
    Whiteout(Vec<u8>),
    /// The directory whose lower contents are hidden; empty for the root.
    Opaque(Vec<u8>),
    /// AUFS's own: nothing to do.
    Skipped,
}

impl Name {
    /// Parses the name of an entry.
    pub fn parse(raw: &[u8]) -> Result<Self, NameError> {
        let path = clean(raw)?;
        let (parent, leaf) = split(&path);
        if parent.split(|&b| b == b'/').any(is_foreign_meta) {
            return Ok(Self::Skipped);
        }
        let in_links = path.starts_with(AUFS_LINKS_DIR) && !parent.is_empty();
        let inside = |name: &[u8]| name.starts_with(WHITEOUT_PREFIX) && name != AUFS_LINKS_DIR;
        if parent.split(|&b| b == b'/').any(inside) {
            return Err(NameError::InsideWhiteout);
        }
        if leaf == OPAQUE_MARKER {
            return Ok(Self::Opaque(parent.to_vec()));
        }
        if leaf.starts_with(META_PREFIX) {
            let is_links_dir = path == AUFS_LINKS_DIR;
            return Ok(if is_links_dir { Self::Path(path) } else { Self::Skipped });
        }
        match leaf.strip_prefix(WHITEOUT_PREFIX) {
            Some(b"" | b"." | b"..") => Err(NameError::EmptyWhiteout),
            Some(_) if in_links => Ok(Self::Skipped),
            Some(hidden) => Ok(Self::Whiteout(join(parent, hidden))),
            None => Ok(Self::Path(path)),
        }
    }
}

/// AUFS's own directories, but for the one that hard links need.
fn is_foreign_meta(name: &[u8]) -> bool {
    name.starts_with(META_PREFIX) && name != AUFS_LINKS_DIR
}

/// The path without empty components, `.` and `..`, relative to the root. As in Go's `path.Clean`
/// a `..` takes back the name before it; one that has none before it is refused, not dropped.
pub fn clean(raw: &[u8]) -> Result<Vec<u8>, NameError> {
    if raw.contains(&0) {
        return Err(NameError::Nul);
    }
    if raw.len() > MAX_PATH_BYTES {
        return Err(NameError::TooLong(raw.len()));
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in raw.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop().ok_or(NameError::Escapes)?),
            _ => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// Splits a clean path into the parent, empty for the root, and the last name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The path of `name` in `parent`.
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// A name for a message: escaped, and one that is longer than a line's worth with its middle left
/// out.
pub fn quoted(name: &[u8]) -> String {
    let end = name.len().saturating_sub(MAX_SHOWN_BYTES / 2);
    match (name.get(..MAX_SHOWN_BYTES / 2), name.get(end..)) {
        (Some(first), Some(last)) if name.len() > MAX_SHOWN_BYTES => {
            let (first, last) = (first.escape_ascii(), last.escape_ascii());
            format!("\"{first}...{last}\" ({} bytes)", name.len())
        }
        _ => format!("\"{}\"", name.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_shown_by_its_ends() {
        assert_eq!(quoted(b"a\n"), r#""a\n""#);
        let shown = quoted(&[b"a".repeat(300), b"z".repeat(300)].concat());
        assert_eq!(shown, format!("\"{}...{}\" (600 bytes)", "a".repeat(100), "z".repeat(100)));
    }

    #[test]
    fn paths_are_cleaned_and_none_leads_out() {
        for (raw, want) in [
            ("./", ""),
            ("/", ""),
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("a/../b", "b"),
            ("a/./b/../c", "a/c"),
            ("...", "..."),
        ] {
            assert_eq!(clean(raw.as_bytes()).unwrap(), want.as_bytes(), "{raw}");
        }
        for raw in ["..", "../x", "/../x", "a/../../x", "./.."] {
            assert_eq!(clean(raw.as_bytes()), Err(NameError::Escapes), "{raw}");
        }
        assert_eq!(clean(b"a\0b"), Err(NameError::Nul));
        assert!(matches!(clean(&[b'a'; MAX_PATH_BYTES + 1]), Err(NameError::TooLong(_))));
    }

    #[test]
    fn whiteouts_are_told_from_files() {
        let path = |p: &str| Name::Path(p.into());
        let whiteout = |p: &str| Name::Whiteout(p.into());
        for (raw, want) in [
            ("a/.wh.b", whiteout("a/b")),
            (".wh.b/", whiteout("b")),
            (".wh..b", whiteout(".b")),
            (".wh...b", whiteout("..b")),
            (".wh..wh..opq", Name::Opaque("".into())),
            ("a/b/.wh..wh..opq", Name::Opaque("a/b".into())),
            (".wh", path(".wh")),
            ("a.wh.b", path("a.wh.b")),
            (".wh..wh.aufs", Name::Skipped),
            (".wh..wh.orph/x", Name::Skipped),
            ("a/.wh..wh.x", Name::Skipped),
            (".wh..wh.plnk", path(".wh..wh.plnk")),
            (".wh..wh.plnk/12.34", path(".wh..wh.plnk/12.34")),
        ] {
            assert_eq!(Name::parse(raw.as_bytes()), Ok(want), "{raw}");
        }
        for raw in [".wh.", "a/.wh.", ".wh..", ".wh..."] {
            assert_eq!(Name::parse(raw.as_bytes()), Err(NameError::EmptyWhiteout), "{raw}");
        }
        assert_eq!(Name::parse(b".wh.a/b"), Err(NameError::InsideWhiteout));
    }
}
