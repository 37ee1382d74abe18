//! Values of any length in a sled tree, in chunks.
//!
//! sled turns a leaf of more than a quarter of its segment into a file of its own, which its `flush` does not sync. A
//! leaf holds up to 17 values, so chunks of [`CHUNK_BYTES_MAX`] keep every leaf below that.

use ::sled::Tree;

use super::records::{RecordError, VolumeKind};

/// Most bytes of one chunk.
pub const CHUNK_BYTES_MAX: usize = 128 * 1024;

/// In front of the first chunk: a version byte, and the number of chunks (2 bytes, big endian).
const HEAD_BYTES: usize = 3;
const VERSION: u8 = 1;

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] ::sled::Error),
    /// Retention has removed it.
    #[error("it was removed")]
    Gone,
    /// What is there makes no sense.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Stores `value`. The first chunk is written last: sled recovers its log up to some point, so where the first chunk is,
/// the others are.
pub fn put(tree: &Tree, kind: VolumeKind, number: u64, value: &[u8]) -> ::sled::Result<()> {
    let first_len = value.len().min(CHUNK_BYTES_MAX - HEAD_BYTES);
    let (first, rest) = value.split_at(first_len);
    let chunks = u16::try_from(1 + rest.len().div_ceil(CHUNK_BYTES_MAX)).expect("a value is below 8 GiB");
    for (chunk, no) in rest.chunks(CHUNK_BYTES_MAX).zip(1..) {
        tree.insert(key(kind, number, no), chunk)?;
    }
    let mut head = Vec::with_capacity(HEAD_BYTES + first.len());
    head.push(VERSION);
    head.extend(chunks.to_be_bytes());
    head.extend(first);
    tree.insert(key(kind, number, 0), head)?;
    Ok(())
}

/// Reads a value; `None` if there is none.
pub fn get(tree: &Tree, kind: VolumeKind, number: u64) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(first) = tree.get(key(kind, number, 0))? else { return Ok(None) };
    let (chunks, first) = read_head(&first)?;
    let mut value = Vec::with_capacity(first.len() + usize::from(chunks - 1) * CHUNK_BYTES_MAX);
    value.extend(first);
    for no in 1..chunks {
        let chunk = tree.get(key(kind, number, no))?;
        value.extend(
            &*chunk.ok_or_else(|| RecordError(format!("chunk {no} of {kind:?} {number} is missing")))?,
        );
    }
    Ok(Some(value))
}

/// The numbers under which whole values of a kind are stored, rising.
pub fn numbers(tree: &Tree, kind: VolumeKind) -> impl DoubleEndedIterator<Item = Result<u64, ReadError>> {
    tree.scan_prefix([kind as u8]).keys().filter_map(|key| match key {
        Ok(key) => match <[u8; KEY_BYTES]>::try_from(&*key) {
            Ok(key) if key[9..] == [0, 0] => {
                Some(Ok(u64::from_be_bytes(key[1..9].try_into().expect("it is eight bytes"))))
            }
            Ok(_) => None,
            Err(_) => Some(Err(RecordError(format!("key of {} bytes", key.len())).into())),
        },
        Err(error) => Some(Err(error.into())),
    })
}

const KEY_BYTES: usize = 11;

fn key(kind: VolumeKind, number: u64, chunk: u16) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[0] = kind as u8;
    key[1..9].copy_from_slice(&number.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn read_head(first: &[u8]) -> Result<(u16, &[u8]), RecordError> {
    match first {
        [VERSION, high, low, rest @ ..] if u16::from_be_bytes([*high, *low]) > 0 => {
            Ok((u16::from_be_bytes([*high, *low]), rest))
        }
        [version, ..] => Err(RecordError(format!("a value of version {version}"))),
        [] => Err(RecordError("an empty value".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_every_length_come_back() {
        let db = ::sled::Config::new().temporary(true).open().unwrap();
        for len in [0, 1, CHUNK_BYTES_MAX - HEAD_BYTES, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX * 3 + 7] {
            let value: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            put(&db, VolumeKind::Bodies, len as u64, &value).unwrap();
            assert_eq!(get(&db, VolumeKind::Bodies, len as u64).unwrap(), Some(value), "{len} bytes");
        }
        let numbers: Vec<u64> = numbers(&db, VolumeKind::Bodies).map(Result::unwrap).collect();
        assert_eq!(numbers.len(), 5);
        assert!(numbers.is_sorted());
        assert_eq!(get(&db, VolumeKind::Index, 1).unwrap(), None);
    }
}
