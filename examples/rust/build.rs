//! Generates the client from `proto/` without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let services = ["event", "subscription", "delivery"].map(|name| format!("tidings/v1/{name}_service.proto"));
    let files = protox::compile(services, ["../../proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
