//! Generates code from `proto/` without protoc: protox parses the files, prost and tonic generate the code.

use std::{env, fs, path::PathBuf};

use protox::Compiler;

/// The services of the contract. protox reads the files that they import.
const FILES: [&str; 7] = [
    "tidings/v1/access_token_service.proto",
    "tidings/v1/subscription_service.proto",
    "tidings/v1/event_service.proto",
    "tidings/v1/delivery_service.proto",
    "tidings/v1/audit_service.proto",
    "tidings/v1/backup_service.proto",
    "tidings/v1/notice_service.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");

    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;

    // Reflection serves protox's encoding: it keeps comments and options that prost's types drop.
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("tidings_descriptor.bin");
    fs::write(&descriptors, compiler.encode_file_descriptor_set())?;

    // Names of message types, for `src/proto/codec.rs`.
    let mut names = tonic_prost_build::Config::new();
    names.enable_type_names();
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        // The struct has 2 KB: every step from the socket to the store would copy it.
        .boxed(".tidings.v1.PublishEventRequest.event")
        .codec_path("crate::proto::codec::ProtobufCodec")
        .compile_fds_with_config(compiler.file_descriptor_set(), names)?;
    Ok(())
}
