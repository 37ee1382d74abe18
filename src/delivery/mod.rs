//! Sends: one attempt of a delivery.

pub mod egress;
