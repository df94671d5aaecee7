//! What the threads that read an image's bytes can reach, where the kernel has Landlock: a second
//! wall behind the descriptors, for the case that a decoder is taken over.
//!
//! A kernel without it, or with its first version only (which forbids hard links between
//! directories), or a filter that denies its calls: then the thread goes on as it is.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

/// The newest version whose rights are asked for; an older kernel gives those that it knows.
const NEWEST: ABI = ABI::V6;

/// The first version that allows renames and links from directory to directory.
const NEEDED: AccessFs = AccessFs::Refer;

/// Keeps the calling thread, for good, from opening any file, from connecting anywhere, and from
/// gaining privileges.
pub(super) fn to_nothing() {
    // Confinement is the second wall: where it cannot be had the first one stands.
    let _ = ruleset().and_then(RulesetCreated::restrict_self);
}

/// As [`to_nothing`], but for what is below `trees`.
pub(super) fn to_trees(trees: &[BorrowedFd<'_>]) {
    let _ = ruleset().and_then(|mut ruleset| {
        for tree in trees {
            ruleset = ruleset.add_rule(PathBeneath::new(tree, AccessFs::from_all(NEWEST)))?;
        }
        ruleset.restrict_self()
    });
}

fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(NEEDED)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::thread;

    /// This test is worth nothing where the kernel lacks Landlock, and says so by failing.
    #[test]
    fn a_thread_reaches_its_trees_alone() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in ["one/a", "one/b", "two", "outside"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("outside/secret"), "secret").unwrap();
        let (one, two) = (fs::File::open(at("one")).unwrap(), fs::File::open(at("two")).unwrap());
        let confined = || {
            to_trees(&[one.as_fd(), two.as_fd()]);
            fs::write(at("one/a/file"), "1").unwrap();
            fs::hard_link(at("one/a/file"), at("one/b/link")).unwrap();
            fs::rename(at("one/b/link"), at("two/link")).unwrap();
            let refused = |result: std::io::Result<()>| {
                let kind = result.map_err(|e| e.raw_os_error());
                // EXDEV is what a link out of the trees is refused with.
                assert!(
                    matches!(kind, Err(Some(libc_errno::EACCES | libc_errno::EXDEV))),
                    "{kind:?}"
                );
            };
            refused(fs::read(at("outside/secret")).map(drop));
            refused(fs::write(at("outside/new"), "1"));
            refused(fs::remove_file(at("outside/secret")));
            refused(fs::rename(at("outside/secret"), at("one/secret")));
            refused(fs::hard_link(at("two/link"), at("outside/link")));
            refused(fs::hard_link(at("outside/secret"), at("two/secret")));
            refused(fs::create_dir(at("outside/dir")));
        };
        thread::scope(|scope| scope.spawn(confined).join().unwrap());
        let nothing = || {
            to_nothing();
            assert!(fs::read(at("two/link")).is_err());
        };
        thread::scope(|scope| scope.spawn(nothing).join().unwrap());
        // The others are as free as before.
        assert_eq!(fs::read_to_string(at("outside/secret")).unwrap(), "secret");
        fs::write(at("outside/new"), "1").unwrap();
    }

    mod libc_errno {
        pub(super) const EACCES: i32 = 13;
        pub(super) const EXDEV: i32 = 18;
    }
}
