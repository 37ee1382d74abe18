//! The protobuf codec of `tonic_prost`, with buffers sized for events and a bound on the elements of a
//! message.

use std::marker::PhantomData;

use bytes::Buf;
use prost::{Message, Name};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use super::elements::{ELEMENTS_MAX, are_too_many};

/// Initial size of a call's buffers, one for each direction. The library's 8 KiB are several times an event
/// and its response; a buffer grows for a longer message.
const BUFFER_BYTES: usize = 1024;
/// Bytes of a stream that are encoded before they are sent, as in the library.
const YIELD_BYTES: usize = 32 * 1024;

/// Protobuf, for generated clients and servers: `T` is sent, `U` is received.
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

/// Decodes messages of up to [`ELEMENTS_MAX`] elements.
#[derive(Debug)]
pub struct BoundedDecoder<U> {
    inner: ProstDecoder<U>,
    name: String,
}

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, encoded: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The buffer has the whole message in one chunk.
        if are_too_many(&self.name, encoded.chunk()) {
            return Err(Status::out_of_range(format!(
                "the message has more than {ELEMENTS_MAX} elements: nested messages, map entries and strings in lists"
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
