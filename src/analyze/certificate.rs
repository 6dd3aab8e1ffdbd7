//! Whether a Secret holds a certificate that a gateway can show: PEM, DER, and the days between which it holds.
//!
//! Signatures, names and chains are nobody's business here, as in istio `pilot/pkg/xds`, `ValidateCertificate`.

use super::surroundings::Secret;
use crate::model::Timestamp;

/// What is wrong with the certificate of a Secret, if anything is.
pub(super) fn check(secret: &Secret, now: Option<i64>) -> Result<(), String> {
    let filled = |key: &str| secret.get(key).filter(|value| !value.trim().is_empty());
    let pair = |cert: &str, key: &str| filled(key).and(filled(cert));
    let written = pair("cert", "key").or_else(|| pair("tls.crt", "tls.key"));
    let written = written.ok_or("it has neither `tls.crt` and `tls.key` nor `cert` and `key`")?;
    let pem = base64(written).ok_or("it is not base64")?;
    let der = pem_block(&pem).ok_or("it is not PEM")?;
    let (from, to) = validity(&der).ok_or("it is no X.509 certificate")?;
    match now {
        Some(now) if now > to => Err("it has expired".into()),
        Some(now) if now < from => Err("it is not valid yet".into()),
        _ => Ok(()),
    }
}

/// The bytes that a text in base64 stands for; white space counts for nothing.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0u32);
    for letter in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => continue,
            _ => return None,
        };
        held = (held << 6 | u32::from(value)) & 0xFFFF;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Some(bytes)
}

/// The content of the first PEM block.
fn pem_block(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (_, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    base64(body)
}

/// The first and the last second for which a certificate holds (RFC 5280, section 4.1).
fn validity(der: &[u8]) -> Option<(i64, i64)> {
    let (certificate, _) = element(der, 0x30)?;
    let (body, _) = element(certificate, 0x30)?;
    // An explicit version, the serial number, the algorithm and the issuer stand before it.
    let rest = element(body, 0xA0).map_or(body, |(_, rest)| rest);
    let (_, rest) = element(rest, 0x02)?;
    let (_, rest) = element(rest, 0x30)?;
    let (_, rest) = element(rest, 0x30)?;
    let (validity, _) = element(rest, 0x30)?;
    let (from, rest) = moment(validity)?;
    let (to, _) = moment(rest)?;
    Some((from, to))
}

/// The content of an element with this tag, and what stands behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7F => (usize::from(short), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(short - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    (first == tag).then(|| rest.split_at_checked(length)).flatten()
}

/// A UTCTime or GeneralizedTime, in seconds since the Unix epoch, and what stands behind it.
fn moment(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, century, rest) = match element(der, 0x17) {
        Some((text, rest)) => (text, if text.first()? >= &b'5' { "19" } else { "20" }, rest),
        None => element(der, 0x18).map(|(text, rest)| (text, "", rest))?,
    };
    let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
    let part = |range: std::ops::Range<usize>| text.get(range);
    let written = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4)?,
        part(4..6)?,
        part(6..8)?,
        part(8..10)?,
        part(10..12)?,
        part(12..14)?
    );
    Some((written.parse::<Timestamp>().ok()?.unix_seconds(), rest))
}
