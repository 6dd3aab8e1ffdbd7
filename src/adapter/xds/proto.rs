//! Words of protobuf that every message here is made of.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Percent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as Seconds, UInt32Value, UInt64Value};
use prost::{Message, Name};

use crate::plan::ValueMatch;

/// A message with its type.
pub(super) fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: type_url::<M>(), value: message.encode_to_vec() }
}

/// The name of a type, as `Any` has it.
pub(super) fn type_url<M: Name>() -> String {
    format!("type.googleapis.com/{}", M::full_name())
}

pub(super) fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn long(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

pub(super) fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(super) fn percent(value: f64) -> Option<Percent> {
    Some(Percent { value })
}

/// Times longer than protobuf knows (10,000 years) are cut.
pub(super) fn seconds(time: Duration) -> Option<Seconds> {
    const LONGEST: u64 = 315_576_000_000;
    let seconds = i64::try_from(time.as_secs().min(LONGEST)).unwrap_or_default();
    Some(Seconds { seconds, nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default() })
}

pub(super) fn fraction(per_million: u32) -> FractionalPercent {
    FractionalPercent { numerator: per_million, denominator: DenominatorType::Million.into() }
}

/// A share that no runtime key overrides.
pub(super) fn runtime_fraction(per_million: u32) -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent { default_value: Some(fraction(per_million)), runtime_key: String::new() }
}

pub(super) fn bytes(bytes: &[u8]) -> core::DataSource {
    source(core::data_source::Specifier::InlineBytes(bytes.into()))
}

pub(super) fn file(path: &str) -> core::DataSource {
    source(core::data_source::Specifier::Filename(path.into()))
}

fn source(specifier: core::data_source::Specifier) -> core::DataSource {
    core::DataSource { specifier: Some(specifier), ..core::DataSource::default() }
}

/// An address with its port; a name where DNS is to say it.
pub(super) fn address(address: &str, port: u16) -> core::Address {
    let port = core::socket_address::PortSpecifier::PortValue(port.into());
    let socket =
        core::SocketAddress { address: address.into(), port_specifier: Some(port), ..core::SocketAddress::default() };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

pub(super) fn socket(socket: SocketAddr) -> core::Address {
    address(&socket.ip().to_string(), socket.port())
}

/// The address that stands for every one of the same family.
pub(super) fn any_address(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

/// Whence more is to be had: the stream that this came on.
pub(super) fn ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        // Whoever waits for what was named gets it, or the name is a mistake of ours: no timer shall decide.
        initial_fetch_timeout: seconds(Duration::ZERO),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..core::ConfigSource::default()
    })
}

pub(super) fn regex(pattern: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: pattern.into(), ..matcher::RegexMatcher::default() }
}

/// A test of a text; `None` where its being there is enough.
pub(super) fn string_match(test: &ValueMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match test {
        ValueMatch::Present => return None,
        ValueMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        ValueMatch::Prefix(text) => MatchPattern::Prefix(text.to_string()),
        ValueMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern.as_str())),
    };
    Some(matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false })
}
