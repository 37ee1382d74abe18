//! What keeps those who come in from taking too much, shared by the listeners: places for connections, tries that failed, log
//! lines that would repeat.

pub use auth_failures::{Failures, Limited};
pub use connections::{Full, Place, Places};

mod auth_failures;
mod connections;
