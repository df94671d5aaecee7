//! Data flows one way: a module imports earlier stages of its crate's pipeline only.

use std::path::{Path, PathBuf};

/// Checks the crate at `manifest_dir` against the pipeline that its lib.rs draws: in the first
/// `text` block every line that starts with a name is a stage, in their order. Every module has to
/// stand there. Tests are left out: they may use what comes later.
pub fn check(manifest_dir: &str) {
    let src = Path::new(manifest_dir).join("src");
    let lib = std::fs::read_to_string(src.join("lib.rs")).unwrap();
    let stages = stages(&lib);
    let place = |module: &str| {
        let found = stages.iter().position(|stage| stage == module);
        found.unwrap_or_else(|| panic!("lib.rs does not draw the module {module}: {stages:?}"))
    };
    let modules: Vec<&str> = lib.lines().filter_map(declared_module).collect();
    assert!(!modules.is_empty(), "no modules in {src:?}");
    for &module in &modules {
        for file in files(&src, module) {
            let text = std::fs::read_to_string(&file).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for used in text.split("crate::").skip(1).filter_map(leading_name) {
                let earlier =
                    used == module || !modules.contains(&used) || place(used) < place(module);
                assert!(earlier, "{file:?}, of {module}, imports the later stage {used}");
            }
        }
    }
}

fn stages(lib: &str) -> Vec<String> {
    let block = lib.lines().skip_while(|line| !line.starts_with("//! ```text")).skip(1);
    let block = block.take_while(|line| !line.starts_with("//! ```"));
    block.filter_map(|line| leading_name(line.strip_prefix("//! ")?)).map(str::to_owned).collect()
}

fn declared_module(line: &str) -> Option<&str> {
    line.strip_prefix("pub mod ").or(line.strip_prefix("mod "))?.strip_suffix(';')
}

fn leading_name(text: &str) -> Option<&str> {
    let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    text.get(..end).filter(|name| !name.is_empty())
}

/// A module's file, and all below its directory.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(later: &str) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let src = dir.path().join("src");
        std::fs::create_dir(&src).unwrap();
        let lib =
            "//! ```text\n//! one   first\n//! two   second\n//! ```\npub mod one;\nmod two;\n";
        std::fs::write(src.join("lib.rs"), lib).unwrap();
        std::fs::write(src.join("one.rs"), later).unwrap();
        std::fs::write(src.join("two.rs"), "use crate::one::X;\n").unwrap();
        let dir = dir.path().to_str().unwrap().to_owned();
        std::panic::catch_unwind(|| check(&dir)).is_err()
    }

    #[test]
    fn an_import_of_a_later_stage_is_found() {
        assert!(!fails("use std::fs;\n#[cfg(test)]\nuse crate::two::Y;\n"));
        assert!(fails("use crate::two::Y;\n"));
        assert!(fails("fn f() { crate::two::y() }\n"));
    }
}
