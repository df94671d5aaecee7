//! All of the unpacker's tests once more with openat2(2) denied, as by an older engine's seccomp
//! filter: the fallback is as safe and gives the same trees.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::process::Command;

/// The suites to run again, by the names of their binaries.
const SUITES: [&str; 4] = ["apply", "apply_metadata", "apply_staging", "hostile"];

#[test]
fn the_suites_pass_with_openat2_denied() {
    for suite in SUITES {
        let output = Command::new("strace")
            .args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"])
            .args(["-e", "trace=openat2", "-e", "inject=openat2:error=ENOSYS"])
            .arg(newest(suite))
            .output()
            .unwrap_or_else(|e| panic!("cannot run strace, which this test needs: {e}"));
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{suite}:\n{text}\n{errors}");
        assert!(text.contains("test result: ok"), "{suite} ran no tests:\n{text}");
    }
}

/// The binary of another suite of this package: cargo puts them beside this one, with a hash.
fn newest(suite: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let prefix = format!("{suite}-");
    let is_suite = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let hash = name.strip_prefix(&prefix);
        hash.is_some_and(|h| h.len() == 16 && h.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    std::fs::read_dir(own.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(is_suite)
        .max_by_key(|path| std::fs::metadata(path).unwrap().modified().unwrap())
        .unwrap_or_else(|| panic!("no binary of the suite {suite}: build all tests first"))
}
