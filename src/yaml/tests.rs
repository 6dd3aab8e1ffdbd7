use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Resource {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename = "open:Metadata", default)]
struct Metadata {
    name: String,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Spec {
    hosts: Vec<String>,
    http: Vec<Rule>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Rule {
    name: Option<String>,
    #[serde(rename = "match")]
    matches: Vec<Match>,
    route: Vec<Route>,
    retries: Option<Retries>,
    enabled: Option<bool>,
    ratio: Option<f64>,
    mode: Option<Mode>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Match {
    headers: BTreeMap<String, StringMatch>,
    uri: Option<StringMatch>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct StringMatch {
    exact: Option<String>,
    prefix: Option<String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Route {
    destination: Destination,
    #[serde(default)]
    weight: u32,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Destination {
    host: String,
    subset: Option<String>,
    port: Option<Port>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Port {
    number: u16,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Retries {
    attempts: i32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Mode {
    #[serde(rename = "SIMPLE")]
    Simple,
    #[serde(rename = "MUTUAL")]
    Mutual,
}

const HEAD: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\n";

fn reading(reading: Reading) -> Options {
    Options { reading, ..Options::default() }
}

fn one(text: &str, options: &Options) -> RawDocument {
    let (mut resources, findings) = documents(text, "f.yaml", options);
    assert_eq!(findings, [], "{text}");
    assert_eq!(resources.len(), 1, "{text}");
    resources.remove(0)
}

/// Code, field and line of every finding about the body of a VirtualService, whose first line is 4.
fn findings(body: &str, strictly: Reading) -> Vec<(String, String, u32)> {
    let options = reading(strictly);
    let found = match one(&format!("{HEAD}{body}"), &options).typed::<Resource>(&options) {
        Ok((_, warnings)) => warnings,
        Err(errors) => errors,
    };
    found.into_iter().map(|d| (d.code.into_owned(), d.field, d.place.map_or(0, |p| p.line))).collect()
}

fn refused(text: &str) -> Diagnostic {
    let start = Instant::now();
    let (resources, mut findings) = documents(text, "f.yaml", &Options::default());
    assert!(start.elapsed() < Duration::from_secs(4), "took {:?}", start.elapsed());
    assert_eq!((resources.len(), findings.len()), (0, 1), "{findings:?}");
    findings.remove(0)
}

#[test]
fn every_field_knows_its_line() {
    let text = "# a\n\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: 'n'\n  \
        labels:\n    \
                \"a.b/c\": x\nspec:\n  hosts:\n  - a # c\n  - >-\n    b\n  http:\n  - match:\n    \
                - headers:\n        \
                canary_id: {exact:\n          \"1\"}\n    - uri: {\n        prefix: /x }\n    route:\n    - \
                destination:\n        host: a\n\n      weight: 80\n    - {destination: {host: b},\n       \
                weight: 20}\n";
    for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("\u{FEFF}{text}")] {
        let raw = one(&text, &reading(Reading::Strict));
        for (path, line) in [
            ("", 3),
            ("metadata.name", 6),
            ("metadata.labels[\"a.b/c\"]", 8),
            ("spec", 9),
            ("spec.hosts[0]", 11),
            ("spec.http[0]", 15),
            ("spec.http[0].match[0].headers.canary_id.exact", 17),
            ("spec.http[0].match[1]", 19),
            ("spec.http[0].match[1].uri.prefix", 20),
            ("spec.http[0].route[0].destination.host", 23),
            ("spec.http[0].route[0].weight", 25),
            ("spec.http[0].route[1].weight", 27),
            ("spec.http[0].route[1].weight.deeper", 27),
            ("spec.http[7].x", 14),
        ] {
            assert_eq!(raw.line_of(path), line, "{path}");
        }
        let (resource, warnings) = raw.typed::<Resource>(&reading(Reading::Strict)).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(resource.spec.hosts, ["a", "b"]);
        assert_eq!(resource.spec.http[0].route[1].weight, 20);
        assert_eq!(raw.resource().unwrap().to_string(), "VirtualService default/n");
    }
}

#[test]
fn json_is_read_too() {
    let text =
        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"X\",\n\t\"spec\": {\"hosts\": [\n\t\t\"a\",\n\t\t\"1.10\"]}\n}";
    let raw = one(text, &reading(Reading::Strict));
    assert_eq!(raw.line_of("spec.hosts[1]"), 6);
    assert_eq!(raw.typed::<Resource>(&reading(Reading::Strict)).unwrap().0.spec.hosts, ["a", "1.10"]);
}

#[test]
fn a_number_is_no_string() {
    for word in ["1.10", "true", "yes", "010", "0x1F", "1e3", "y", "1_000", ".inf"] {
        let body = format!("spec:\n  hosts:\n  - {word}\n");
        let wanted = [("wrong-type".to_owned(), "spec.hosts[0]".to_owned(), 6)];
        assert_eq!(findings(&body, Reading::Strict), wanted, "{word}");
        assert_eq!(findings(&body, Reading::Lenient), wanted, "{word}");
        let options = reading(Reading::Lenient);
        let raw = one(&format!("{HEAD}{body}"), &options);
        let (resource, warnings) = raw.typed::<Resource>(&options).unwrap();
        assert_eq!(resource.spec.hosts, [word]);
        assert_eq!(warnings[0].remedy, format!("quote it: `\"{word}\"`"));
        assert!(raw.typed::<Resource>(&reading(Reading::Strict)).is_err());
        for quoted in [
            format!("'{word}'"),
            format!("\"{word}\""),
            format!("!!str {word}"),
            format!(
                "|-\n    \
            {word}"
            ),
        ] {
            let body = format!("spec:\n  hosts:\n  - {quoted}\n");
            assert_eq!(findings(&body, Reading::Strict), [], "{quoted}");
        }
    }
    assert_eq!(findings("spec: {hosts: [v1, 2001-12-14, 10.0.0.1, 5s]}", Reading::Strict), []);
}

#[test]
fn a_string_is_no_number() {
    let body = "spec:\n  http:\n  - enabled: 'true'\n    ratio: \"0.5\"\n    retries: {attempts: '3'}\n  \
        - enabled: yes\n    ratio: 1\n    retries: {attempts: 1.0}\n";
    let found = findings(body, Reading::Strict);
    let fields: Vec<_> = found.iter().map(|f| (f.1.as_str(), f.2)).collect();
    assert_eq!(fields, [("spec.http[0].enabled", 6), ("spec.http[0].ratio", 7), ("spec.http[0].retries.attempts", 8)]);
    let options = reading(Reading::Lenient);
    let (resource, _) = one(&format!("{HEAD}{body}"), &options).typed::<Resource>(&options).unwrap();
    assert_eq!(resource.spec.http[0].retries, Some(Retries { attempts: 3 }));
    assert_eq!(resource.spec.http[1].enabled, Some(true));
}

#[test]
fn everything_wrong_is_told_at_once() {
    let body = "spec:\n  host: x\n  http:\n  - retires: {}\n    route:\n    \
        - destination: {host: a, port: {number: 70000}}\n    \
                - destination: {subset: b}\n    - weight: -1\n      destination: {host: [x]}\n    \
                mode: simple\n    enabled: 1\n    name: null\n";
    let found = findings(body, Reading::Strict);
    let told: Vec<_> = found.iter().map(|(code, field, line)| (code.as_str(), field.as_str(), *line)).collect();
    assert_eq!(
        told,
        [
            ("unknown-field", "spec.host", 5),
            ("unknown-field", "spec.http[0].retires", 7),
            ("out-of-range", "spec.http[0].route[0].destination.port.number", 9),
            ("missing-field", "spec.http[0].route[1].destination", 10),
            ("out-of-range", "spec.http[0].route[2].weight", 11),
            ("wrong-type", "spec.http[0].route[2].destination.host", 12),
            ("unknown-value", "spec.http[0].mode", 13),
            ("wrong-type", "spec.http[0].enabled", 14),
        ]
    );
    let options = reading(Reading::Strict);
    let errors = one(&format!("{HEAD}{body}"), &options).typed::<Resource>(&options).unwrap_err();
    assert_eq!(errors[0].remedy, "did you mean `hosts`?");
    assert_eq!(errors[1].remedy, "did you mean `retries`?");
    assert_eq!(errors[6].remedy, "did you mean `SIMPLE`?");
    assert_eq!(errors[0].resource.as_ref().unwrap().to_string(), "VirtualService default/a");
}

#[test]
fn unknown_fields_are_ignored_when_lenient() {
    let options = reading(Reading::Lenient);
    let raw = one(&format!("{HEAD}spec:\n  zebra: 1\n"), &options);
    let (_, warnings) = raw.typed::<Resource>(&options).unwrap();
    assert_eq!(warnings[0].severity, Severity::Warning);
    assert_eq!(warnings[0].remedy, "known here: hosts, http (it is ignored)");
    assert_eq!(findings("", Reading::Strict), [], "open structs take what they don't know");
}

#[test]
fn weight_inside_destination_is_moved() {
    let body = "spec:\n  http:\n  - route:\n    - destination:\n        host: a\n        weight: 80\n    \
        - destination: {host: b, weight: 1}\n      weight: 20\n";
    let wanted = [
        ("weight-in-destination".to_owned(), "spec.http[0].route[0].destination.weight".to_owned(), 9),
        ("weight-in-destination".to_owned(), "spec.http[0].route[1].destination.weight".to_owned(), 10),
    ];
    assert_eq!(findings(body, Reading::Lenient), wanted);
    assert_eq!(findings(body, Reading::Strict), wanted);
    let options = reading(Reading::Lenient);
    let (resource, warnings) = one(&format!("{HEAD}{body}"), &options).typed::<Resource>(&options).unwrap();
    assert_eq!(resource.spec.http[0].route.iter().map(|r| r.weight).collect::<Vec<_>>(), [80, 20]);
    assert!(warnings.iter().all(|w| w.severity == Severity::Warning));
    let options = reading(Reading::Strict);
    let errors = one(&format!("{HEAD}{body}"), &options).typed::<Resource>(&options).unwrap_err();
    assert!(errors.iter().all(|w| w.severity == Severity::Error));
}

#[test]
fn twins_merges_and_tags_are_refused() {
    let twins = refused("apiVersion: v1\nkind: X\nspec:\n  a: 1\n  b: 1\n  a: 2\n");
    assert_eq!((&*twins.code, twins.message.as_str()), ("duplicate-key", "the key `a` stands twice, on lines 4 and 6"));
    assert_eq!(refused("kind: X\nx: {a: 1, 'a': 2}").code, "duplicate-key");
    let merge = refused("base: &b {a: 1}\nx:\n  <<: *b\n");
    assert_eq!((&*merge.code, merge.place.unwrap().line), ("yaml-merge-key", 3));
    let tag = refused("a: 1\nb: !foo 1\n");
    assert_eq!((&*tag.code, tag.place.unwrap().line), ("yaml-tag", 2));
    assert_eq!(refused("a: !foo {}\n").code, "yaml-tag");
    assert_eq!(refused("? [a]\n: 1\n").code, "yaml-syntax");
}

#[test]
fn keys_that_are_no_strings_to_kubernetes() {
    let body = "spec:\n  http:\n  - match:\n    - headers:\n        on: {exact: a}\n        \
        80: {exact: a}\n        'no': {exact: b}\n";
    let wanted = [("unquoted-key".to_owned(), String::new(), 8)];
    assert_eq!(findings(body, Reading::Lenient), wanted);
    assert_eq!(findings(body, Reading::Strict), wanted);
}

#[test]
fn one_broken_document_leaves_the_others_alone() {
    let text = "apiVersion: v1\nkind: A\n---\na: [1\nb: }\n---\n# nothing\n---\njust words\n---\nkind: X\n---\n\
                apiVersion: v1\nkind: B\n...\n---\n- a\n";
    let (resources, findings) = documents(text, "f.yaml", &Options::default());
    let kinds: Vec<_> = resources.iter().map(|r| (r.kind.as_str(), r.place.document, r.place.line)).collect();
    assert_eq!(kinds, [("A", 1, 1), ("B", 5, 13)]);
    let found: Vec<_> = findings.iter().map(|d| (&*d.code, d.place.as_ref().unwrap().document)).collect();
    assert_eq!(found, [("yaml-syntax", 2), ("not-a-resource", 3), ("not-a-resource", 4), ("not-a-resource", 6)]);
    assert_eq!(findings[0].place.as_ref().unwrap().line, 5);
    assert!(findings[0].message.contains("line 5"), "{}", findings[0].message);
    assert_eq!(findings[3].message, "a resource is wanted here, not a list");
}

#[test]
fn lists_are_unwrapped() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  \
        metadata: {name: a, namespace: n}\n- 1\n\
                - apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: b\n";
    let (resources, findings) = documents(text, "f.yaml", &Options::default());
    let named: Vec<_> = resources.iter().map(|r| (r.resource().unwrap().to_string(), r.place.line)).collect();
    assert_eq!(named, [("Service n/a".to_owned(), 4), ("Namespace b".to_owned(), 8)]);
    assert_eq!(findings[0].place.as_ref().unwrap().line, 7);
    assert_eq!(resources[1].line_of("metadata.name"), 11);
}

#[test]
fn bombs_are_refused() {
    let mut laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (at, name) in ('b'..='i').enumerate() {
        let before = char::from(b'a' + at as u8);
        let list = vec![format!("*{before}"); 9].join(",");
        laughs += &format!("{name}: &{name} [{list}]\n");
    }
    assert_eq!(refused(&laughs).code, "yaml-limit");
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(1500), "*a,".repeat(1500));
    assert_eq!(refused(&wide).code, "yaml-limit");
    let wider = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(1500), "*a,".repeat(900));
    assert_eq!(refused(&wider).code, "yaml-limit");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(900));
    assert_eq!(refused(&long).code, "yaml-limit");
    refused("a: &a [*a]");
    for shape in ["{a: {a: ", "[", "- ", "? ", "? ? ? ", "- - - - ", "a: &a [", "\"a\": {"] {
        assert_eq!(refused(&shape.repeat(500_000 / shape.len())).code, "yaml-limit", "{shape}");
    }
    assert_eq!(refused(&"a".repeat((3 << 20) + 1)).code, "yaml-limit");
    let deep: String = (0..80).map(|at| format!("{}a:\n", " ".repeat(at))).collect();
    assert_eq!(refused(&deep).code, "yaml-limit");
}

#[test]
fn moderate_aliases_are_welcome() {
    let body = "spec:\n  hosts: &h [a]\n  http:\n  - name: &n b\n    route: &r\n    - destination: {host: *n}\n  \
        - route: *r\n";
    assert_eq!(findings(body, Reading::Strict), []);
    let raw = one(&format!("{HEAD}{body}"), &Options::default());
    assert_eq!(raw.line_of("spec.http[1].route"), 10);
    assert_eq!(raw.line_of("spec.http[1].route[0].destination.host"), 9);
}

#[test]
fn what_is_written_is_read_back() {
    let odd = [
        "yes",
        "on",
        "010",
        "0o17",
        "1.10",
        "1_000",
        "~",
        "",
        " a",
        "a: b",
        "a #b",
        "- x",
        "é",
        "a\nb\n",
        "\u{85}",
        "<<",
        "y",
        "2001-12-14",
        "*",
        "{}",
        "\"",
        "'",
        "\\",
        "\u{1}\u{7f}",
        "-",
        "...",
        "---",
        "null",
        "*.example.com",
        "/x",
        "100%",
        "😀",
    ];
    let mut value = Resource { api_version: "v1".into(), kind: "X".into(), ..Resource::default() };
    value.spec.hosts = odd.iter().map(|word| (*word).to_owned()).collect();
    value.metadata.labels =
        odd.iter().filter(|w| **w != "<<").map(|word| ((*word).to_owned(), (*word).to_owned())).collect();
    value.spec.http = vec![Rule { mode: Some(Mode::Mutual), ratio: Some(0.5), ..Rule::default() }, Rule::default()];
    let text = write(&value).unwrap();
    let options = reading(Reading::Strict);
    let (again, findings) =
        one(&text, &options).typed::<Resource>(&options).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    assert_eq!(findings, []);
    assert_eq!(again, value, "{text}");
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }
}

#[test]
fn mutilated_texts_harm_nobody() {
    let samples = [
        format!(
            "{HEAD}spec:\n  http:\n  - match:\n    - headers: {{a: {{exact: \"b\"}}}}\n    route: &r\n    \
            - destination: {{host: 'a', weight: 1}}\n    retries: {{attempts: 3}}\n---\n- a\n"
        ),
        "a: |\n  x\n   y\n? [b, c]\n: *d\n# e\n...\n%YAML 1.1\n---\n\"f\\\"\": 'g''h'\nkind: List\n\
            items: [{kind: a, apiVersion: b}]\n"
            .to_owned(),
    ];
    let bits = [
        "{", "[", "}", "]", "\n", ": ", "- ", "? ", "'", "\"", "#", "&a ", "*a", "!t ", "|", ">", "  ", "\t", "---\n",
        "\r", "\u{85}", "\u{FEFF}", "\\", "é", "%", "<<", "1.10", ",", "\0",
    ];
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    for round in 0..6_000 {
        let mut text: Vec<char> = samples[round % samples.len()].chars().collect();
        for _ in 0..=dice.roll(8) {
            let at = dice.roll(text.len());
            match dice.roll(3) {
                0 => drop(text.drain(at..(at + dice.roll(6)).min(text.len()))),
                _ => drop(text.splice(at..at, bits[dice.roll(bits.len())].chars())),
            }
        }
        let text: String = text.into_iter().collect();
        let options = reading(if round % 3 == 0 { Reading::Strict } else { Reading::Lenient });
        for raw in documents(&text, "-", &options).0 {
            let read = raw.typed::<Resource>(&options);
            assert!(read.is_ok() || !read.unwrap_err().is_empty());
        }
    }
}

/// The guard's depth must never be less than the parser's, or a bomb could hide from it.
#[test]
fn the_guard_sees_every_level_the_parser_sees() {
    fn brackets(node: &Node) -> usize {
        match &node.value {
            Value::List(items) => 1 + items.iter().map(brackets).max().unwrap_or(0),
            Value::Map(entries) => 1 + entries.iter().map(|(_, node)| brackets(node)).max().unwrap_or(0),
            Value::Scalar { .. } => 0,
        }
    }
    let bits = [
        "[", "]", "{", "}", "[[", "]]", "\n", "\n  ", "\n ", ": ", "a: ", "- ", "'", "\"", "# ", "#", "a", "|\n",
        ">-\n ", "|2\n", "\t", "\u{85}", "\u{2028}", ",", "? ", "\\", "&a ", "!t", "b:",
    ];
    let mut dice = Dice(0xD1B5_4A32_D192_ED03);
    let (mut accepted, mut nested) = (0, 0);
    for round in 0..20_000 {
        let mut text: String = (0..2 + dice.roll(14)).map(|_| bits[dice.roll(bits.len())]).collect();
        text.push_str(["", "\nz: [[[[[[a]]]]]]\n", "\n- {a: {a: {a: {a: b}}}}", " [[[[[a]]]]]"][round % 4]);
        let Some(piece) = guard::split(&text).next() else { continue };
        let Ok((node, _)) = node::parse(piece.text, 1, &Limits::default()) else { continue };
        let depth = brackets(&node);
        (accepted, nested) = (accepted + 1, nested + usize::from(depth > 1));
        // A list on its key's own column opens no new column, so a block level may count for half.
        let limits = Limits { depth: (depth / 2).max(1) - 1, ..Limits::default() };
        assert!(depth == 0 || guard::check(piece.text, &limits).is_err(), "{depth} in {:?}", piece.text);
        let limits = Limits { depth: 2 * depth + 2, ..Limits::default() };
        assert_eq!(guard::check(piece.text, &limits).as_deref(), Ok(piece.text), "{depth}");
    }
    assert!(accepted > 1_000 && nested > 100, "{accepted} {nested}");
}

#[test]
fn large_documents_take_linear_time() {
    let rule = "  - match:\n    - headers: {x: {exact: \"v\"}}\n      uri: {prefix: /a}\n    route:\n    \
        - destination: {host: a}\n      weight: 100\n";
    let text = format!("{HEAD}spec:\n  http:\n{}", rule.repeat(4_000));
    let start = Instant::now();
    let raw = one(&text, &Options::default());
    assert_eq!(raw.typed::<Resource>(&Options::default()).unwrap().0.spec.http.len(), 4_000);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let unknown: String = (0..20_000).map(|at| format!("f{at}: 1\n")).collect();
    let raw = one(&format!("{HEAD}{unknown}"), &Options::default());
    assert_eq!(raw.typed::<Resource>(&Options::default()).unwrap().1.len(), 100);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_scalar_in_brackets_may_end_with_a_colon() {
    let text = "apiVersion: v1\nkind: A\nmetadata: {name: a}\nlist: [1.2.3.4, 2001:db8::, it's::]\nmap: {a: b:, c: d}\nlast: [\n";
    let whole = text.strip_suffix("last: [\n").unwrap();
    let (read, findings) = documents(whole, "-", &Options::default());
    assert_eq!(findings, []);
    let list = read[0].node.get("list").unwrap();
    let Value::List(items) = &list.value else { panic!("{list:?}") };
    assert_eq!(items.iter().filter_map(Node::text).collect::<Vec<_>>(), ["1.2.3.4", "2001:db8::", "it's::"]);
    let map = read[0].node.get("map").unwrap();
    assert_eq!((map.get("a").and_then(Node::text), map.get("c").and_then(Node::text)), (Some("b:"), Some("d")));
    // The quotes put in for the parser move no line.
    let (_, findings) = documents(text, "-", &Options::default());
    assert!(findings[0].place.as_ref().unwrap().line >= 6, "{findings:?}");
}
