//! The test registry as a program.
fn main() {}
