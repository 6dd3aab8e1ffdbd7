//! Names and values of headers, in matches, in operations and in CORS.

use super::field::Field;
use super::findings::Findings;
use crate::model::virtual_service::{HeaderOperations, Headers};

/// A header's name by RFC 7230: a token.
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A name that a match may look at: a header, a pseudo header, or a claim of a JSON web token.
pub(super) fn match_name(name: &str) -> Result<(), String> {
    let pseudo = [":method", ":scheme", ":authority", ":path", ":status"].contains(&name);
    if pseudo || is_token(name) || is_claim(name) {
        return Ok(());
    }
    Err(no_name(name))
}

/// A header that CORS may speak of.
pub(super) fn cors_name(name: &str) -> Result<(), String> {
    if is_token(name) { Ok(()) } else { Err(no_name(name)) }
}

fn no_name(name: &str) -> String {
    if name.is_empty() { "a header's name must not be empty".into() } else { format!("`{name}` is no header name") }
}

/// A claim of a JSON web token: `@request.auth.claims.group`, `@request.auth.claims[group]`.
pub(super) fn is_claim(name: &str) -> bool {
    const PREFIX: &str = "@request.auth.claims";
    let Some((prefix, claim)) = name.split_at_checked(PREFIX.len()) else { return false };
    if !prefix.eq_ignore_ascii_case(PREFIX) || claim.len() < 2 {
        return false;
    }
    claim.starts_with('.') || (claim.starts_with('[') && claim.ends_with(']'))
}

/// The names under which the authority can be set.
pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// The operations of a rule or of a destination.
pub(super) fn check(headers: Option<&Headers>, field: &Field, found: &mut Findings) {
    let Some(headers) = headers else { return };
    if let Some(request) = &headers.request {
        operations(request, &field.key("request"), settable_on_a_request, found);
    }
    if let Some(response) = &headers.response {
        operations(response, &field.key("response"), changeable, found);
    }
}

fn operations(
    operations: &HeaderOperations,
    field: &Field,
    settable: fn(&str) -> Result<(), String>,
    found: &mut Findings,
) {
    for (word, entries) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, text) in entries {
            let field = field.key(word).key(name);
            found.check(&field, "bad-header-name", settable(name));
            found.check(&field, "bad-header-value", value(text));
        }
    }
    for (i, name) in operations.remove.iter().enumerate() {
        found.check(&field.key("remove").at(i), "bad-header-name", changeable(name));
    }
}

fn settable_on_a_request(name: &str) -> Result<(), String> {
    if is_authority(name) { Ok(()) } else { changeable(name) }
}

fn changeable(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a header's name must not be empty".into());
    }
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(format!("the header `{name}` cannot be changed here"));
    }
    Ok(())
}

/// A value that Envoy takes: without control characters, and with `%` only in `%%`, `%NAME%` and `%NAME(..)%`.
fn value(text: &str) -> Result<(), String> {
    if text.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        return Err("a header's value has no control characters".into());
    }
    if variables_are_closed(text.as_bytes()) {
        return Ok(());
    }
    Err(format!("`{text}` has a `%` that begins no `%NAME%`; write `%%` for the character itself"))
}

/// Where the reader of a value stands, as in Envoy's `header_parser.cc` up to 1.20, which Istio copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    Name,
    Arguments,
    Element,
    String,
    AfterElement,
    ArgumentsEnd,
    VariableEnd,
}

fn variables_are_closed(value: &[u8]) -> bool {
    let (mut state, mut at) = (State::Text, 0);
    while let Some(byte) = value.get(at) {
        let next = value.get(at + 1);
        match step(state, *byte, next) {
            None => return false,
            Some((after, taken)) => (state, at) = (after, at + taken),
        }
    }
    state == State::Text
}

/// The state after a byte and how many bytes it took; `None` where nothing of the kind may stand.
fn step(state: State, byte: u8, next: Option<&u8>) -> Option<(State, usize)> {
    let blank = byte == b' ';
    let after = match (state, byte) {
        (State::Text, b'%') if next == Some(&b'%') => return Some((State::Text, 2)),
        (State::Text, b'%') if next.is_none() => return None,
        (State::Text, b'%') => State::Name,
        (State::Text, _) => State::Text,
        (State::Name, b'%') => State::Text,
        (State::Name, b'(') => State::Arguments,
        (State::Name, _) => State::Name,
        (State::Arguments, b'[') => State::Element,
        (State::Arguments, _) => {
            if blank {
                State::Arguments
            } else {
                State::String
            }
        }
        (State::Element, b'"') => State::String,
        (State::String, b'\\') => return next.map(|_| (State::String, 2)),
        (State::String, b')') => State::VariableEnd,
        (State::String, b'"') => State::AfterElement,
        (State::String, _) => State::String,
        (State::AfterElement, b',') => State::Element,
        (State::AfterElement, b']') => State::ArgumentsEnd,
        (State::ArgumentsEnd, b')') => State::VariableEnd,
        (State::VariableEnd, b'%') => State::Text,
        (State::Element | State::AfterElement | State::ArgumentsEnd | State::VariableEnd, _) => {
            return blank.then_some((state, 1));
        }
    };
    Some((after, 1))
}
