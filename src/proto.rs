//! The code that `build.rs` generates from `proto/`.

/// The contract, `tidings.v1`.
#[expect(
    clippy::all,
    rustdoc::invalid_html_tags,
    clippy::allow_attributes_without_reason,
    reason = "generated; the comments are in proto/"
)]
pub mod v1 {
    tonic::include_proto!("tidings.v1");
}

pub mod codec;
pub mod elements;
pub mod json;

impl v1::EventType {
    /// Every event type of the contract, without the unspecified one.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..).map_while(|number| Self::try_from(number).ok())
    }
}

/// The domain of every `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "tidings";

/// The contract as an encoded `FileDescriptorSet`, comments included, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidings_descriptor.bin"));
