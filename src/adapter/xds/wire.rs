//! Responses on the wire, and the decoder of requests. Resources were encoded when their snapshot was made; what is added
//! here is a few bytes around each. Large ones are not even copied: all streams send the same bytes.

use std::collections::VecDeque;
use std::marker::PhantomData;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};

use super::ads::{Flavor, Response};
use super::snapshot::{Resource, hex};

/// From this size on a resource is sent as it is kept. A smaller one is copied: it would not be worth a frame of its own.
const SHARED: usize = 4096;

impl Response {
    /// Writes it as a `DiscoveryResponse` or a `DeltaDiscoveryResponse`.
    pub fn encode(&self, flavor: Flavor, to: &mut impl BufMut) {
        self.pieces(flavor).into_iter().for_each(|piece| to.put(piece));
    }

    /// The same as a message of gRPC: whether it is compressed (never), its length, and it, in pieces.
    ///
    /// Source: gRPC over HTTP2, Length-Prefixed-Message.
    pub(super) fn message(&self, flavor: Flavor) -> Result<VecDeque<Bytes>, Status> {
        let mut pieces = self.pieces(flavor);
        let length = u32::try_from(pieces.iter().map(Bytes::len).sum::<usize>());
        let length = length.map_err(|_| Status::resource_exhausted("gRPC has no messages above 4 GiB"))?;
        let mut prefix = BytesMut::with_capacity(5);
        prefix.put_u8(0);
        prefix.put_u32(length);
        pieces.push_front(prefix.freeze());
        Ok(pieces)
    }

    fn pieces(&self, flavor: Flavor) -> VecDeque<Bytes> {
        let mut to = Pieces::default();
        field(1, self.version().as_bytes(), &mut to.open);
        match flavor {
            Flavor::StateOfTheWorld => self.resources.for_each(|resource| to.field(2, &resource.any)),
            Flavor::Delta => {
                self.resources.for_each(|resource| delta_resource(resource, &mut to));
                self.removed.iter().for_each(|name| field(6, name.as_bytes(), &mut to.open));
            }
        }
        field(4, self.kind.type_url().as_bytes(), &mut to.open);
        field(5, self.nonce().as_bytes(), &mut to.open);
        to.close();
        to.closed
    }
}

/// A message in the making.
#[derive(Default)]
struct Pieces {
    closed: VecDeque<Bytes>,
    /// What is copied, until something is not.
    open: BytesMut,
}

impl Pieces {
    fn field(&mut self, tag: u32, bytes: &Bytes) {
        if bytes.len() < SHARED {
            return field(tag, bytes, &mut self.open);
        }
        encode_key(tag, WireType::LengthDelimited, &mut self.open);
        encode_varint(bytes.len() as u64, &mut self.open);
        self.close();
        self.closed.push_back(bytes.clone());
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed.push_back(self.open.split().freeze());
        }
    }
}

/// A `Resource` as field 2.
fn delta_resource(resource: &Resource, to: &mut Pieces) {
    let version = hex(resource.version);
    let length = field_len(1, version.len()) + field_len(2, resource.any.len()) + field_len(3, resource.name.len());
    encode_key(2, WireType::LengthDelimited, &mut to.open);
    encode_varint(length as u64, &mut to.open);
    field(1, version.as_bytes(), &mut to.open);
    to.field(2, &resource.any);
    field(3, resource.name.as_bytes(), &mut to.open);
}

fn field(tag: u32, bytes: &[u8], to: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(bytes.len() as u64, to);
    to.put_slice(bytes);
}

fn field_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

/// Reads requests.
pub(super) struct Reads<R>(PhantomData<fn() -> R>);

impl<R> Reads<R> {
    pub(super) fn new() -> Self {
        Reads(PhantomData)
    }
}

impl<R: Message + Default> Decoder for Reads<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
