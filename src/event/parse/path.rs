//! The path of a value in a body.

use std::fmt;

/// Most characters of a key that a path shows; a longer key is cut.
const KEY_CHARS_SHOWN: usize = 64;

/// A path as a list from the value up to the body. It becomes text only in a violation: a body may have many
/// values and long keys.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// The body itself.
    Top,
    /// The value of a key.
    Key(&'a Path<'a>, &'a str),
    /// An element of an array.
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => f.write_str("body"),
            Self::Item(above, index) => write!(f, "{above}[{index}]"),
            Self::Key(above, key) => {
                if !matches!(above, Self::Top) {
                    write!(f, "{above}.")?;
                }
                match key.char_indices().nth(KEY_CHARS_SHOWN) {
                    Some((end, _)) => write!(f, "{}...", &key[..end]),
                    None => f.write_str(key),
                }
            }
        }
    }
}
