//! What a container is called when nobody says: after its bundle's directory, else a drawn name.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

/// A default name becomes the host name too, of which the kernel takes 64 bytes.
const MAX_DEFAULT_NAME_BYTES: usize = 63;

const FIRST: [&str; 16] = [
    "amber", "brisk", "calm", "clear", "deft", "eager", "fair", "gentle", "keen", "light", "merry",
    "noble", "proud", "quick", "steady", "warm",
];
const SECOND: [&str; 16] = [
    "alder", "badger", "cedar", "crane", "falcon", "heron", "larch", "lynx", "maple", "otter",
    "raven", "rowan", "sparrow", "swift", "tern", "willow",
];

/// The name after a bundle's directory, given by its canonical path: characters that no name may
/// have become `-`. `None` when nothing is left, as for `/`.
pub fn from_directory(dir: &Path) -> Option<String> {
    let last = dir.file_name()?.to_string_lossy();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    let name: String = last
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(MAX_DEFAULT_NAME_BYTES)
        .collect();
    (!name.is_empty()).then_some(name)
}

/// A name out of the blue: two words, and a number so that two hardly meet.
pub fn drawn() -> String {
    // The keys of the standard library's hasher come from the kernel's random source.
    from_number(RandomState::new().hash_one(std::process::id()))
}

fn from_number(n: u64) -> String {
    let word = |words: &[&'static str; 16], n: u64| words.get((n % 16) as usize).copied();
    let (first, second) = (word(&FIRST, n), word(&SECOND, n >> 4));
    format!("{}-{}-{:04x}", first.unwrap_or_default(), second.unwrap_or_default(), n >> 8 & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_names_its_container() {
        let name = |path: &str| from_directory(Path::new(path));
        assert_eq!(name("/home/eva/pod").as_deref(), Some("pod"));
        assert_eq!(name("/a/My App (2)").as_deref(), Some("My-App--2-"));
        assert_eq!(name("/a/.hidden").as_deref(), Some("hidden"));
        assert_eq!(name("/a/größe").as_deref(), Some("gr--e"));
        assert_eq!(name(&format!("/{}", "x".repeat(300))).map(|n| n.len()), Some(63));
        assert_eq!(name("/"), None);
        assert_eq!(name("/…"), None);
    }

    #[test]
    fn every_default_name_is_a_valid_id() {
        for n in [0, 1, 0xffff_ffff_ffff_ffff, 0x1234_5678_9abc_def0] {
            assert!(ctsys::state::check_id(&from_number(n)).is_ok(), "{}", from_number(n));
        }
        assert!(ctsys::state::check_id(&drawn()).is_ok());
        assert!(ctsys::state::check_id(&from_directory(Path::new("/-_a b")).unwrap()).is_ok());
    }
}
