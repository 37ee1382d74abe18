//! The codec of StreamPublishEvents: a message that cannot be read is one of the stream, not its end.

use bytes::Buf;
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::proto::{
    codec::{Unreadable, buffers, read},
    v1,
};

/// A message of the stream.
pub(in crate::grpc) type StreamMessage = Result<v1::StreamPublishEventsRequest, UnreadableMessage>;

/// A message that cannot be read.
#[derive(Debug)]
pub(in crate::grpc) struct UnreadableMessage {
    /// Its `sequence`; 0 if that cannot be read either.
    pub(in crate::grpc) sequence: i64,
    /// The reason.
    pub(in crate::grpc) why: Unreadable,
}

/// The codec.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct PublishStreamCodec;

/// Decodes its messages.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct PublishStreamDecoder;

/// The part of a message that its response repeats.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Sequence {
    #[prost(int64, tag = "1")]
    sequence: i64,
}

impl Codec for PublishStreamCodec {
    type Encode = v1::StreamPublishEventsResponse;
    type Decode = StreamMessage;
    type Encoder = ProstEncoder<v1::StreamPublishEventsResponse>;
    type Decoder = PublishStreamDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<v1::StreamPublishEventsResponse, v1::StreamPublishEventsRequest>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> PublishStreamDecoder {
        PublishStreamDecoder
    }
}

impl Decoder for PublishStreamDecoder {
    type Item = StreamMessage;
    type Error = Status;

    fn decode(&mut self, encoded: &mut DecodeBuf<'_>) -> Result<Option<StreamMessage>, Status> {
        // The buffer has the whole message in one chunk.
        let bytes = encoded.chunk();
        let message = read(bytes).map_err(|why| {
            // The other fields are skipped, whatever is in them.
            let sequence = Sequence::decode(bytes).map_or(0, |read| read.sequence);
            UnreadableMessage { sequence, why }
        });
        encoded.advance(encoded.remaining());
        Ok(Some(message))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}
