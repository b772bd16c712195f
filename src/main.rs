//! The `dstl` binary.
fn main() {}
