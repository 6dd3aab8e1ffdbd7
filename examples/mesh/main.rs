//! A complete small mesh.
fn main() {}
