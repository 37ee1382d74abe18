//! Commands: what `tidings` does, one module for each subcommand.

pub mod demo;
pub mod import;
pub mod receive;
