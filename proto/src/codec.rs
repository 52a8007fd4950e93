//! Messages to bytes as prost does it, with buffers for streams of content.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// What a stream's buffer takes at once, in bytes. Memory is only used as far as it is filled.
const BUFFER_BYTES: usize = 2 * 1024 * 1024;
/// Encoded messages are handed to the connection when they are this much, in bytes.
const YIELD_BYTES: usize = 384 * 1024;

/// The codec of all our services: prost's, but a message of 512 KiB neither grows a buffer of 8 KiB step by step nor
/// is handed over in pieces of 32 KiB. Content travels at more than twice the speed.
#[derive(Clone, Copy, Debug)]
pub struct StreamCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for StreamCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for StreamCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}
