//! The `minirun` command.
fn main() {}
