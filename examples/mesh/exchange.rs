//! One request and its answer on a connection that speaks HTTP/1.1, in the task that asks.
//!
//! Knows how heads are written and read, and where an answer's body ends (RFC 9112, section 6.3). What it cannot be sure
//! of is an error, and ends the connection. Bodies that stream and connections that become something else are not its
//! business: for these [`pool`](crate::pool) has hyper, which has a task of its own for each connection.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, BytesMut};
use httparse::ParserConfig;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use smallvec::SmallVec;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::message;
use crate::transport::Io;

/// The largest head of an answer, and the largest trailers.
const MAX_HEAD: usize = 64 << 10;
/// The most headers of an answer.
const MAX_HEADERS: usize = 100;
/// Where a name and a value stand in a head.
type Place = (Range<usize>, Range<usize>);
/// How much is read at a time.
const ROOM: usize = 8 << 10;

/// A connection between two exchanges, or in one.
pub struct Wire {
    io: Box<dyn Io>,
    read: BytesMut,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Nothing of the request was taken.
    Unsent,
    /// The connection ended, or what came is no answer.
    Lost,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the upstream's answer broke off")
    }
}

impl std::error::Error for Broken {}

/// How far an answer's body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// So many bytes more.
    Length(u64),
    /// To the end of the connection.
    Open,
    /// So many bytes more of this chunk, and then others.
    Chunk(u64),
    /// The end of the line that ends a chunk's bytes, and then others.
    ChunkEnd,
    /// The line before a chunk's bytes.
    ChunkSize,
    /// What stands behind the last chunk.
    Trailers,
}

/// Whatever may be said about an answer by its head.
pub struct Answered {
    /// The head.
    pub parts: Parts,
    /// Where its body ends.
    left: Left,
    /// Whether the connection may be used again after it.
    lasting: bool,
}

impl Wire {
    /// A connection on which nothing has been said.
    pub fn new(io: Box<dyn Io>) -> Self {
        Wire { io, read: BytesMut::new() }
    }

    /// Whether the other side has kept silent since the last answer, and not hung up. Asks nobody: that is known by now.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let reading = pin!(self.io.read(&mut byte));
        reading.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// The connection itself, on which nothing may have been read ahead.
    pub fn into_io(self) -> Box<dyn Io> {
        self.io
    }

    /// Sends a request with all of its body, and waits for the head of the answer. `more`: one more header.
    pub async fn ask(
        &mut self,
        head: &Request<()>,
        more: Option<(HeaderName, &HeaderValue)>,
        body: &[u8],
    ) -> Result<Answered, Broken> {
        let request = written(head, more, body);
        let sent = self.io.write(&request).await.map_err(|_| Broken::Unsent)?;
        if sent == 0 {
            return Err(Broken::Unsent);
        }
        // One that does not want all of it may have answered before it hung up.
        if self.io.write_all(&request[sent..]).await.is_ok() {
            let _ = self.io.flush().await;
        }
        loop {
            match head_of(&mut self.read, head.method())? {
                // An answer is still to come, and switching to another protocol is nothing that was asked for.
                Some(answered) if answered.parts.status.is_informational() => {
                    if answered.parts.status == StatusCode::SWITCHING_PROTOCOLS {
                        return Err(Broken::Lost);
                    }
                }
                Some(answered) => return Ok(answered),
                None if self.read.len() > MAX_HEAD => return Err(Broken::Lost),
                None => {
                    self.read.reserve(ROOM);
                    let read = self.io.read_buf(&mut self.read).await.map_err(|_| Broken::Lost)?;
                    if read == 0 {
                        return Err(Broken::Lost);
                    }
                }
            }
        }
    }

    /// Reads on; `false`: the connection has ended.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        self.read.reserve(ROOM);
        let reading = pin!(self.io.read_buf(&mut self.read));
        reading.poll(cx).map(|read| read.map(|read| read > 0).map_err(|_| Broken::Lost))
    }
}

/// A request as it goes out.
fn written(head: &Request<()>, more: Option<(HeaderName, &HeaderValue)>, body: &[u8]) -> Vec<u8> {
    let headers = head.headers();
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let path = head.uri().path_and_query().map_or("/", |path| path.as_str());
    let more_size = more.as_ref().map_or(0, |(name, value)| name.as_str().len() + value.len() + 4);
    let mut text = Vec::with_capacity(64 + path.len() + size + more_size + body.len());
    for part in [head.method().as_str(), " ", path, " HTTP/1.1\r\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    let mut push = |name: &HeaderName, value: &[u8]| {
        for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
            text.extend_from_slice(part);
        }
    };
    let framing = |name: &HeaderName| name == header::CONTENT_LENGTH || name == header::TRANSFER_ENCODING;
    headers.iter().filter(|(name, _)| !framing(name)).for_each(|(name, value)| push(name, value.as_bytes()));
    if let Some((name, value)) = &more {
        push(name, value.as_bytes());
    }
    if !body.is_empty() || headers.contains_key(header::CONTENT_LENGTH) {
        push(&header::CONTENT_LENGTH, body.len().to_string().as_bytes());
    }
    text.extend_from_slice(b"\r\n");
    text.extend_from_slice(body);
    text
}

/// The head of an answer, if all of it has come.
fn head_of(read: &mut BytesMut, asked: &Method) -> Result<Option<Answered>, Broken> {
    if read.is_empty() {
        return Ok(None);
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut answer, read, &mut headers);
    let httparse::Status::Complete(size) = parsed.map_err(|_| Broken::Lost)? else { return Ok(None) };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Broken::Lost)?;
    let version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let said = Said::of(answer.headers);
    let left = said.left(status, version, asked)?;
    let lasting = left != Left::Open && said.stays_open(version);
    let places = places(read, answer.headers, |name| said.passes_on(name));
    drop(said);
    let head = read.split_to(size).freeze();
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.version, parts.headers) = (status, version, named(&head, &places)?);
    Ok(Some(Answered { parts, left, lasting }))
}

/// Where names and values stand that are wanted.
fn places(text: &[u8], headers: &[httparse::Header<'_>], wanted: impl Fn(&str) -> bool) -> SmallVec<[Place; 16]> {
    let at = |part: &[u8]| {
        let start = part.as_ptr() as usize - text.as_ptr() as usize;
        start..start + part.len()
    };
    let mut places = SmallVec::new();
    for header in headers {
        if wanted(header.name) {
            places.push((at(header.name.as_bytes()), at(header.value)));
        }
    }
    places
}

/// The headers that stand there. Values are not copied.
fn named(text: &Bytes, places: &[Place]) -> Result<HeaderMap, Broken> {
    // With room for what the rule adds and for what tells of it.
    let mut headers = HeaderMap::with_capacity(places.len() + 2);
    for (name, value) in places {
        let name = HeaderName::from_bytes(&text[name.clone()]).map_err(|_| Broken::Lost)?;
        let value = HeaderValue::from_maybe_shared(text.slice(value.clone())).map_err(|_| Broken::Lost)?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// What a head says of its body and its connection: the values as they came.
#[derive(Default)]
struct Said<'h> {
    lengths: SmallVec<[&'h [u8]; 1]>,
    codings: SmallVec<[&'h [u8]; 1]>,
    connection: SmallVec<[&'h [u8]; 1]>,
}

impl<'h> Said<'h> {
    fn of(headers: &[httparse::Header<'h>]) -> Self {
        let mut said = Said::default();
        for httparse::Header { name, value } in headers {
            let kind = match name.len() {
                10 if name.eq_ignore_ascii_case("connection") => &mut said.connection,
                14 if name.eq_ignore_ascii_case("content-length") => &mut said.lengths,
                17 if name.eq_ignore_ascii_case("transfer-encoding") => &mut said.codings,
                _ => continue,
            };
            kind.push(*value);
        }
        said
    }

    /// Where the body ends. A length beside chunks is no answer that two readers would understand alike.
    fn left(&self, status: StatusCode, version: Version, asked: &Method) -> Result<Left, Broken> {
        if *asked == Method::HEAD || status.is_informational() || matches!(status.as_u16(), 204 | 304) {
            return Ok(Left::Length(0));
        }
        let mut lengths = self.lengths.iter();
        let said = lengths.next().map(|length| digits(length)).transpose()?;
        for again in lengths {
            if said != Some(digits(again)?) {
                return Err(Broken::Lost);
            }
        }
        match &self.codings[..] {
            [] => Ok(said.map_or(Left::Open, Left::Length)),
            [coding] if coding.eq_ignore_ascii_case(b"chunked") => {
                let clear = said.is_none() && version == Version::HTTP_11;
                if clear { Ok(Left::ChunkSize) } else { Err(Broken::Lost) }
            }
            _ => Err(Broken::Lost),
        }
    }

    fn stays_open(&self, version: Version) -> bool {
        if version == Version::HTTP_10 { self.says("keep-alive") } else { !self.says("close") }
    }

    /// Whether `Connection` names this.
    fn says(&self, wanted: &str) -> bool {
        let words = self.connection.iter().flat_map(|line| line.split(|byte| *byte == b','));
        words.map(<[u8]>::trim_ascii).any(|word| word.eq_ignore_ascii_case(wanted.as_bytes()))
    }

    /// Whether a header is not for one connection only, as which `Connection` may name any but those that say where things
    /// end.
    fn passes_on(&self, name: &str) -> bool {
        let of_all = ["content-length", "host"].iter().any(|known| known.eq_ignore_ascii_case(name));
        !message::is_hop_by_hop_name(name) && (of_all || !self.says(name))
    }
}

fn digits(value: &[u8]) -> Result<u64, Broken> {
    let text = std::str::from_utf8(value).map_err(|_| Broken::Lost)?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain).ok_or(Broken::Lost)
}

/// Where a connection goes after its exchange.
pub trait Home: Unpin {
    /// The connection; `None`: it is none to be had like this.
    fn wire(&mut self) -> Option<&mut Wire>;
    /// The exchange is over, and the connection may be used again.
    fn back(self);
}

/// An answer's body on its way in. One that is dropped before its end takes the connection with it.
pub struct Arriving<H> {
    home: Option<H>,
    left: Left,
    lasting: bool,
}

impl<H: Home> Arriving<H> {
    /// The head, and the body that follows it on this connection.
    pub fn new(answered: Answered, home: H) -> Response<Self> {
        let Answered { parts, left, lasting } = answered;
        let mut body = Arriving { home: Some(home), left, lasting };
        if left == Left::Length(0) {
            body.end();
        }
        Response::from_parts(parts, body)
    }

    /// Lets go of the connection.
    fn end(&mut self) {
        self.left = Left::Length(0);
        let Some(mut home) = self.home.take() else { return };
        // What stands behind an answer that nobody asked for belongs to nobody.
        if self.lasting && home.wire().is_some_and(|wire| wire.read.is_empty()) {
            home.back();
        }
    }

    /// Up to so many bytes of what was read.
    fn taken(&mut self, most: u64) -> Bytes {
        let Some(wire) = self.home.as_mut().and_then(Home::wire) else { return Bytes::new() };
        let read = &mut wire.read;
        let size = usize::try_from(most).map_or(read.len(), |most| most.min(read.len()));
        read.split_to(size).freeze()
    }

    /// What can be made of what was read; `None`: more is needed.
    fn step(&mut self) -> Result<Option<Frame<Bytes>>, Broken> {
        loop {
            let Some(wire) = self.home.as_mut().and_then(Home::wire) else { return Ok(None) };
            let read = &mut wire.read;
            if read.is_empty() {
                return Ok(None);
            }
            match self.left {
                Left::Open => return Ok(Some(Frame::data(self.taken(u64::MAX)))),
                Left::Length(left) => {
                    let bytes = self.taken(left);
                    self.left = Left::Length(left - bytes.len() as u64);
                    if self.left == Left::Length(0) {
                        self.end();
                    }
                    return Ok(Some(Frame::data(bytes)));
                }
                Left::Chunk(left) => {
                    let bytes = self.taken(left);
                    let left = left - bytes.len() as u64;
                    self.left = if left == 0 { Left::ChunkEnd } else { Left::Chunk(left) };
                    return Ok(Some(Frame::data(bytes)));
                }
                Left::ChunkEnd => match &read[..] {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        self.left = Left::ChunkSize;
                    }
                    [b'\r'] => return Ok(None),
                    _ => return Err(Broken::Lost),
                },
                Left::ChunkSize => match httparse::parse_chunk_size(read).map_err(|_| Broken::Lost)? {
                    httparse::Status::Complete((size, length)) => {
                        read.advance(size);
                        self.left = if length == 0 { Left::Trailers } else { Left::Chunk(length) };
                    }
                    httparse::Status::Partial if read.len() > ROOM => return Err(Broken::Lost),
                    httparse::Status::Partial => return Ok(None),
                },
                Left::Trailers => {
                    let Some(trailers) = trailers(read)? else { return Ok(None) };
                    self.end();
                    return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                }
            }
        }
    }
}

/// What stands behind the last chunk, if all of it has come.
fn trailers(read: &mut BytesMut) -> Result<Option<HeaderMap>, Broken> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(read, &mut headers).map_err(|_| Broken::Lost)? {
        httparse::Status::Complete((size, headers)) => {
            let places = places(read, headers, |_| true);
            named(&read.split_to(size).freeze(), &places).map(Some)
        }
        httparse::Status::Partial if read.len() > MAX_HEAD => Err(Broken::Lost),
        httparse::Status::Partial => Ok(None),
    }
}

impl<H: Home> hyper::body::Body for Arriving<H> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.step() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => {}
                Err(broken) => {
                    self.home = None;
                    self.left = Left::Length(0);
                    return Poll::Ready(Some(Err(broken)));
                }
            }
            let open = self.left == Left::Open;
            let Some(wire) = self.home.as_mut().and_then(Home::wire) else { return Poll::Ready(None) };
            match ready!(wire.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) if open => self.end(),
                _ => {
                    self.home = None;
                    self.left = Left::Length(0);
                    return Poll::Ready(Some(Err(Broken::Lost)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == Left::Length(0)
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Left::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}
