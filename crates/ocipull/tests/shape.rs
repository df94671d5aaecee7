//! Data flows one way: a module imports earlier stages of the pipeline only, in the order in which
//! lib.rs draws them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

use std::path::{Path, PathBuf};

#[test]
fn no_module_imports_a_later_stage() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = std::fs::read_to_string(src.join("lib.rs")).unwrap();
    let stages: Vec<&str> = lib
        .lines()
        .skip_while(|line| !line.starts_with("//! ```text"))
        .skip(1)
        .take_while(|line| !line.starts_with("//! ```"))
        .filter_map(|line| line.trim_start_matches("//! ").split([' ', '/']).next())
        .collect();
    let place = |module: &str| {
        let found = stages.iter().position(|stage| *stage == module);
        found.unwrap_or_else(|| panic!("lib.rs does not draw the module {module}: {stages:?}"))
    };
    for line in lib.lines().filter_map(|line| line.strip_prefix("pub mod ")) {
        let module = line.trim_end_matches(';');
        for file in files(&src, module) {
            let text = std::fs::read_to_string(&file).unwrap();
            for used in text.lines().filter_map(|line| line.trim().strip_prefix("use crate::")) {
                let used = used.split([':', ';']).next().unwrap();
                let earlier = used == module || place(used) < place(module);
                assert!(earlier, "{file:?}, of {module}, imports the later stage {used}");
            }
        }
    }
}

/// A module's file, or all below its directory.
fn files(src: &Path, module: &str) -> Vec<PathBuf> {
    let mut pending = vec![src.join(format!("{module}.rs")), src.join(module)];
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            found.push(path);
        }
    }
    assert!(!found.is_empty(), "no file of {module}");
    found
}
