//! A length of time as Istio's documents write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The units, largest first; each in nanoseconds. What stands here first is what is written.
const UNITS: [(&str, u64); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("µs", 1_000), // U+00B5, the micro sign
    ("μs", 1_000), // U+03BC, the Greek letter
];

/// A length of time, to the nanosecond and with a sign, in the syntax of Go's `time.ParseDuration`: `1h2m3s`, `1.5s`,
/// `100ms`.
///
/// It spans some 292 years either way. Whether it may be negative or zero is for validation to say.
///
/// ```
/// use meshroute::model::Duration;
///
/// let timeout: Duration = "1m0.5s".parse()?;
/// assert_eq!(timeout.as_nanos(), 60_500_000_000);
/// assert_eq!(timeout.to_string(), "1m500ms");
/// # Ok::<(), meshroute::model::DurationError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(i64);

impl Duration {
    /// A length of time in nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Duration(nanos)
    }

    /// The whole of it in nanoseconds; negative if it is.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// The standard library's form, which has no sign; `None` if negative.
    pub fn to_std(self) -> Option<std::time::Duration> {
        u64::try_from(self.0).ok().map(std::time::Duration::from_nanos)
    }
}

/// A text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurationError {
    written: String,
    too_long: bool,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.too_long {
            return write!(f, "duration `{}` is out of range; it must stay under 292 years", self.written);
        }
        write!(f, "`{}` is not a duration; write a number and a unit, such as `1.5s`, `100ms` or `1h30m`", self.written)
    }
}

impl std::error::Error for DurationError {}

/// Why a text is no duration, before the text is known.
enum Mistake {
    Syntax,
    Range,
}

impl FromStr for Duration {
    type Err = DurationError;

    /// # Errors
    /// If the text is not in Go's syntax, or the duration does not fit.
    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse(text).map(Duration).map_err(|mistake| {
            let too_long = matches!(mistake, Mistake::Range);
            DurationError { written: text.to_owned(), too_long }
        })
    }
}

fn parse(text: &str) -> Result<i64, Mistake> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    let nanos = parse_terms(rest)?;
    let signed = if negative { 0i64.checked_sub_unsigned(nanos) } else { 0i64.checked_add_unsigned(nanos) };
    signed.ok_or(Mistake::Range)
}

fn parse_terms(mut rest: &str) -> Result<u64, Mistake> {
    if rest.is_empty() {
        return Err(Mistake::Syntax);
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let (nanos, after) = parse_term(rest)?;
        total = total.checked_add(nanos).ok_or(Mistake::Range)?;
        rest = after;
    }
    Ok(total)
}

/// One number with its unit, in nanoseconds, and what follows it.
fn parse_term(text: &str) -> Result<(u64, &str), Mistake> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(Mistake::Syntax);
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(Mistake::Syntax)?;
    let whole = digits(whole).and_then(|whole| whole.checked_mul(*unit)).ok_or(Mistake::Range)?;
    let nanos = whole.checked_add(fraction_of(fraction, *unit)).ok_or(Mistake::Range)?;
    Ok((nanos, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The value of a run of digits, of none 0; `None` if it does not fit.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() { Some(0) } else { text.parse().ok() }
}

/// `0.<digits>` of a unit, cut off at the nanosecond. Digits beyond the fifteenth cannot be told from rounding.
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let (mut value, mut scale) = (0u128, 1u128);
    for digit in digits.bytes().take(15) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    u64::try_from(value * u128::from(unit) / scale).unwrap_or(unit)
}

impl fmt::Display for Duration {
    /// Writes it as Go does, without the parts that are zero: `1h`, `1m30s`, `1.5ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.unsigned_abs();
        if rest == 0 {
            return f.write_str("0s");
        }
        if self.0 < 0 {
            f.write_str("-")?;
        }
        for (name, unit) in &UNITS[..2] {
            if rest >= *unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        write_last(f, rest)
    }
}

/// Less than a minute, in the largest unit of which there is one, with a fraction.
fn write_last(f: &mut fmt::Formatter<'_>, nanos: u64) -> fmt::Result {
    let Some((name, unit)) = UNITS[2..6].iter().find(|(_, unit)| nanos >= *unit) else {
        return Ok(());
    };
    write!(f, "{}", nanos / unit)?;
    let rest = nanos % unit;
    if rest != 0 {
        let width = unit.ilog10() as usize;
        let fraction = format!("{rest:0width$}");
        write!(f, ".{}", fraction.trim_end_matches('0'))?;
    }
    f.write_str(name)
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

struct Text;

impl serde::de::Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as `1.5s`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads_and_writes_it_shortly() {
        let table = [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("-0", 0, "0s"),
            ("1h2m3s", 3_723_000_000_000, "1h2m3s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("100ms", 100_000_000, "100ms"),
            ("1500ms", 1_500_000_000, "1.5s"),
            ("3600s", 3_600_000_000_000, "1h"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1h5ms", 3_600_005_000_000, "1h5ms"),
            ("-1s", -1_000_000_000, "-1s"),
            ("+.5m", 30_000_000_000, "30s"),
            ("1.s", 1_000_000_000, "1s"),
            ("1us", 1_000, "1us"),
            ("1.25µs", 1_250, "1.25us"),
            ("1.25μs", 1_250, "1.25us"),
            ("1.05ms", 1_050_000, "1.05ms"),
            ("0.9ns", 0, "0s"),
            ("0.333333333333333333333h", 1_199_999_999_999, "19m59.999999999s"),
            ("3s1h", 3_603_000_000_000, "1h3s"),
            ("9223372036854775807ns", i64::MAX, "2562047h47m16.854775807s"),
            ("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s"),
        ];
        for (text, nanos, written) in table {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.as_nanos(), nanos, "{text}");
            assert_eq!(duration.to_string(), written);
            assert_eq!(written.parse(), Ok(duration));
        }
    }

    #[test]
    fn refuses_the_rest_without_panicking() {
        for text in [
            "", "-", "+", ".", "s", ".s", "1", "1.5", "-5", "1x", "1S", "1 s", " 1s", "--1s", "1s-1s", "1,5s", "1µ",
            "٣s",
        ] {
            assert!(!text.parse::<Duration>().unwrap_err().too_long, "{text}");
        }
        let long = format!("1{}s", "0".repeat(400));
        for text in ["9223372036854775808ns", "-9223372036854775809ns", "2562048h", "9999999999999999999h", &long] {
            assert!(text.parse::<Duration>().unwrap_err().too_long, "{text}");
        }
    }

    #[test]
    fn has_a_sign_where_std_has_none() {
        assert_eq!(Duration::from_nanos(7).to_std(), Some(std::time::Duration::from_nanos(7)));
        assert_eq!(Duration::from_nanos(-7).to_std(), None);
    }
}
