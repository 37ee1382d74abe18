//! The subcommands of `tidings`, one module each.

pub mod demo;
pub mod import;
pub mod receive;
