//! The `ocipull` command.
fn main() {}
