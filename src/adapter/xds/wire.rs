//! Responses on the wire, and the codec that puts them there. Resources were encoded when their snapshot was made; what
//! is added here is a few bytes around each.

use std::marker::PhantomData;

use bytes::BufMut;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::ads::{Flavor, Response};
use super::snapshot::{Resource, hex};

impl Response {
    /// Writes it as a `DiscoveryResponse` or a `DeltaDiscoveryResponse`.
    pub fn encode(&self, flavor: Flavor, to: &mut impl BufMut) {
        let version = self.version();
        field(1, version.as_bytes(), to);
        match flavor {
            Flavor::StateOfTheWorld => self.resources.for_each(|resource| field(2, &resource.any, to)),
            Flavor::Delta => {
                self.resources.for_each(|resource| delta_resource(resource, to));
                self.removed.iter().for_each(|name| field(6, name.as_bytes(), to));
            }
        }
        field(4, self.kind.type_url().as_bytes(), to);
        field(5, self.nonce().as_bytes(), to);
    }
}

/// A `Resource` as field 2.
fn delta_resource(resource: &Resource, to: &mut impl BufMut) {
    let version = hex(resource.version);
    let length = field_len(1, version.len()) + field_len(2, resource.any.len()) + field_len(3, resource.name.len());
    encode_key(2, WireType::LengthDelimited, to);
    encode_varint(length as u64, to);
    field(1, version.as_bytes(), to);
    field(2, &resource.any, to);
    field(3, resource.name.as_bytes(), to);
}

fn field(tag: u32, bytes: &[u8], to: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(bytes.len() as u64, to);
    to.put_slice(bytes);
}

fn field_len(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

/// Writes responses, reads requests.
pub(super) struct Wire<R> {
    flavor: Flavor,
    requests: PhantomData<fn() -> R>,
}

impl<R> Wire<R> {
    pub(super) fn new(flavor: Flavor) -> Self {
        Wire { flavor, requests: PhantomData }
    }
}

impl<R: Message + Default + 'static> Codec for Wire<R> {
    type Encode = Response;
    type Decode = R;
    type Encoder = Writer;
    type Decoder = Reads<R>;

    fn encoder(&mut self) -> Writer {
        Writer(self.flavor)
    }

    fn decoder(&mut self) -> Reads<R> {
        Reads(PhantomData)
    }
}

pub(super) struct Writer(Flavor);

impl Encoder for Writer {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        response.encode(self.0, to);
        Ok(())
    }
}

pub(super) struct Reads<R>(PhantomData<fn() -> R>);

impl<R: Message + Default> Decoder for Reads<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(from).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
