//! The `dstl` binary: everything is in [`dstl::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    dstl::cli::main(std::env::args_os())
}
