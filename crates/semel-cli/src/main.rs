//! The command line of Semel.
fn main() {}
