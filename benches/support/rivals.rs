//! The rivals: what anyone would write, and the best that could be written if the workload were all there is.
//!
//! Both hold the rules of the workload and nothing else: no listeners, no wildcard hosts, no normal form of the path,
//! no reason for the answer. They allocate and copy nothing, stop at the first hit and draw from the same dice.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, Method};
use meshroute::{Purpose, Roll};
use regex::bytes::{Regex, RegexSet, RegexSetBuilder};

use super::plans::{Host, Path, Rule, Test};
use super::{Answer, Ask};

/// A `HashMap` by host, rules in order over `http::HeaderMap`.
pub struct Naive {
    hosts: HashMap<String, Vec<NaiveRule>>,
}

struct NaiveRule {
    path: NaivePath,
    method: Option<Method>,
    headers: Vec<(HeaderName, NaiveTest)>,
    query: Vec<(String, NaiveTest)>,
    to: Split,
}

enum NaivePath {
    Any,
    Prefix(String),
    Regex(Regex),
}

enum NaiveTest {
    Exact(String),
    Regex(Regex),
    Present,
    Not(String),
}

impl Naive {
    /// Takes the rules over.
    pub fn new(hosts: &[Host]) -> Self {
        let rules = |host: &Host| host.rules.iter().map(NaiveRule::new).collect();
        Naive { hosts: hosts.iter().map(|host| (host.domain.clone(), rules(host))).collect() }
    }

    /// The first rule that holds, and one of its clusters.
    pub fn ask(&self, ask: &Ask, roll: &Roll) -> Option<Answer> {
        let rules = self.hosts.get(host_of(&ask.authority))?;
        let (path, query) = ask.path.split_once('?').unwrap_or((&ask.path, ""));
        let at = rules.iter().position(|rule| rule.holds(&ask.method, path, query, &ask.headers))?;
        Some(Answer { route: at as u32, cluster: rules[at].to.pick(roll)? })
    }
}

impl NaiveRule {
    fn new(rule: &Rule) -> Self {
        let path = match &rule.path {
            Path::Any => NaivePath::Any,
            Path::Prefix(path) => NaivePath::Prefix(path.clone()),
            Path::Regex(pattern) => NaivePath::Regex(anchored(pattern)),
        };
        let test = |test: &Test| match test {
            Test::Exact(text) => NaiveTest::Exact(text.clone()),
            Test::Regex(pattern) => NaiveTest::Regex(anchored(pattern)),
            Test::Present => NaiveTest::Present,
            Test::Not(text) => NaiveTest::Not(text.clone()),
        };
        let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).expect("a name");
        let headers = rule.headers.iter().map(|(name, value)| (header(name), test(value))).collect();
        let query = rule.query.iter().map(|(name, value)| (name.clone(), test(value))).collect();
        NaiveRule { path, method: rule.method.clone(), headers, query, to: Split::new(rule) }
    }

    fn holds(&self, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> bool {
        let path_holds = match &self.path {
            NaivePath::Any => true,
            NaivePath::Prefix(prefix) => path.starts_with(prefix.as_str()),
            NaivePath::Regex(regex) => regex.is_match(path.as_bytes()),
        };
        path_holds
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self
                .headers
                .iter()
                .all(|(name, test)| headers.get(name).is_some_and(|value| test.holds(value.as_bytes())))
            && self
                .query
                .iter()
                .all(|(name, test)| parameter(query, name).is_some_and(|value| test.holds(value.as_bytes())))
    }
}

impl NaiveTest {
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            NaiveTest::Exact(text) => value == text.as_bytes(),
            NaiveTest::Regex(regex) => regex.is_match(value),
            NaiveTest::Present => true,
            NaiveTest::Not(text) => value != text.as_bytes(),
        }
    }
}

/// A crate that finds one of many texts, put to the task of a workload whose rules come down to that.
pub enum Other {
    /// `regex::RegexSet` over the values of a header.
    SetOfHeader { hosts: HashMap<String, (RegexSet, Vec<Split>)>, header: HeaderName },
    /// `regex::RegexSet` over the path.
    SetOfPath { hosts: HashMap<String, (RegexSet, Vec<Split>)> },
    /// `matchit` over the path.
    Matchit { hosts: HashMap<String, (matchit::Router<u32>, Vec<Split>)> },
}

impl Other {
    /// Whoever could answer for these rules: one host, and one header or prefix in each rule but the default.
    pub fn all(hosts: &[Host]) -> Vec<(&'static str, Other)> {
        let [host] = hosts else { return Vec::new() };
        let (_default, rules) = host.rules.split_last().expect("a default at least");
        let value = |rule: &Rule| match (&rule.path, rule.headers.as_slice(), rule.query.is_empty()) {
            (Path::Any, [(name, Test::Exact(text))], true) if name == "x-user" => Some(text.clone()),
            _ => None,
        };
        let prefix = |rule: &Rule| match &rule.path {
            Path::Prefix(prefix) if rule.headers.is_empty() => Some(prefix.clone()),
            _ => None,
        };
        if let Some(values) = rules.iter().map(value).collect::<Option<Vec<_>>>() {
            let set = set(values.iter().map(|text| format!("^{text}$")));
            let hosts = HashMap::from([(host.domain.clone(), (set, splits(host)))]);
            return vec![("RegexSet", Other::SetOfHeader { hosts, header: HeaderName::from_static("x-user") })];
        }
        let Some(prefixes) = rules.iter().map(prefix).collect::<Option<Vec<_>>>() else { return Vec::new() };
        let set = set(prefixes.iter().map(|text| format!("^{text}")));
        let mut router = matchit::Router::new();
        for (prefix, at) in prefixes.iter().zip(0..) {
            router.insert(format!("{prefix}{{*rest}}"), at).expect("a route");
        }
        vec![
            ("RegexSet", Other::SetOfPath { hosts: HashMap::from([(host.domain.clone(), (set, splits(host)))]) }),
            ("matchit", Other::Matchit { hosts: HashMap::from([(host.domain.clone(), (router, splits(host)))]) }),
        ]
    }

    /// The first rule that matches, and one of its clusters.
    pub fn ask(&self, ask: &Ask, roll: &Roll) -> Option<Answer> {
        let host = host_of(&ask.authority);
        let (found, to) = match self {
            Other::SetOfHeader { hosts, header } => {
                let ((set, to), value) = (hosts.get(host)?, ask.headers.get(header));
                (value.and_then(|value| set.matches(value.as_bytes()).iter().next()), to)
            }
            Other::SetOfPath { hosts } => {
                let (set, to) = hosts.get(host)?;
                (set.matches(path_of(&ask.path).as_bytes()).iter().next(), to)
            }
            Other::Matchit { hosts } => {
                let (router, to) = hosts.get(host)?;
                (router.at(path_of(&ask.path)).ok().map(|found| *found.value as usize), to)
            }
        };
        let at = found.unwrap_or(to.len() - 1);
        to[at].answer(at as u32, roll)
    }
}

fn set(patterns: impl Iterator<Item = String>) -> RegexSet {
    RegexSetBuilder::new(patterns).size_limit(1 << 30).dfa_size_limit(1 << 28).build().expect("valid patterns")
}

fn splits(host: &Host) -> Vec<Split> {
    host.rules.iter().map(Split::new).collect()
}

/// A hash index made for one workload and good for no other. Hashes with the standard library's default, as `Naive`.
pub enum Floor {
    /// W1: two values of a header.
    Canary { hosts: HashMap<String, [Split; 3]>, header: HeaderName },
    /// W2: a header's value; the default stands last.
    Header { hosts: HashMap<String, Index>, header: HeaderName },
    /// W3: the first segment of the path; the default stands last.
    Segment { hosts: HashMap<String, Index> },
    /// W5: three rules of one shape for each host.
    Hosts { hosts: HashMap<String, [Split; 3]>, header: HeaderName },
}

/// Rules by the one text that decides.
pub struct Index {
    by_text: HashMap<Box<[u8]>, u32>,
    to: Vec<Split>,
}

impl Floor {
    /// For W1.
    pub fn canary(host: &Host) -> Self {
        let hosts = HashMap::from([(host.domain.clone(), [0, 1, 2].map(|at| Split::new(&host.rules[at])))]);
        Floor::Canary { hosts, header: HeaderName::from_static("canary_id") }
    }

    /// For W2.
    pub fn headers(host: &Host) -> Self {
        let index = Index::new(host, |rule| match rule.headers.first() {
            Some((_, Test::Exact(text))) => Some(text),
            _ => None,
        });
        let hosts = HashMap::from([(host.domain.clone(), index)]);
        Floor::Header { hosts, header: HeaderName::from_static("x-user") }
    }

    /// For W3.
    pub fn prefixes(host: &Host) -> Self {
        let index = Index::new(host, |rule| match &rule.path {
            Path::Prefix(prefix) => Some(prefix),
            _ => None,
        });
        Floor::Segment { hosts: HashMap::from([(host.domain.clone(), index)]) }
    }

    /// For W5.
    pub fn hosts(hosts: &[Host]) -> Self {
        let three = |host: &Host| [0, 1, 2].map(|at| Split::new(&host.rules[at]));
        let hosts = hosts.iter().map(|host| (host.domain.clone(), three(host))).collect();
        Floor::Hosts { hosts, header: HeaderName::from_static("x-user") }
    }

    /// The rule, by one look at what decides.
    pub fn ask(&self, ask: &Ask, roll: &Roll) -> Option<Answer> {
        let host = host_of(&ask.authority);
        match self {
            Floor::Canary { hosts, header } => {
                let at = match ask.headers.get(header).map(|value| value.as_bytes()) {
                    Some(b"1") => 0,
                    Some(b"2") => 1,
                    _ => 2,
                };
                hosts.get(host)?[at].answer(at as u32, roll)
            }
            Floor::Header { hosts, header } => {
                let value = ask.headers.get(header).map(|value| value.as_bytes());
                hosts.get(host)?.answer(value.unwrap_or_default(), roll)
            }
            Floor::Segment { hosts } => hosts.get(host)?.answer(first_segment(&ask.path), roll),
            Floor::Hosts { hosts, header } => {
                let splits = hosts.get(host)?;
                let at = match ask.headers.get(header) {
                    Some(value) if value == "tester" => 0,
                    _ if ask.path.starts_with("/api/") => 1,
                    _ => 2,
                };
                splits[at].answer(at as u32, roll)
            }
        }
    }
}

impl Index {
    fn new<'h>(host: &'h Host, text: impl Fn(&'h Rule) -> Option<&'h String>) -> Self {
        let texts = (0u32..).zip(&host.rules).filter_map(|(at, rule)| Some((text(rule)?.as_bytes().into(), at)));
        Index { by_text: texts.collect(), to: host.rules.iter().map(Split::new).collect() }
    }

    fn answer(&self, text: &[u8], roll: &Roll) -> Option<Answer> {
        let at = self.by_text.get(text).map_or(self.to.len() - 1, |&at| at as usize);
        self.to[at].answer(at as u32, roll)
    }
}

/// Clusters with the upper ends of their shares.
pub struct Split(Vec<(u32, u64)>);

impl Split {
    fn new(rule: &Rule) -> Self {
        let mut upto = 0;
        let ends = rule.to.iter().map(|&(cluster, weight)| {
            upto += u64::from(weight);
            (cluster, upto)
        });
        Split(ends.collect())
    }

    fn pick(&self, roll: &Roll) -> Option<u32> {
        if let [(only, _)] = self.0.as_slice() {
            return Some(*only);
        }
        let drawn = roll.draw(Purpose::Route) % self.0.last()?.1;
        self.0.iter().find(|(_, upto)| drawn < *upto).map(|(cluster, _)| *cluster)
    }

    fn answer(&self, route: u32, roll: &Roll) -> Option<Answer> {
        Some(Answer { route, cluster: self.pick(roll)? })
    }
}

fn host_of(authority: &str) -> &str {
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

fn path_of(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(key, _)| *key == name)
        .map(|(_, v)| v)
}

fn first_segment(target: &str) -> &[u8] {
    let path = path_of(target).as_bytes();
    let end = path.iter().skip(1).position(|&b| b == b'/').map_or(path.len(), |at| at + 2);
    &path[..end]
}

fn anchored(pattern: &str) -> Regex {
    Regex::new(&format!("^(?:{pattern})$")).expect("a valid pattern")
}
