//! The `dstl` binary: everything is in [`dstl::cli`].

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// State is read at random places: in pages of 4 KiB, most of the time goes into finding the page.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    dstl::cli::main(std::env::args_os())
}
