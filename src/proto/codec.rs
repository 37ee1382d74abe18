//! How messages become bytes: as `tonic_prost` has it, with buffers that fit events, and a bound on what a message unpacks to.

use std::marker::PhantomData;

use bytes::Buf;
use prost::{Message, Name};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::elements::{ELEMENTS_MAX, are_too_many};

/// What a call's buffers begin with, one for each direction. The library's 8 KiB are several times an event and its
/// answer; a longer message makes its buffer grow.
const BUFFER_BYTES: usize = 1024;
/// How much of a stream is encoded before it is handed on, as the library has it.
const YIELD_BYTES: usize = 32 * 1024;

/// Protobuf, for generated clients and servers: `T` is what they send, `U` what they receive.
#[derive(Clone, Debug)]
pub struct ProtobufCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ProtobufCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ProtobufCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> BoundedDecoder<U> {
        BoundedDecoder { inner: ProstCodec::<T, U>::raw_decoder(buffers()), name: U::full_name() }
    }
}

/// Decodes messages of no more than [`ELEMENTS_MAX`] parts.
#[derive(Debug)]
pub struct BoundedDecoder<U> {
    inner: ProstDecoder<U>,
    name: String,
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, encoded: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message is in one piece: it was gathered in a buffer of its own.
        if are_too_many(&self.name, encoded.chunk()) {
            return Err(Status::out_of_range(format!(
                "the message has more than {ELEMENTS_MAX} parts: messages, entries and texts of lists in it"
            )));
        }
        self.inner.decode(encoded)
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}
