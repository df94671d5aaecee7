//! The `pfwd` command.
fn main() {}
