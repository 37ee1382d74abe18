//! The argument `--format` of the commands that read webhook JSON.

use clap::ValueEnum;

use crate::{
    domain::{field_violation::FieldViolations, ids::AccountId, payload_format::PayloadFormat},
    event::parse,
    proto::v1,
};

/// A form of webhook JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JsonForm {
    /// What Chatwoot sends.
    Chatwoot,
    /// What Chatwoot's documentation describes: its sections "Objects" and "Webhook Events".
    Documented,
    /// The first sample of Chatwoot's documentation, for message events; other events as documented.
    Sample,
}

impl JsonForm {
    /// Reads a body in this form; without one, in the first form that represents it without loss.
    ///
    /// # Errors
    ///
    /// The body has a value that an event cannot represent, or belongs to another account.
    pub fn read(form: Option<Self>, body: &[u8], account: AccountId) -> Result<v1::Event, FieldViolations> {
        match form {
            Some(form) => parse::read_form(form.payload_format(), body, account),
            None => parse::read_any(body, account).map(|(_, event)| event),
        }
    }

    /// The form of the contract.
    pub fn payload_format(self) -> PayloadFormat {
        match self {
            Self::Chatwoot => PayloadFormat::Chatwoot,
            Self::Documented => PayloadFormat::Documented,
            Self::Sample => PayloadFormat::Sample,
        }
    }
}
