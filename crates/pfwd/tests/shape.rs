//! The order of the stages is that of the diagram in lib.rs.

#[test]
fn no_module_imports_a_later_stage() {
    testkit::shape::check(env!("CARGO_MANIFEST_DIR"));
}
