//! Damage: a place on the disk whose bytes are not those that were written there.

use std::fmt;

use super::ids::EventName;

/// A damaged place on the disk, and the record that was there, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, relative to the data directory.
    pub file: String,
    /// The first byte of the damaged record in the file.
    pub offset: u64,
    /// The event that the record belongs to; `None` if it belongs to many, or if that is unknown.
    pub event: Option<EventName>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, event } = self;
        if let Some(event) = event {
            write!(f, "{event} is damaged: ")?;
        }
        write!(f, "{file}, byte {offset}: the disk does not have what was written there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_names_the_event_the_file_and_the_place() {
        let damage = Damage { file: "ledger/0000000003.log".to_owned(), offset: 17, event: None };
        let text = "ledger/0000000003.log, byte 17: the disk does not have what was written there";
        assert_eq!(damage.to_string(), text);
        let event = Some("accounts/1/events/e".parse().unwrap());
        let damage = Damage { event, ..damage };
        assert_eq!(damage.to_string(), format!("accounts/1/events/e is damaged: {text}"));
    }
}
