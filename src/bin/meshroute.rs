//! The command `meshroute`.
fn main() {}
