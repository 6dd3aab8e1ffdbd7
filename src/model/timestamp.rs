//! A moment as Kubernetes writes it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DAY: i64 = 86_400;
/// The first second of the year 0000 and the last of the year 9999, from the Unix epoch.
const SPAN: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// A moment in time, in the syntax of RFC 3339, of the years 0000 to 9999. Earlier is less.
///
/// ```
/// use meshroute::model::Timestamp;
///
/// let moment: Timestamp = "2024-05-01T12:00:00+02:00".parse()?;
/// assert_eq!(moment.to_string(), "2024-05-01T10:00:00Z");
/// # Ok::<(), meshroute::model::TimestampError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    /// The moment so many seconds after the Unix epoch and nanoseconds after that; `None` if outside the years 0000
    /// to 9999 or if the nanoseconds make a second.
    pub fn from_unix(seconds: i64, nanos: u32) -> Option<Self> {
        (SPAN.contains(&seconds) && nanos < 1_000_000_000).then_some(Timestamp { seconds, nanos })
    }

    /// Whole seconds since the Unix epoch, rounded down; negative before 1970.
    pub const fn unix_seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds since that second.
    pub const fn subsec_nanos(self) -> u32 {
        self.nanos
    }
}

/// A text that is no timestamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampError(String);

impl fmt::Display for TimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a timestamp of RFC 3339, such as `2024-05-01T12:00:00Z`", self.0)
    }
}

impl std::error::Error for TimestampError {}

impl FromStr for Timestamp {
    type Err = TimestampError;

    /// # Errors
    /// If the text is not in the syntax of RFC 3339 or names a day or an hour that does not exist. A leap second,
    /// `:60`, is refused, as Go does.
    fn from_str(text: &str) -> Result<Self, TimestampError> {
        Scan(text.as_bytes()).timestamp().ok_or_else(|| TimestampError(text.to_owned()))
    }
}

/// What is left to read.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn timestamp(mut self) -> Option<Timestamp> {
        let days = self.date()?;
        self.one_of(b"Tt")?;
        let second_of_day = self.time()?;
        let nanos = self.fraction()?;
        let offset = self.offset()?;
        if !self.0.is_empty() {
            return None;
        }
        Timestamp::from_unix(days * DAY + second_of_day - offset, nanos)
    }

    fn date(&mut self) -> Option<i64> {
        let year = self.number(4, 0..=9999)?;
        self.one_of(b"-")?;
        let month = self.number(2, 1..=12)?;
        self.one_of(b"-")?;
        let day = self.number(2, 1..=days_in(year, month))?;
        Some(days_from_civil(year, month, day))
    }

    fn time(&mut self) -> Option<i64> {
        let minutes = self.hours_and_minutes()?;
        self.one_of(b":")?;
        Some(minutes * 60 + self.number(2, 0..=59)?)
    }

    fn hours_and_minutes(&mut self) -> Option<i64> {
        let hours = self.number(2, 0..=23)?;
        self.one_of(b":")?;
        Some(hours * 60 + self.number(2, 0..=59)?)
    }

    /// Nanoseconds; what is finer is cut off.
    fn fraction(&mut self) -> Option<u32> {
        if self.0.first() != Some(&b'.') {
            return Some(0);
        }
        let digits = self.0[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let fraction = &self.0[1..=digits];
        self.0 = &self.0[digits + 1..];
        let nine = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
        Some(nine.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0')))
    }

    /// Seconds east of Greenwich.
    fn offset(&mut self) -> Option<i64> {
        match self.one_of(b"Zz+-")? {
            b'+' => Some(self.hours_and_minutes()? * 60),
            b'-' => Some(-self.hours_and_minutes()? * 60),
            _ => Some(0),
        }
    }

    fn one_of(&mut self, accepted: &[u8]) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        accepted.contains(byte).then(|| {
            self.0 = rest;
            *byte
        })
    }

    fn number(&mut self, width: usize, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(width)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.0 = rest;
        let number = digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
        range.contains(&number).then_some(number)
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the Unix epoch in the proleptic Gregorian calendar, by counting years from March, so that a leap day
/// comes last (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The way back: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

impl fmt::Display for Timestamp {
    /// Writes it in UTC, with a fraction if there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.seconds.div_euclid(DAY));
        let second = self.seconds.rem_euclid(DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if self.nanos != 0 {
            write!(f, ".{}", format!("{:09}", self.nanos).trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text)
    }
}

struct Text;

impl serde::de::Visitor<'_> for Text {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a timestamp such as `2024-05-01T12:00:00Z`")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rfc_3339_and_writes_utc() {
        let table = [
            ("1970-01-01T00:00:00Z", 0, 0, "1970-01-01T00:00:00Z"),
            ("1969-12-31T23:59:59.5Z", -1, 500_000_000, "1969-12-31T23:59:59.5Z"),
            ("2024-02-29T12:30:15Z", 1_709_209_815, 0, "2024-02-29T12:30:15Z"),
            ("2000-03-01t00:00:00z", 951_868_800, 0, "2000-03-01T00:00:00Z"),
            ("2024-05-01T12:00:00+02:00", 1_714_557_600, 0, "2024-05-01T10:00:00Z"),
            ("2024-12-31T20:00:00.0000000019-05:30", 1_735_695_000, 1, "2025-01-01T01:30:00.000000001Z"),
            ("0000-01-01T00:00:00Z", *SPAN.start(), 0, "0000-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59Z", *SPAN.end(), 0, "9999-12-31T23:59:59Z"),
        ];
        for (text, seconds, nanos, written) in table {
            let moment: Timestamp = text.parse().unwrap();
            assert_eq!((moment.unix_seconds(), moment.subsec_nanos()), (seconds, nanos), "{text}");
            assert_eq!(moment.to_string(), written);
            assert_eq!(written.parse(), Ok(moment));
        }
    }

    #[test]
    fn refuses_the_rest_without_panicking() {
        let table = [
            "",
            "2024",
            "2024-05-01",
            "2024-05-01 12:00:00Z",
            "2024-05-01T12:00:00",
            "2024-05-01T12:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-04-31T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:60Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00ZZ",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00+24:00",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:00.5",
            "2024-01-01T00:00:0µ",
        ];
        for text in table {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        assert_eq!(Timestamp::from_unix(0, 1_000_000_000), None);
    }

    #[test]
    fn every_day_is_followed_by_the_next() {
        for days in (SPAN.start() / DAY..=SPAN.end() / DAY).step_by(17) {
            let (year, month, day) = civil_from_days(days);
            assert!((1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day));
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn earlier_is_less() {
        let [a, b] =
            ["2024-05-01T12:00:00.1+02:00", "2024-05-01T10:00:00.2Z"].map(|text| text.parse::<Timestamp>().unwrap());
        assert!(a < b);
    }
}
