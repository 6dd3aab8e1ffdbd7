//! The words of a command line: `--key value` pairs, switches and plain words. Knows no command.

use std::collections::BTreeMap;

/// What stands alone, without a value.
const SWITCHES: [&str; 1] = ["intercept"];

/// What stood behind the command.
#[derive(Debug, Default)]
pub struct Args {
    words: Vec<String>,
    options: BTreeMap<String, Vec<String>>,
}

impl Args {
    /// Takes the words apart.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Args::default();
        while let Some(word) = words.next() {
            let Some(key) = word.strip_prefix("--") else {
                args.words.push(word);
                continue;
            };
            let value = match SWITCHES.contains(&key) {
                true => String::new(),
                false => words.next().ok_or_else(|| format!("`{word}` wants a value"))?,
            };
            args.options.entry(key.to_string()).or_default().push(value);
        }
        Ok(args)
    }

    /// The plain word in this place.
    pub fn word(&self, at: usize) -> Option<&str> {
        self.words.get(at).map(String::as_str)
    }

    /// Whether a switch was given.
    pub fn is_on(&self, switch: &str) -> bool {
        self.options.contains_key(switch)
    }

    /// Every value that was given for a key.
    pub fn all(&self, key: &str) -> &[String] {
        self.options.get(key).map_or(&[], Vec::as_slice)
    }

    /// The one value of a key.
    pub fn one(&self, key: &str) -> Result<&str, String> {
        match self.all(key) {
            [value] => Ok(value),
            [] => Err(format!("`--{key}` is missing")),
            _ => Err(format!("`--{key}` is given more than once")),
        }
    }

    /// The values of a key as `KEY=VALUE` pairs.
    pub fn pairs(&self, key: &str) -> Result<BTreeMap<String, String>, String> {
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_string(), value.to_string())),
            None => Err(format!("`--{key} {text}` is not KEY=VALUE")),
        };
        self.all(key).iter().map(pair).collect()
    }

    /// The port that this listener had before the part was started again; 0: any.
    pub fn port_of(&self, listener: &str) -> u16 {
        let known = self.pairs("listen").unwrap_or_default();
        known.get(listener).and_then(|port| port.parse().ok()).unwrap_or(0)
    }
}
