//! Messages with a prefix: one byte of flags and four with the length, in gRPC and in Connect's streams.

use bytes::{Buf, Bytes, BytesMut};

/// Length of the prefix.
pub(super) const PREFIX_BYTES: usize = 5;
/// The flag of a compressed message.
pub(super) const COMPRESSED: u8 = 1;
/// The flag of the end of a stream of Connect.
pub(super) const END: u8 = 2;

/// What a buffer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) flags: u8,
    pub(super) length: usize,
}

/// The prefix at the beginning of `bytes`, if it is whole.
pub(super) fn prefix(bytes: &[u8]) -> Option<Prefix> {
    let (flags, rest) = bytes.split_first()?;
    let length = u32::from_be_bytes(*rest.first_chunk()?);
    Some(Prefix { flags: *flags, length: usize::try_from(length).ok()? })
}

/// Takes the first message out of a buffer, without its prefix, if it is whole.
pub(super) fn take(buffer: &mut BytesMut) -> Option<Bytes> {
    let Prefix { length, .. } = prefix(buffer)?;
    if buffer.len() - PREFIX_BYTES < length {
        return None;
    }
    buffer.advance(PREFIX_BYTES);
    Some(buffer.split_to(length).freeze())
}

/// A message with its prefix.
pub(super) fn write(flags: u8, message: &[u8]) -> Bytes {
    let mut framed = begin(message.len());
    framed.extend_from_slice(message);
    end(framed, flags)
}

/// A buffer with room for a prefix and a message of about this length, which is to be appended.
pub(super) fn begin(length: usize) -> BytesMut {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + length);
    framed.extend_from_slice(&[0; PREFIX_BYTES]);
    framed
}

/// Writes the prefix, once the message is there.
pub(super) fn end(mut framed: BytesMut, flags: u8) -> Bytes {
    let length = u32::try_from(framed.len() - PREFIX_BYTES).expect("messages have some megabytes at most");
    framed[0] = flags;
    framed[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    framed.freeze()
}
