//! stub
use super::subscription::PayloadFormat;
use crate::proto::v1;
pub fn has_sample_form(_event: &v1::Event) -> bool {
    unimplemented!()
}
pub fn render(_event: &v1::Event, _format: PayloadFormat) -> Vec<u8> {
    unimplemented!()
}
