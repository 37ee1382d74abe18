//! The path of a field in a request.

use std::fmt;

/// Most characters of a free object's key that a path shows; a longer key is cut.
pub(super) const KEY_CHARS_SHOWN: usize = 64;

/// A path as a list from the field up to the request. It is on the stack of the check, and becomes text only
/// in a violation.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// The path of the event in the request.
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
    /// The field `name` of this.
    pub(super) fn field(&'a self, name: &'static str) -> Self {
        Self::Field(self, name)
    }

    /// The element `index` of the repeated field `name` of this.
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
