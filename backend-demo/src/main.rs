//! The command line of the demo.
fn main() {}
