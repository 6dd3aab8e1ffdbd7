//! How a text is compared (`virtual_service.proto`, `StringMatch`).

use serde::{Deserialize, Serialize};

/// How a text is compared. Case counts.
///
/// ```
/// use meshroute::model::StringMatch;
/// // What a document writes as `uri: {prefix: /reviews}`.
/// let uri = StringMatch::Prefix("/reviews".into());
/// assert_ne!(uri, StringMatch::Exact("/reviews".into()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum StringMatch {
    /// The whole text is equal.
    Exact(String),
    /// The text begins so.
    Prefix(String),
    /// The whole text matches, in RE2's syntax.
    Regex(String),
    /// None of the three was written, `{}`: a value is there, whatever it is.
    #[default]
    Present,
}

message! {
    /// As it is written: a oneof, flattened.
    #[serde(rename = "StringMatch")]
    pub struct Written {
        /// The whole text.
        pub exact: Option<String>,
        /// Its beginning.
        pub prefix: Option<String>,
        /// RE2.
        pub regex: Option<String>,
    }
}

impl TryFrom<Written> for StringMatch {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match (written.exact, written.prefix, written.regex) {
            (None, None, None) => Ok(StringMatch::Present),
            (Some(text), None, None) => Ok(StringMatch::Exact(text)),
            (None, Some(text), None) => Ok(StringMatch::Prefix(text)),
            (None, None, Some(text)) => Ok(StringMatch::Regex(text)),
            _ => Err("more than one of `exact`, `prefix`, `regex`"),
        }
    }
}

impl From<StringMatch> for Written {
    fn from(pattern: StringMatch) -> Written {
        let none = Written::default();
        match pattern {
            StringMatch::Exact(text) => Written { exact: Some(text), ..none },
            StringMatch::Prefix(text) => Written { prefix: Some(text), ..none },
            StringMatch::Regex(text) => Written { regex: Some(text), ..none },
            StringMatch::Present => none,
        }
    }
}
