//! Compiles the protocol with protox (pure Rust: no `protoc` is needed) into prost and tonic code and one descriptor
//! set, which serves gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let sources =
        ["proto/dstl/v1/service.proto", "proto/dstl/store/v1/manifest.proto", "proto/dstl/store/v1/local.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(sources, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("dstl.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
