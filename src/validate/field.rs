//! Where in a resource a check is: `spec.http[0].match[1].headers.canary_id`.

/// The path of a field, written as the reader of documents writes it.
#[derive(Clone, Debug)]
pub(super) struct Field(String);

impl Field {
    pub fn root(name: &str) -> Field {
        Field(name.to_owned())
    }

    pub fn spec() -> Field {
        Field::root("spec")
    }

    /// The entry `key` of this map or message.
    pub fn key(&self, key: &str) -> Field {
        let simple = !key.is_empty()
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'<' | b'>' | b'$'));
        if simple { Field(format!("{}.{key}", self.0)) } else { Field(format!("{}[{key:?}]", self.0)) }
    }

    /// The entry `index` of this list.
    pub fn at(&self, index: usize) -> Field {
        Field(format!("{}[{index}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}
