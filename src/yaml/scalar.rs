//! What an unquoted word means to Kubernetes.
//!
//! Its reader is YAML 1.1 as `sigs.k8s.io/yaml` has it (goyaml.v2, `resolve.go`): `yes`, `on` and `y` are booleans,
//! `010` is eight, `1_000` a thousand. Knows words only; whether one was quoted is known next door.

/// The meaning of a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning<'a> {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(&'a str),
}

impl Meaning<'_> {
    /// As in "`yes` is a boolean to Kubernetes".
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Meaning::Null => "null",
            Meaning::Bool(_) => "a boolean",
            Meaning::Integer(_) | Meaning::Float(_) => "a number",
            Meaning::Text(_) => "a string",
        }
    }
}

/// Reads an unquoted word.
pub(super) fn plain(text: &str) -> Meaning<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Meaning::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Meaning::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Meaning::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Meaning::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Meaning::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) || text.len() > 400 {
        return Meaning::Text(text);
    }
    number(text).unwrap_or(Meaning::Text(text))
}

fn number(text: &str) -> Option<Meaning<'_>> {
    let bare = match text.starts_with('.') {
        true => text.to_owned(),
        false => text.replace('_', ""),
    };
    if let Some(integer) = integer(&bare) {
        return Some(Meaning::Integer(integer));
    }
    float_shape(&bare).then(|| bare.parse().ok().map(Meaning::Float)).flatten()
}

/// Go's `ParseInt` with base 0: `0x`, `0o`, `0b` and a leading `0` choose the base.
fn integer(text: &str) -> Option<i128> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    i128::from_str_radix(digits, radix).ok().map(|value| sign * value)
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn float_shape(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let some = !whole.is_empty() || !part.is_empty();
    some && digits(whole) && digits(part) && exponent.is_none_or(|e| !e.is_empty() && digits(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_what_kubernetes_takes_them_for() {
        for (text, integer) in
            [("010", 8), ("0x1F", 31), ("0o17", 15), ("0b1", 1), ("1_000", 1000), ("+1", 1), ("-0b10", -2)]
        {
            assert_eq!(plain(text), Meaning::Integer(integer), "{text}");
        }
        for (text, float) in [("1.10", 1.1), ("1e3", 1000.0), ("1_0.5", 10.5), (".5", 0.5), ("08", 8.0), ("1.", 1.0)] {
            assert_eq!(plain(text), Meaning::Float(float), "{text}");
        }
        for text in
            ["v1", "1.2.3", "10.0.0.1", "2001-12-14", "-", "0x", "+", "1e", ".", "e3", "5s", "é", "100%", "--1", "1-1"]
        {
            assert_eq!(plain(text), Meaning::Text(text));
        }
        assert_eq!(plain("Yes"), Meaning::Bool(true));
        assert_eq!(plain("n"), Meaning::Bool(false));
        assert_eq!(plain("~"), Meaning::Null);
    }
}
