//! The forms of a webhook's body: one row for each.

use crate::proto::v1::{EventType, subscription::PayloadFormat as Wire};

/// The form of the body that is sent (`Subscription.payload_format` of the contract). `event::render` renders
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PayloadFormat {
    /// The documentation's sections "Objects" and "Webhook Events".
    Documented,
    /// The documentation's first sample for message events; other events as documented.
    Sample,
    /// The bodies that Chatwoot 4 really sends.
    Chatwoot,
}

/// A form as others see it: the contract, the disk and the receiver.
struct Form {
    format: PayloadFormat,
    wire: Wire,
    /// Its number on disk. Never changes.
    disk: u32,
    content_type: &'static str,
}

/// In the order of [`PayloadFormat`].
const FORMS: [Form; PayloadFormat::COUNT] = [
    Form {
        format: PayloadFormat::Documented,
        wire: Wire::Documented,
        disk: 1,
        content_type: "application/json",
    },
    Form { format: PayloadFormat::Sample, wire: Wire::Sample, disk: 2, content_type: "application/json" },
    Form { format: PayloadFormat::Chatwoot, wire: Wire::Chatwoot, disk: 3, content_type: "application/json" },
];

impl PayloadFormat {
    /// Number of forms.
    pub const COUNT: usize = 3;

    /// Every form.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMS.iter().map(|form| form.format)
    }

    /// Its index in arrays of [`PayloadFormat::COUNT`] elements.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The form with this number in the contract; the documented one if it is unspecified, `None` if it is
    /// unknown.
    pub fn from_wire(number: i32) -> Option<Self> {
        let wire = match Wire::try_from(number).ok()? {
            Wire::Unspecified => Wire::Documented,
            known => known,
        };
        FORMS.iter().find(|form| form.wire == wire).map(|form| form.format)
    }

    /// Its value in the contract.
    pub fn to_wire(self) -> Wire {
        self.form().wire
    }

    /// The form with this number on disk.
    pub fn from_disk(number: u32) -> Option<Self> {
        FORMS.iter().find(|form| form.disk == number).map(|form| form.format)
    }

    /// Its number on disk.
    pub fn to_disk(self) -> u32 {
        self.form().disk
    }

    /// Whether events of this type are sent in this form. One that is kept as it came has Chatwoot's form only.
    pub fn has_body_of(self, event_type: EventType) -> bool {
        event_type != EventType::Other || self == Self::Chatwoot
    }

    /// The `Content-Type` of a body in this form.
    pub fn content_type(self) -> &'static str {
        self.form().content_type
    }

    fn form(self) -> &'static Form {
        &FORMS[self.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_found_by_each_of_its_numbers() {
        for (index, format) in PayloadFormat::all().enumerate() {
            assert_eq!(format.index(), index);
            assert_eq!(PayloadFormat::from_wire(format.to_wire().into()), Some(format));
            assert_eq!(PayloadFormat::from_disk(format.to_disk()), Some(format));
        }
        let in_contract = (1..).map_while(|number| Wire::try_from(number).ok()).count();
        assert_eq!(in_contract, PayloadFormat::COUNT, "a form of the contract has no row");
        assert_eq!(PayloadFormat::from_wire(0), Some(PayloadFormat::Documented));
        assert_eq!((PayloadFormat::from_wire(9), PayloadFormat::from_disk(0)), (None, None));
    }

    #[test]
    fn numbers_on_disk_stay_as_they_are() {
        assert_eq!(PayloadFormat::all().map(PayloadFormat::to_disk).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
