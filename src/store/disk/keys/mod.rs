//! The key that secrets are sealed with: its file and its rotation.

pub(super) mod key_file;
pub(crate) mod rotation;
