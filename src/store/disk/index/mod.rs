//! The in-memory index of the log: volumes, their details, event ids, and the manifest that saves it.

pub(super) mod apply;
pub(super) mod event_id_index;
pub(super) mod ledger;
pub(super) mod manifest;
pub(super) mod owed;
pub(super) mod volume;
pub(super) mod volume_codec;
pub(super) mod volume_detail;
