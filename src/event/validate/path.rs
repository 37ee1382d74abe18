//! Where a field stands in a request.

use std::fmt;

/// Most characters of a free object's key that a path shows; the rest of a longer key is left out.
pub(super) const KEY_CHARS_SHOWN: usize = 64;

/// A field's path, as a list from the field up to the request. It lives on the stack of the check and becomes text only
/// when there is a fault.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// Where the event stands in the request.
    Root(&'a str),
    /// A field of a message.
    Field(&'a Path<'a>, &'static str),
    /// An element of a repeated field.
    Item(&'a Path<'a>, &'static str, usize),
    /// A member of a free object.
    Key(&'a Path<'a>, &'a str),
    /// An element of a free list.
    Element(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// The field `name` within this.
    pub(super) fn field(&'a self, name: &'static str) -> Self {
        Self::Field(self, name)
    }

    /// The element `index` of the repeated field `name` within this.
    pub(super) fn item(&'a self, name: &'static str, index: usize) -> Self {
        Self::Item(self, name, index)
    }

    /// The member `key` of this free object.
    pub(super) fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    /// The element `index` of this free list.
    pub(super) fn element(&'a self, index: usize) -> Self {
        Self::Element(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(path) => f.write_str(path),
            Self::Field(above, name) => write!(f, "{above}.{name}"),
            Self::Item(above, name, index) => write!(f, "{above}.{name}[{index}]"),
            Self::Element(above, index) => write!(f, "{above}[{index}]"),
            Self::Key(above, key) => match key.char_indices().nth(KEY_CHARS_SHOWN) {
                Some((end, _)) => write!(f, "{above}.{}...", &key[..end]),
                None => write!(f, "{above}.{key}"),
            },
        }
    }
}
