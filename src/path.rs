//! Path normalisation as Envoy does it before it matches anything.
//!
//! Knows `normalize_path: true` the way Istio sets it by default (its `BASE`): Envoy hands the path to googleurl, whose
//! canonicaliser (`url_canon_path.cc`) this follows byte for byte. It knows nothing of the rest: merging `//` and
//! decoding `%2F` are other settings, and an absolute-form target is taken apart before it comes here.
//!
//! | written | becomes |
//! |---|---|
//! | `/a/./b`, `/a/x/../b`, `/a/%2e/b`, `/a/x/.%2E/b` | `/a/b` |
//! | `/../a` | `/a`: nothing is above the root |
//! | `//a/../b` | `//b`: an empty segment is a segment |
//! | `/%66oo%7e` | `/foo~`: escapes of letters, digits and `-._~` are decoded |
//! | `/%2f`, `/%2F`, `/%zz` | unchanged: other escapes are kept, in their case, and so are invalid ones |
//! | `/a\b` | `/a/b` |
//! | `/a b`, and so for `"<>^{}`, backtick, pipe, control characters, bytes from 0x80 on | `/a%20b`, in upper case |
//! | `/a#b`, `/a?q#b` | `/a`, `/a?q` |
//! | `/a?x=/../%66` | unchanged: the query is never touched |
//! | `/a%00` | an error |

use smallvec::SmallVec;

/// How long a changed path may be before it is put on the heap.
const INLINE: usize = 256;

/// Why a path has no normal form. Envoy answers either with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// It holds a NUL, as a byte or as `%00`, before the query.
    #[error("the path contains a NUL character")]
    Nul,
}

/// A path, with its query, in the form in which Envoy matches it and sends it on.
#[derive(Clone, Debug)]
pub struct NormalPath<'a> {
    text: Text<'a>,
    /// Where the query's `?` stands, or the length of the text.
    path_len: usize,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "the buffer is inline so that a changed path does not allocate")]
enum Text<'a> {
    AsWritten(&'a [u8]),
    Changed(SmallVec<[u8; INLINE]>),
}

impl Default for NormalPath<'_> {
    /// The root.
    fn default() -> Self {
        NormalPath { text: Text::AsWritten(b"/"), path_len: 1 }
    }
}

/// A path in normal form, with its query, wherever it is kept. Small, unlike [`NormalPath`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathView<'a> {
    text: &'a [u8],
    path_len: usize,
}

impl<'a> PathView<'a> {
    /// Path and query.
    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        self.text
    }

    /// The path without its query.
    pub(crate) fn path(&self) -> &'a [u8] {
        &self.text[..self.path_len]
    }

    /// What follows the first `?`.
    pub(crate) fn query(&self) -> Option<&'a [u8]> {
        self.text.get(self.path_len + 1..)
    }
}

impl NormalPath<'_> {
    /// It, borrowed.
    pub(crate) fn view(&self) -> PathView<'_> {
        PathView { text: self.as_bytes(), path_len: self.path_len }
    }

    /// Path and query.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.text {
            Text::AsWritten(text) => text,
            Text::Changed(text) => text,
        }
    }

    /// The path without its query.
    pub fn path(&self) -> &[u8] {
        &self.as_bytes()[..self.path_len]
    }

    /// What follows the first `?`, exactly as it was written.
    pub fn query(&self) -> Option<&[u8]> {
        self.as_bytes().get(self.path_len + 1..)
    }

    /// Whether normalising changed the path. If not, it is borrowed from the request. A fragment cut off is no
    /// change.
    pub fn is_changed(&self) -> bool {
        matches!(self.text, Text::Changed(_))
    }
}

/// Brings the path of a request, query and fragment included, into its normal form.
///
/// ```
/// use meshroute::normalize;
///
/// let path = normalize(b"/a/../%66oo\\bar?next=/../").unwrap();
/// assert_eq!(path.path(), b"/foo/bar");
/// assert_eq!(path.query(), Some(&b"next=/../"[..]));
/// ```
///
/// # Errors
///
/// If the path does not begin with `/`, or contains a NUL character.
///
/// # Allocates
///
/// Nothing if the path is normal already, which it nearly always is; nor if the new form, query included, has at most
/// 256 bytes.
///
/// Source: Envoy's `HttpConnectionManager.normalize_path`, its `PathUtil::canonicalPath`, and the runtime flag
/// `http_reject_path_with_fragment`, which Istio turns off.
pub fn normalize(raw: &[u8]) -> Result<NormalPath<'_>, PathError> {
    if let Some(PathView { text, path_len }) = as_written(raw) {
        return Ok(NormalPath { text: Text::AsWritten(text), path_len });
    }
    if raw.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let raw = &raw[..position(raw, b'#')];
    let (path, query) = raw.split_at(position(raw, b'?'));
    let mut text = canonical(path)?;
    let path_len = text.len();
    text.extend_from_slice(query);
    Ok(NormalPath { text: Text::Changed(text), path_len })
}

/// Whether `raw`, a path with or without a query, is its own normal form.
pub fn is_normal(raw: &[u8]) -> bool {
    let path = &raw[..position(raw, b'?')];
    path.first() == Some(&b'/') && is_path_normal(path) && !raw.contains(&b'#')
}

/// A path as it was sent, without its fragment, if it is in normal form already. One pass over it, mostly.
pub(crate) fn as_written(raw: &[u8]) -> Option<PathView<'_>> {
    if raw.first() != Some(&b'/') {
        return None;
    }
    let mut path_len = plain_len(raw);
    if raw.get(path_len).is_some_and(|byte| !matches!(byte, b'?' | b'#')) {
        // What a dot or an escape means depends on what stands behind it.
        path_len = raw.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(raw.len());
        if !is_path_normal(&raw[..path_len]) {
            return None;
        }
    }
    let query = raw[path_len..].first() == Some(&b'?');
    let end = if query { path_len + position(&raw[path_len..], b'#') } else { path_len };
    Some(PathView { text: &raw[..end], path_len })
}

/// How many bytes of a path are plain, up to the first that is not. Eight at a time, as long as all of them are.
fn plain_len(raw: &[u8]) -> usize {
    let is_plain = |byte: &u8| PLAIN[usize::from(*byte)];
    let (words, _) = raw.as_chunks::<8>();
    let words = words.iter().take_while(|word| word.iter().fold(true, |all, byte| all & is_plain(byte))).count();
    let rest = &raw[words * 8..];
    words * 8 + rest.iter().position(|byte| !is_plain(byte)).unwrap_or(rest.len())
}

/// Bytes that a normal path holds anywhere, whatever stands beside them.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        plain[byte] = matches!(CLASSES[byte], Class::Pass | Class::Unreserved);
        byte += 1;
    }
    plain
};

fn position(text: &[u8], byte: u8) -> usize {
    // In a short text a look at each byte costs less than the call.
    let at = if text.len() <= 16 { text.iter().position(|known| *known == byte) } else { memchr::memchr(byte, text) };
    at.unwrap_or(text.len())
}

/// What the canonicaliser does with a byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Kept as it is, escaped or not.
    Pass,
    /// Kept, and decoded where it is escaped.
    Unreserved,
    /// Escaped, and kept escaped.
    Escape,
    /// `.`, unescaped or escaped, may be part of a dot segment.
    Dot,
    Percent,
    Backslash,
    Nul,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Pass; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = classify(byte as u8);
        byte += 1;
    }
    classes
};

/// googleurl's `kPathCharLookup`.
const fn classify(byte: u8) -> Class {
    match byte {
        0 => Class::Nul,
        b'.' => Class::Dot,
        b'%' => Class::Percent,
        b'\\' => Class::Backslash,
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'~' => Class::Unreserved,
        b' ' | b'"' | b'#' | b'<' | b'>' | b'?' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Escape,
        0x01..=0x1F | 0x7F..=0xFF => Class::Escape,
        _ => Class::Pass,
    }
}

fn class(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

fn is_path_normal(path: &[u8]) -> bool {
    path.iter().enumerate().all(|(at, byte)| match class(*byte) {
        Class::Pass | Class::Unreserved => true,
        Class::Dot => at == 0 || path[at - 1] != b'/' || matches!(dots(path, at + 1), Dots::Name),
        Class::Percent => decode(path, at)
            .is_none_or(|byte| matches!(class(byte), Class::Pass | Class::Escape | Class::Percent | Class::Backslash)),
        Class::Escape | Class::Backslash | Class::Nul => false,
    })
}

/// What a dot at the beginning of a segment means, and how much text behind it belongs to that.
enum Dots {
    Name,
    Here(usize),
    Up(usize),
}

/// Looks at what follows a segment's first dot.
fn dots(path: &[u8], after: usize) -> Dots {
    if let Some(len) = segment_end(path, after) {
        return Dots::Here(len);
    }
    let second = dot_len(path, after);
    match segment_end(path, after + second) {
        Some(len) if second > 0 => Dots::Up(second + len),
        _ => Dots::Name,
    }
}

/// The length of what ends a segment here: a slash, or nothing at all at the end of the path.
fn segment_end(path: &[u8], at: usize) -> Option<usize> {
    match path.get(at) {
        None => Some(0),
        Some(b'/' | b'\\') => Some(1),
        Some(_) => None,
    }
}

/// The length of the dot written here, `.` or `%2e`; 0 if there is none.
fn dot_len(path: &[u8], at: usize) -> usize {
    match path.get(at..).unwrap_or_default() {
        [b'.', ..] => 1,
        [b'%', b'2', b'e' | b'E', ..] => 3,
        _ => 0,
    }
}

/// The byte that the two digits behind `at` stand for. Whether a `%` stands at `at` is the caller's business.
fn decode(text: &[u8], at: usize) -> Option<u8> {
    let [high, low] = *text.get(at + 1..at + 3)? else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    Some(digit(high)? << 4 | digit(low)?)
}

/// The path, rewritten. Linear: each step takes bytes of the input, and what `..` takes back was written once.
fn canonical(path: &[u8]) -> Result<SmallVec<[u8; INLINE]>, PathError> {
    let mut out = Canonical { text: SmallVec::new(), stray_percent: None };
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        at += match class(*byte) {
            Class::Pass | Class::Unreserved => out.push(*byte, 1),
            Class::Escape => out.push_escaped(*byte),
            Class::Backslash => out.push(b'/', 1),
            Class::Nul => return Err(PathError::Nul),
            Class::Dot | Class::Percent if dot_len(path, at) > 0 => out.dot(path, at, dot_len(path, at)),
            Class::Dot | Class::Percent => out.percent(path, at)?,
        };
    }
    Ok(out.text)
}

struct Canonical {
    text: SmallVec<[u8; INLINE]>,
    /// Where the last `%` was written that begins no escape.
    stray_percent: Option<usize>,
}

impl Canonical {
    /// Writes a byte for `taken` bytes of input. Like all that write, it answers how much input it has dealt with.
    fn push(&mut self, byte: u8, taken: usize) -> usize {
        self.text.push(byte);
        taken
    }

    fn push_escaped(&mut self, byte: u8) -> usize {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        self.text.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        1
    }

    fn dot(&mut self, path: &[u8], at: usize, len: usize) -> usize {
        if self.text.last() != Some(&b'/') {
            return self.push(b'.', len);
        }
        match dots(path, at + len) {
            Dots::Name => self.push(b'.', len),
            Dots::Here(more) => len + more,
            Dots::Up(more) => {
                self.up();
                len + more
            }
        }
    }

    /// Takes the last segment back, but never the root.
    fn up(&mut self) {
        let parent = self.text[..self.text.len().saturating_sub(1)].iter().rposition(|byte| *byte == b'/');
        self.text.truncate(parent.map_or(1, |slash| slash + 1));
        self.stray_percent = self.stray_percent.filter(|percent| *percent < self.text.len());
    }

    fn percent(&mut self, path: &[u8], at: usize) -> Result<usize, PathError> {
        let Some(byte) = decode(path, at) else {
            self.stray_percent = Some(self.text.len());
            return Ok(self.push(b'%', 1));
        };
        match class(byte) {
            Class::Nul => return Err(PathError::Nul),
            Class::Unreserved => {
                self.text.push(byte);
                self.defuse(byte, path.get(at + 3));
            }
            _ => self.text.extend_from_slice(&path[at..at + 3]),
        }
        Ok(3)
    }

    /// A stray `%` and a byte just decoded could together read as an escape that nobody wrote: `%%300` would become
    /// `%00`. Such a `%` becomes `%25`.
    fn defuse(&mut self, decoded: u8, next: Option<&u8>) {
        let len = self.text.len();
        let Some(percent) = self.stray_percent.filter(|percent| percent + 3 >= len) else { return };
        let ahead = percent + 2 == len;
        if ahead {
            let Some(next) = next.filter(|byte| byte.is_ascii()) else { return };
            self.text.push(*next);
        }
        if decode(&self.text, percent).is_none() {
            self.text.truncate(len);
            return;
        }
        if !ahead {
            self.text.push(self.text[percent + 1]);
        }
        self.text[percent + 1] = b'2';
        self.text[percent + 2] = b'5';
        self.text.push(decoded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(raw: &[u8]) -> Result<String, PathError> {
        normalize(raw).map(|path| String::from_utf8(path.as_bytes().to_vec()).unwrap())
    }

    /// Each of these was asked of a real Envoy 1.40 with `normalize_path: true` and fragments allowed; only those with
    /// bytes which its HTTP/1 parser refuses come from googleurl's table.
    #[test]
    fn table() {
        let cases: &[(&[u8], &str)] = &[
            (b"/", "/"),
            (b"/%66oo/../b\\c#x?q", "/b/c"),
            (b"/a?x#y", "/a?x"),
            (b"/a%2eb%2E/%2e%2E/x", "/x"),
            (b"//a/../b", "//b"),
            (b"//..", "/"),
            (b"///../a", "//a"),
            (b"/..", "/"),
            (b"/../../a", "/a"),
            (b"/.", "/"),
            (b"/a/.", "/a/"),
            (b"/a/..", "/"),
            (b"/a/b/..", "/a/"),
            (b"/a/b/../..", "/"),
            (b"/a/./b", "/a/b"),
            (b"/...", "/..."),
            (b"/.a", "/.a"),
            (b"/..a", "/..a"),
            (b"/a./b", "/a./b"),
            (b"/a/%2e%2e%2fb", "/a/..%2fb"),
            (b"/?..", "/?.."),
            (b"/a?/../%66", "/a?/../%66"),
            (b"/%7e%7E%5f%2d%2f%2F%5c", "/~~_-%2f%2F%5c"),
            (b"/\\..\\a", "/a"),
            (b"/\"<>`{}|^[]~", "/%22%3C%3E%60%7B%7D%7C%5E[]~"),
            (b"/:;=@!$&'()*+,", "/:;=@!$&'()*+,"),
            (b"/%5", "/%5"),
            (b"/%zz%4", "/%zz%4"),
            (b"/%c3%A9%80%ff", "/%c3%A9%80%ff"),
            (b"/%20%25", "/%20%25"),
            (b"/%%300", "/%2500"),
            (b"/%%30%30", "/%2500"),
            (b"/%%36%31", "/%2561"),
            (b"/%4%31", "/%2541"),
            (b"/%%34g", "/%4g"),
            (b"/aaaa/%/../x%41B", "/aaaa/xAB"),
            // From the table: no HTTP/1 request can carry these to Envoy.
            (b"/a b\x01\x7F\xC3\xA9", "/a%20b%01%7F%C3%A9"),
        ];
        for (raw, expected) in cases {
            assert_eq!(normal(raw).as_deref(), Ok(*expected), "{}", String::from_utf8_lossy(raw));
        }
    }

    #[test]
    fn refusals() {
        for raw in [&b""[..], b"*", b"?a", b"#", b"a/b", b"\\a", b"http://a/"] {
            assert_eq!(normal(raw), Err(PathError::NotAbsolute));
        }
        for raw in [&b"/%00"[..], b"/a/%00/..", b"/\0", b"/%2e/%00?q"] {
            assert_eq!(normal(raw), Err(PathError::Nul));
        }
        assert_eq!(normal(b"/?%00").as_deref(), Ok("/?%00"));
    }

    #[test]
    fn the_parts() {
        let path = normalize(b"/a/../b?q=1?2#f").unwrap();
        assert_eq!((path.path(), path.query()), (&b"/b"[..], Some(&b"q=1?2"[..])));
        assert_eq!(normalize(b"/b").unwrap().query(), None);
        assert_eq!(normalize(b"/b?").unwrap().query(), Some(&b""[..]));
    }

    #[test]
    fn a_long_path_goes_to_the_heap_and_stays_right() {
        let raw = [b"/".to_vec(), b"%61".repeat(1000), b"?q".to_vec()].concat();
        let path = normalize(&raw).unwrap();
        assert!(path.path()[1..].iter().all(|byte| *byte == b'a'));
        assert_eq!((path.path().len(), path.query()), (1001, Some(&b"q"[..])));
    }

    /// Paths made of what the rules are about.
    fn any_path() -> impl Strategy<Value = Vec<u8>> {
        let pieces: Vec<&'static [u8]> = vec![
            b"/", b"/", b"/", b".", b"..", b"%2e", b"%2E", b"%", b"%%", b"%4", b"%41", b"%30", b"%32", b"%35", b"%65",
            b"%2f", b"%25", b"\\", b"a", b"4", b"1", b"e", b"?", b"#", b" ", b"\xC3", b"%00", b"~",
        ];
        proptest::collection::vec(proptest::sample::select(pieces), 0..14)
            .prop_map(|pieces| [vec![b'/'], pieces.concat()].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn normalising_twice_changes_nothing(raw in any_path()) {
            if let Ok(once) = normalize(&raw) {
                let twice = normalize(once.as_bytes()).unwrap();
                prop_assert_eq!(twice.as_bytes(), once.as_bytes());
                prop_assert!(is_normal(once.as_bytes()) && !twice.is_changed());
            }
        }

        #[test]
        fn borrowed_if_and_only_if_unchanged(raw in any_path()) {
            if let Ok(path) = normalize(&raw) {
                let kept = &raw[..position(&raw, b'#')];
                prop_assert_eq!(path.is_changed(), path.as_bytes() != kept);
                prop_assert_eq!(is_normal(&raw), path.as_bytes() == &raw[..]);
            }
        }

        #[test]
        fn nothing_panics(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = normalize(&raw).map(|path| (path.path().len(), path.query().map(<[u8]>::len)));
            let _ = is_normal(&raw);
        }
    }
}
