//! Rules and match blocks that never have a say, because others before them take all that they would take.
//!
//! Istio's codes (IST0130, IST0131) stand where Istio would give them, but only where it is right: its own comparison
//! takes two regexes for equal and a missing method for `GET`. What it does not see is told under `shadowed-rule` and
//! `shadowed-match`.
//!
//! Source: istio `pkg/config/validation/virtualservice.go`, `analyzeUnreachableHTTPRules` (reference 8.2).

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::Findings;
use super::implied::takes_all;
use super::world::World;
use crate::diagnostic::{Diagnostic, ResourceRef};
use crate::model::StringMatch;
use crate::model::virtual_service::{HttpMatchRequest, HttpRoute};

pub(super) fn analyze(world: &World<'_>, found: &mut Findings) {
    for (reference, service) in &world.virtual_services {
        let spec = &service.spec;
        http(reference, &spec.http, found);
        let tcp = spec.tcp.iter().map(|rule| rule.as_ref().map(|rule| (keys(&rule.r#match), true)));
        duplicates(reference, "tcp", tcp, found);
        let tls = spec.tls.iter().map(|rule| rule.as_ref().map(|rule| (keys(&rule.r#match), true)));
        duplicates(reference, "tls", tls, found);
    }
}

fn http(own: &ResourceRef, rules: &[Option<HttpRoute>], found: &mut Findings) {
    let keyed = rules.iter().map(|rule| {
        let rule = rule.as_ref()?;
        Some((rule.r#match.iter().map(key).collect(), rule.delegate.is_none()))
    });
    let told = duplicates(own, "http", keyed, found);
    shadows(own, rules, &told, found);
}

fn keys<T: Debug>(blocks: &[T]) -> Vec<String> {
    blocks.iter().map(|block| format!("{block:?}")).collect()
}

/// What makes two blocks the same: everything but their names.
fn key(block: &Option<HttpMatchRequest>) -> String {
    let block = block.clone().map(|block| HttpMatchRequest { name: String::new(), ..block });
    format!("{block:?}")
}

/// A block of a rule, and the block of an earlier rule that covers it.
type Shadow = (usize, (usize, usize));

/// Blocks that were told, by rule and block.
type Told = Vec<(usize, usize)>;

/// Rules behind a rule for everything, and blocks that stand twice. `None` is a rule that is null; beside the blocks of
/// a rule stands whether it takes what they hold for: one that delegates lets through what its delegate does not take.
fn duplicates(
    own: &ResourceRef,
    kind: &str,
    rules: impl Iterator<Item = Option<(Vec<String>, bool)>>,
    found: &mut Findings,
) -> Told {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut everything, mut told) = (None, Told::new());
    for (at, blocks) in rules.enumerate() {
        let Some((blocks, takes)) = blocks else { continue };
        let rule = format!("spec.{kind}[{at}]");
        if blocks.is_empty() {
            if let Some(first) = everything {
                found.push(unreachable(own, &rule, &format!("spec.{kind}[{first}] takes everything")));
            }
            everything = everything.or(takes.then_some(at));
            continue;
        }
        let mut twice = 0;
        for (block, key) in blocks.iter().enumerate() {
            let field = format!("{rule}.match[{block}]");
            if let Some(first) = everything {
                found.push(unreachable(own, &field, &format!("spec.{kind}[{first}] takes everything")));
                told.push((at, block));
            } else if let Some(first) = seen.get(key) {
                found.push(ineffective(own, &field, &format!("spec.{kind}[{first}] has the same match")));
                told.push((at, block));
                twice += 1;
            } else if takes {
                seen.insert(key.clone(), at);
            }
        }
        if twice == blocks.len() {
            found.push(unreachable(own, &rule, "all its matches stand in earlier rules"));
        }
    }
    told
}

fn unreachable(own: &ResourceRef, field: &str, why: &str) -> Diagnostic {
    let message = format!("this is never reached: {why}");
    Diagnostic::warning("IST0130", message).at(own, field).remedy("move it up, or take it out")
}

fn ineffective(own: &ResourceRef, field: &str, why: &str) -> Diagnostic {
    Diagnostic::info("IST0131", format!("this match never has a say: {why}")).at(own, field)
}

/// Blocks that differ from an earlier one and yet take nothing that it does not take.
fn shadows(own: &ResourceRef, rules: &[Option<HttpRoute>], told: &Told, found: &mut Findings) {
    let blocks: Vec<((usize, usize), &HttpMatchRequest)> = rules
        .iter()
        .enumerate()
        .flat_map(|(at, rule)| rule.iter().flat_map(move |rule| numbered(at, rule)))
        .filter(|(at, _)| !told.contains(at))
        .collect();
    let mut shadowed: BTreeMap<usize, Vec<Shadow>> = BTreeMap::new();
    for (index, (at, block)) in blocks.iter().enumerate() {
        let delegates = |(rule, _): (usize, usize)| rules[rule].as_ref().is_some_and(|rule| rule.delegate.is_some());
        let before: Vec<_> = blocks[..index].iter().filter(|(earlier, _)| !delegates(*earlier)).collect();
        let mut known_to_istio = false;
        for (first, _) in
            before.iter().filter(|(_, earlier)| seen_by_istio(earlier, block) && takes_all(earlier, block))
        {
            known_to_istio = true;
            let why = format!("{} takes all that it takes", field(*first));
            found.push(ineffective(own, &field(*at), &why));
        }
        if known_to_istio {
            continue;
        }
        if let Some((first, _)) = before.iter().find(|(_, earlier)| takes_all(earlier, block)) {
            shadowed.entry(at.0).or_default().push((at.1, *first));
        }
    }
    for (at, blocks) in shadowed {
        let all = rules[at].as_ref().is_some_and(|rule| rule.r#match.len() == blocks.len());
        found.extend(tell(own, at, &blocks, all));
    }
}

/// One finding for a rule all of whose blocks are shadowed, else one for each block.
fn tell(own: &ResourceRef, at: usize, blocks: &[Shadow], all: bool) -> Vec<Diagnostic> {
    const REMEDY: &str = "put the narrower rule first";
    if all {
        let mut by: Vec<String> = blocks.iter().map(|(_, first)| field(*first)).collect();
        by.dedup();
        let message = format!("this rule is never reached: {} takes all that it takes", by.join(" and "));
        return vec![Diagnostic::warning("shadowed-rule", message).at(own, format!("spec.http[{at}]")).remedy(REMEDY)];
    }
    let finding = |(block, first): &Shadow| {
        let message = format!("this match never has a say: {} takes all that it takes", field(*first));
        Diagnostic::warning("shadowed-match", message).at(own, field((at, *block))).remedy(REMEDY)
    };
    blocks.iter().map(finding).collect()
}

fn numbered(at: usize, rule: &HttpRoute) -> impl Iterator<Item = ((usize, usize), &HttpMatchRequest)> {
    rule.r#match.iter().enumerate().filter_map(move |(block, matched)| Some(((at, block), matched.as_ref()?)))
}

fn field((rule, block): (usize, usize)) -> String {
    format!("spec.http[{rule}].match[{block}]")
}

/// Whether Istio compares two blocks at all and finds the second covered: two different prefixes, and everything else
/// alike by its reckoning.
fn seen_by_istio(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    let (Some(StringMatch::Prefix(outer)), Some(StringMatch::Prefix(inner))) = (&a.uri, &b.uri) else { return false };
    let method = |block: &HttpMatchRequest| match word(block.method.as_ref()) {
        empty if empty.is_empty() => "exactGET".to_string(),
        written => written,
    };
    let named = |a: &BTreeMap<String, Option<StringMatch>>, b: &BTreeMap<String, Option<StringMatch>>| {
        let alike = |(name, value): (&String, &Option<StringMatch>)| {
            b.get(name).is_some_and(|other| word(value.as_ref()).starts_with(&word(other.as_ref())))
        };
        a.len() == b.len() && a.iter().all(alike)
    };
    inner.starts_with(outer.as_str())
        && inner != outer
        && !outer.is_empty()
        && a.port == b.port
        && method(a).starts_with(&method(b))
        && word(a.authority.as_ref()).starts_with(&word(b.authority.as_ref()))
        && named(&a.headers, &b.headers)
        && named(&a.query_params, &b.query_params)
        && named(&a.without_headers, &b.without_headers)
}

/// A condition as Istio compares it: a regex is nothing.
fn word(value: Option<&StringMatch>) -> String {
    match value {
        Some(StringMatch::Exact(text)) if !text.is_empty() => format!("exact{text}"),
        Some(StringMatch::Prefix(text)) if !text.is_empty() => format!("prefix{text}"),
        _ => String::new(),
    }
}
