//! stub
use super::EventFacts;
use crate::domain::{fault::Faults, ids::AccountId};
use crate::proto::v1;
/// Most records that may lie within one another.
pub const NESTING_MAX: usize = 8;
pub fn check(_event: &mut v1::Event, _account: AccountId, _path: &str) -> Result<EventFacts, Faults> {
    unimplemented!()
}
