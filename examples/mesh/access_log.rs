//! The access log: one line for each request, and for each connection that was carried as a whole, in Istio's default text form or as JSON.
//!
//! Knows how a line looks. What it says is noted in [`Record`] and [`Passage`].

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::lines;
use crate::message::Ends;
use crate::passage::Passage;
use crate::record::Record;
use crate::spiffe::Name;

/// How lines are written: Istio's `meshConfig.accessLogEncoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Istio's default text form.
    #[default]
    Text,
    /// One object a line.
    Json,
    /// Not at all.
    Off,
}

impl Encoding {
    /// Reads `text` or `json`; nothing said is text.
    pub fn parse(said: &[String]) -> Result<Self, String> {
        match said.iter().map(|word| word.to_ascii_lowercase()).collect::<Vec<_>>().as_slice() {
            [] => Ok(Encoding::Text),
            [word] if word == "text" => Ok(Encoding::Text),
            [word] if word == "json" => Ok(Encoding::Json),
            [word] if word == "off" => Ok(Encoding::Off),
            _ => Err("`--access-log` is `text`, `json` or `off`".into()),
        }
    }

    /// Writes the line for a request.
    pub fn tell(self, record: &Record) {
        match self {
            Encoding::Text => write(text(record)),
            Encoding::Json => write(object(record).to_string()),
            Encoding::Off => {}
        }
    }

    /// Writes the line for a connection that was carried as a whole, or was to be.
    pub fn tell_of(self, passage: &Passage) {
        match self {
            Encoding::Text => write(whole_text(passage)),
            Encoding::Json => write(whole_object(passage).to_string()),
            Encoding::Off => {}
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Encoding::Text => "text",
            Encoding::Json => "json",
            Encoding::Off => "off",
        })
    }
}

/// Writes a line where this process's log goes.
pub fn write(line: impl AsRef<str>) {
    lines::write(line.as_ref());
}

fn text(record: &Record) -> String {
    let mut line = String::with_capacity(512);
    // Into a string nothing fails.
    let _ = write_text(record, &mut line);
    line
}

fn write_text(record: &Record, line: &mut String) -> std::fmt::Result {
    let path = record.path();
    let path = plain(&path);
    write!(line, "[{}] \"{} {path} {}\"", rfc3339(record.started()), record.method, record.protocol)?;
    write!(line, " {} {} {}", record.status, or_dash(&record.flags), or_dash(&record.details))?;
    write!(line, " - \"{}\"", or_dash(transport_failure(record)))?;
    write!(line, " {} {} {} ", record.received(), record.sent, record.duration().as_millis())?;
    match record.upstream_time {
        Some(time) => write!(line, "{}", time.as_millis())?,
        None => line.push('-'),
    }
    let upstream = upstream_host(record);
    let own: [&str; 5] = [&record.forwarded_for, &record.user_agent, &record.request_id, record.authority(), &upstream];
    for value in own {
        write!(line, " \"{}\"", plain(or_dash(value)))?;
    }
    write!(line, " {} -", plain(or_dash(&record.via.cluster)))?;
    write_ends(record.ends, line)?;
    write!(line, " {} {}", plain(or_dash(record.sni.as_deref().unwrap_or_default())), plain(or_dash(&record.route)))
}

fn write_ends(ends: Option<Ends>, line: &mut String) -> std::fmt::Result {
    match ends {
        Some(ends) => write!(line, " {} {}", ends.local, ends.remote),
        None => line.write_str(" - -"),
    }
}

/// What TLS to the upstream said where it failed, which stands in the details too.
fn transport_failure(record: &Record) -> &str {
    let failed = record.details.strip_prefix("upstream_reset_before_response_started{remote_connection_failure|");
    failed.and_then(|why| why.strip_suffix('}')).unwrap_or_default()
}

/// Istio's default form has the same fields for a connection; those of a request are empty, and there is no status.
fn whole_text(passage: &Passage) -> String {
    let mut line = String::with_capacity(256);
    // Into a string nothing fails.
    let _ = write_whole(passage, &mut line);
    line
}

fn write_whole(passage: &Passage, line: &mut String) -> std::fmt::Result {
    write!(line, "[{}] \"- - -\" 0 {}", rfc3339(passage.started), or_dash(passage.flags))?;
    write!(line, " {} {}", word(&passage.details), word(&passage.ended))?;
    let (received, sent) = passage.bytes();
    write!(line, " \"{}\" {received} {sent} {} -", word(&passage.failure), passage.duration().as_millis())?;
    write!(line, " \"-\" \"-\" \"-\" \"-\" \"{}\"", or_dash(passage.upstream.as_deref().unwrap_or_default()))?;
    write!(line, " {} ", plain(or_dash(&passage.via.cluster)))?;
    match passage.upstream_local {
        Some(local) => write!(line, "{local}")?,
        None => line.push('-'),
    }
    write_ends(passage.ends, line)?;
    write!(line, " {} -", word(passage.sni.as_deref().unwrap_or_default()))
}

/// In one word, as Envoy has it where there are no quotation marks around.
fn word(text: &str) -> String {
    let text = or_dash(text).replace(char::is_whitespace, "_");
    plain(&text).into_owned()
}

/// Istio's fields for a connection.
fn whole_object(passage: &Passage) -> Value {
    let known = |value: &str| if value.is_empty() { Value::Null } else { Value::from(value) };
    let proved = |name: &Option<Name>| name.as_ref().map(Name::to_string);
    let (received, sent) = passage.bytes();
    let upstream_peer = passage.destination_principal.as_ref().filter(|_| passage.reporter == "source");
    json!({
        "start_time": rfc3339(passage.started),
        "method": null,
        "path": null,
        "protocol": null,
        "response_code": 0,
        "response_flags": or_dash(passage.flags),
        "response_code_details": known(&passage.details),
        "connection_termination_details": known(&passage.ended),
        "upstream_transport_failure_reason": known(&passage.failure),
        "bytes_received": received,
        "bytes_sent": sent,
        "duration": passage.duration().as_millis() as u64,
        "upstream_service_time": null,
        "x_forwarded_for": null,
        "user_agent": null,
        "request_id": null,
        "authority": null,
        "upstream_host": passage.upstream,
        "upstream_cluster": known(&passage.via.cluster),
        "upstream_local_address": passage.upstream_local.map(|local| local.to_string()),
        "downstream_local_address": passage.ends.map(|ends| ends.local.to_string()),
        "downstream_remote_address": passage.ends.map(|ends| ends.remote.to_string()),
        "downstream_peer_uri_san": proved(&passage.caller),
        "upstream_peer_uri_san": upstream_peer.map(Name::to_string),
        "requested_server_name": passage.sni,
        "route_name": null,
    })
}

/// Istio's fields, and `reason`: which rule in which file said so.
fn object(record: &Record) -> Value {
    let known = |value: &str| if value.is_empty() { Value::Null } else { Value::from(value) };
    let proved = |name: &Option<Name>| name.as_ref().map(Name::to_string);
    let upstream_peer = record.destination_principal.as_ref().filter(|_| record.reporter == "source");
    json!({
        "start_time": rfc3339(record.started()),
        "method": record.method.as_str(),
        "path": record.path(),
        "protocol": record.protocol,
        "response_code": record.status,
        "response_flags": or_dash(&record.flags),
        "response_code_details": known(&record.details),
        "connection_termination_details": null,
        "upstream_transport_failure_reason": known(transport_failure(record)),
        "bytes_received": record.received(),
        "bytes_sent": record.sent,
        "duration": record.duration().as_millis() as u64,
        "upstream_service_time": record.upstream_time.map(|time| time.as_millis().to_string()),
        "x_forwarded_for": known(&record.forwarded_for),
        "user_agent": known(&record.user_agent),
        "request_id": known(&record.request_id),
        "authority": known(record.authority()),
        "upstream_host": known(&upstream_host(record)),
        "upstream_cluster": known(&record.via.cluster),
        "upstream_local_address": null,
        "downstream_local_address": record.ends.map(|ends| ends.local.to_string()),
        "downstream_remote_address": record.ends.map(|ends| ends.remote.to_string()),
        "downstream_peer_uri_san": proved(&record.caller),
        "upstream_peer_uri_san": upstream_peer.map(Name::to_string),
        "requested_server_name": record.sni,
        "route_name": known(&record.route),
        "reason": known(&record.reason),
    })
}

fn upstream_host(record: &Record) -> String {
    record.upstream.as_ref().map(|reached| reached.endpoint.to_string()).unwrap_or_default()
}

fn or_dash(value: &str) -> &str {
    if value.is_empty() { "-" } else { value }
}

/// What a client sends must not look like a line of the log or end a quotation.
fn plain(text: &str) -> Cow<'_, str> {
    let strange = |c: char| c.is_control() || c == '"';
    if text.chars().any(strange) { text.replace(strange, "?").into() } else { text.into() }
}

/// `2026-11-23T14:03:27.123Z`.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second, millis) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The date so many days after 1970-01-01. Years are counted from March, so that the odd day of a leap year is the last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (of_month, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + u64::from(month <= 2), month, of_month)
}
