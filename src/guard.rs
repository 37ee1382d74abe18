//! What keeps those who come in from taking too much, shared by the listeners: places for connections, tries that failed, log
//! lines that would repeat.

mod failures;
mod places;
mod seldom;

pub use failures::{Failures, Limited};
pub use places::{Full, Place, Places};
pub use seldom::Seldom;
