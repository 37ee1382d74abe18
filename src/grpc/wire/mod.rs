//! Translation between protobuf messages and domain values: fields, pages, statuses, audit.

pub(super) mod audit_subjects;
pub(super) mod audited;
pub(super) mod deadline;
pub(super) mod library_errors;
pub(super) mod methods;
pub(super) mod pagination;
pub(super) mod request_fields;
pub(super) mod status;
pub(super) mod stream_codec;
pub(super) mod to_proto;
