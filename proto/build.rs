//! Compiles the protocol with protox (pure Rust: no `protoc` is needed) into prost and tonic code and one descriptor
//! set, which serves gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let sources = ["dstl/v1/service.proto", "dstl/store/v1/manifest.proto", "dstl/store/v1/local.proto"];
    println!("cargo:rerun-if-changed=dstl");
    let descriptors = protox::compile(sources, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("dstl.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
