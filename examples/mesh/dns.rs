//! Messages of DNS (RFC 1035), as far as a sidecar needs them: one question about one name, and its addresses.
//!
//! Pure: it opens no socket. Whoever asks may send anything; what is no question is not answered, and nothing is read
//! beyond its end.

use std::net::IpAddr;

/// How long the header is.
const HEADER: usize = 12;
/// The most that is sent by UDP, as it is without extensions.
pub const UDP: usize = 512;
/// For how many seconds an answer may be kept. The addresses of services do not change; services come and go.
const KEPT: u32 = 30;

/// The flag of an answer that is not whole.
const CUT: u8 = 0x02;

const A: u16 = 1;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;

/// How a question is answered, by RFC 1035, section 4.1.1.
#[derive(Clone, Copy)]
enum Code {
    Good = 0,
    Malformed = 1,
    NoSuchName = 3,
    Unknown = 4,
}

/// The answer to a message; `None`: it deserves none. `find` knows the addresses of a name in small letters, without the
/// last dot; where there are none, there is no such name. What is longer than `limit` is cut, and says so.
pub fn answer(message: &[u8], limit: usize, find: impl Fn(&str) -> Vec<IpAddr>) -> Option<Vec<u8>> {
    let flags = *message.get(2)?;
    let is_answer = flags & 0x80 != 0;
    if message.len() < HEADER || is_answer {
        return None;
    }
    if flags & 0x78 != 0 {
        return Some(reply(message, &[], Code::Unknown));
    }
    let one_question = message[4..6] == [0, 1];
    let Some(question) = one_question.then(|| Question::read(&message[HEADER..])).flatten() else {
        return Some(reply(message, &[], Code::Malformed));
    };
    let addresses = find(&question.name);
    if addresses.is_empty() {
        return Some(reply(message, question.bytes, Code::NoSuchName));
    }
    let mut answer = reply(message, question.bytes, Code::Good);
    let mut count = 0_u16;
    for address in addresses.iter().filter(|address| question.wants(address)) {
        let record = record(address);
        if answer.len() + record.len() > limit {
            answer[2] |= CUT;
            break;
        }
        answer.extend(record);
        count += 1;
    }
    answer[6..8].copy_from_slice(&count.to_be_bytes());
    Some(answer)
}

struct Question<'a> {
    /// In small letters, without the last dot.
    name: String,
    r#type: u16,
    class: u16,
    /// As it was sent.
    bytes: &'a [u8],
}

impl<'a> Question<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (mut name, mut at) = (String::new(), 0);
        loop {
            let length = usize::from(*bytes.get(at)?);
            // A question's name is the first in its message: there is nothing yet that it could point to.
            let label = bytes.get(at + 1..at + 1 + length).filter(|_| length < 64)?;
            at += 1 + length;
            if length == 0 {
                break;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            if at > 255 {
                return None;
            }
        }
        let word = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        Some(Question { name, r#type: word(at)?, class: word(at + 2)?, bytes: bytes.get(..at + 4)? })
    }

    fn wants(&self, address: &IpAddr) -> bool {
        let r#type = if address.is_ipv4() { A } else { AAAA };
        self.class == INTERNET && self.r#type == r#type
    }
}

/// A reply without answers: this server's own word, and there is no better one to be had.
fn reply(message: &[u8], question: &[u8], code: Code) -> Vec<u8> {
    let (authoritative, recursion_wanted) = (0x04, message[2] & 0x79);
    let mut reply = vec![message[0], message[1], 0x80 | authoritative | recursion_wanted, 0x80 | code as u8];
    reply.extend([0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0]);
    reply.extend(question);
    reply
}

/// An address of the name that was asked for, which stands right behind the header.
fn record(address: &IpAddr) -> Vec<u8> {
    let (r#type, bytes) = match address {
        IpAddr::V4(address) => (A, address.octets().to_vec()),
        IpAddr::V6(address) => (AAAA, address.octets().to_vec()),
    };
    let mut record = vec![0xc0, HEADER as u8];
    record.extend(r#type.to_be_bytes());
    record.extend(INTERNET.to_be_bytes());
    record.extend(KEPT.to_be_bytes());
    record.extend((bytes.len() as u16).to_be_bytes());
    record.extend(bytes);
    record
}
