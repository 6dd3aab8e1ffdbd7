//! The access log: one line for each request, in Istio's default text form or as JSON.
//!
//! Knows how a line looks. What it says is noted in [`Record`].

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::lines;
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
    write!(line, " {} {} {} - \"-\"", record.status, or_dash(&record.flags), or_dash(&record.details))?;
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
    match record.ends {
        Some(ends) => write!(line, " {} {}", ends.local, ends.remote)?,
        None => line.push_str(" - -"),
    }
    write!(line, " - {}", plain(or_dash(&record.route)))
}

/// Istio's fields, and `reason`: which rule in which file said so.
fn object(record: &Record) -> Value {
    let known = |value: &str| if value.is_empty() { Value::Null } else { Value::from(value) };
    let proved = |name: &Option<Name>| name.as_ref().map(Name::to_string);
    json!({
        "start_time": rfc3339(record.started()),
        "method": record.method.as_str(),
        "path": record.path(),
        "protocol": record.protocol,
        "response_code": record.status,
        "response_flags": or_dash(&record.flags),
        "response_code_details": known(&record.details),
        "connection_termination_details": null,
        "upstream_transport_failure_reason": null,
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
        "downstream_peer_uri_san": proved(&record.source_principal),
        "upstream_peer_uri_san": proved(&record.destination_principal),
        "requested_server_name": null,
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
