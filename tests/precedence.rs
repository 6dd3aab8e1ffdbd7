//! `Precedence::LastApplied`, held to a second telling of the same rules.
//!
//! Random small VirtualServices are applied, applied again, changed and deleted. What their hosts then hold is compared,
//! route by route, with [`folded`] and its kin below: plain code that knows nothing of the crate's own, and walks the
//! other way round, from the latest VirtualService to the earliest.
//!
//! What is held, in the order in which it is checked here:
//!
//! - the latest is the one whose content changed last; applying it again as it is changes nothing;
//! - each VirtualService is cut after its own first catch-all;
//! - the later one's rules stand first, in their own order; earlier rules with an equal set of match blocks are dropped;
//!   the order of blocks and keys, `name` and `statPrefix` don't count;
//! - catch-alls stand last, the latest's only;
//! - host string by host string, after short names were expanded; an exact and a wildcard host never merge;
//! - alike in the mesh and at gateways, for http, tcp and tls.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use meshroute::plan::{HttpTable, Origin, Target};
use meshroute::{Diagnostic, Mesh, Plan, Precedence, Reader, Reading, Resources, Severity, Viewpoint};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;

/// What everybody talks to, and the gateway; `HOSTS` takes the place of the servers' hosts.
const WORLD: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{name: http, port: 80}, {name: http-b, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{name: tcp, port: 90}, {name: tls, port: 91}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: istio-system}
spec:
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: HOSTS}
  - {port: {number: 81, name: http-b, protocol: HTTP}, hosts: HOSTS}
  - {port: {number: 90, name: tcp, protocol: TCP}, hosts: ["*"]}
  - {port: {number: 91, name: tls, protocol: TLS}, hosts: ["*"], tls: {mode: PASSTHROUGH}}
"#;

const FRONT: &str = "istio-system/front";

/// What a VirtualService of `default` may claim, and what that is when it is spelled out.
const HOSTS: [(&str, &str); 5] = [
    ("web", "web.default.svc.cluster.local"),
    ("web.default.svc.cluster.local", "web.default.svc.cluster.local"),
    ("*.default.svc.cluster.local", "*.default.svc.cluster.local"),
    ("ext.example.com", "ext.example.com"),
    ("*.example.com", "*.example.com"),
];

/// The services with HTTP, and their ports.
const SERVICES: [(&str, &[u16]); 2] =
    [("api.default.svc.cluster.local", &[80]), ("web.default.svc.cluster.local", &[80, 81])];

/// A match block: what counts of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Meaning {
    /// As written: `prefix: /a`.
    uri: Option<&'static str>,
    headers: BTreeMap<&'static str, &'static str>,
    port: Option<u16>,
    app: Option<&'static str>,
    gateways: Vec<&'static str>,
}

/// A match block: what does not count of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Dress {
    name: &'static str,
    stat_prefix: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    blocks: Vec<(Meaning, Dress)>,
    subset: &'static str,
}

/// A match block of a tcp or tls rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct L4Block {
    /// A range of addresses, or a server name.
    to: Option<&'static str>,
    port: Option<u16>,
    app: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct L4Rule {
    blocks: Vec<L4Block>,
    subset: &'static str,
}

/// A VirtualService.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    /// Places in [`HOSTS`].
    hosts: Vec<usize>,
    gateways: Vec<&'static str>,
    http: Vec<Rule>,
    tcp: Vec<L4Rule>,
    tls: Vec<L4Rule>,
}

/// What somebody says of one name: its content, or, without one, the content it has.
type Said = (&'static str, Option<Written>);

/// What somebody does.
#[derive(Clone, Debug)]
enum Step {
    /// Applies a file, with its keys forwards or backwards.
    Apply(Vec<Said>, bool),
    /// Makes a file all there is.
    Replace(Vec<Said>, bool),
    Delete(&'static str),
}

// The writer.

/// A flow mapping, its keys in order or the other way round.
fn mapping(mut pairs: Vec<(&str, String)>, backwards: bool) -> String {
    if backwards {
        pairs.reverse();
    }
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn sequence(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

fn quoted(items: &[&str]) -> String {
    sequence(items.iter().map(|item| format!("{item:?}")))
}

impl Meaning {
    fn text(&self, dress: &Dress, backwards: bool) -> String {
        let mut pairs = vec![("name", format!("{:?}", dress.name)), ("statPrefix", format!("{:?}", dress.stat_prefix))];
        pairs.extend(self.uri.map(|uri| ("uri", format!("{{{uri}}}"))));
        let headers = self.headers.iter().map(|(name, value)| (*name, format!("{{exact: {value:?}}}"))).collect();
        pairs.push(("headers", mapping(headers, backwards)));
        pairs.extend(self.port.map(|port| ("port", port.to_string())));
        pairs.extend(self.app.map(|app| ("sourceLabels", format!("{{app: {app}}}"))));
        pairs.push(("gateways", quoted(&self.gateways)));
        mapping(pairs, backwards)
    }
}

impl L4Block {
    fn text(&self, kind: &'static str, backwards: bool) -> String {
        let mut pairs = Vec::new();
        pairs.extend(self.to.map(|to| (kind, quoted(&[to]))));
        pairs.extend(self.port.map(|port| ("port", port.to_string())));
        pairs.extend(self.app.map(|app| ("sourceLabels", format!("{{app: {app}}}"))));
        mapping(pairs, backwards)
    }
}

impl Written {
    fn text(&self, name: &str, backwards: bool) -> String {
        let route = |host: &str, subset: &str| format!("[{{destination: {{host: {host}, subset: {subset}}}}}]");
        let http = self.http.iter().map(|rule| {
            let blocks = rule.blocks.iter().map(|(meaning, dress)| meaning.text(dress, backwards));
            mapping(vec![("match", sequence(blocks)), ("route", route("web", rule.subset))], backwards)
        });
        let l4 = |rules: &[L4Rule], kind| {
            sequence(rules.iter().map(|rule| {
                let blocks = rule.blocks.iter().map(|block| block.text(kind, backwards));
                mapping(vec![("match", sequence(blocks)), ("route", route("db", rule.subset))], backwards)
            }))
        };
        let hosts: Vec<&str> = self.hosts.iter().map(|&at| HOSTS[at].0).collect();
        let spec = vec![
            ("hosts", if self.http.is_empty() { "[db]".to_string() } else { quoted(&hosts) }),
            ("gateways", quoted(&self.gateways)),
            ("http", sequence(http)),
            ("tcp", l4(&self.tcp, "destinationSubnets")),
            ("tls", l4(&self.tls, "sniHosts")),
        ];
        let all = vec![
            ("apiVersion", "networking.istio.io/v1".to_string()),
            ("kind", "VirtualService".to_string()),
            ("metadata", format!("{{name: {name}}}")),
            ("spec", mapping(spec, backwards)),
        ];
        mapping(all, backwards)
    }
}

// The second telling.

/// One of what there is, earliest first.
type Layers = Vec<(&'static str, Written)>;

/// Which rule of whom, by which match block; `None` for a service's default.
type Where = Option<(String, u32, Option<u32>)>;

/// Only what changed becomes the latest. Says whether it did.
fn put(layers: &mut Layers, name: &'static str, content: &Written) -> bool {
    if layers.iter().any(|known| *known == (name, content.clone())) {
        return false;
    }
    layers.retain(|(known, _)| *known != name);
    layers.push((name, content.clone()));
    true
}

/// Who asks: `mesh` or a gateway, at a port. Both are labelled `app: client`.
#[derive(Clone, Copy)]
struct Place {
    gateway: &'static str,
    port: u16,
}

impl Place {
    fn lets(self, block: &Meaning) -> bool {
        let port = block.port.is_none_or(|port| port == self.port);
        let gateway = block.gateways.contains(&self.gateway);
        // Where gateways are named, labels are not looked at.
        let client = if block.gateways.is_empty() { block.app.is_none_or(|app| app == "client") } else { gateway };
        port && client
    }

    fn lets_l4(self, block: &L4Block) -> bool {
        let client = self.gateway != "mesh" || block.app.is_none_or(|app| app == "client");
        block.port.is_none_or(|port| port == self.port) && client
    }
}

fn takes_everything(block: &Meaning) -> bool {
    block.headers.is_empty() && matches!(block.uri, None | Some("prefix: /" | "regex: .*"))
}

/// What is left of a rule at a place.
struct Left<K> {
    /// What makes it the same as another.
    key: BTreeSet<K>,
    index: u32,
    blocks: Vec<Option<u32>>,
    catch_all: bool,
}

/// The rules of one VirtualService at a place, up to its first catch-all.
fn left(content: &Written, place: Place) -> Vec<Left<Meaning>> {
    let mut all = Vec::new();
    for (index, rule) in (0..).zip(&content.http) {
        let key = rule.blocks.iter().map(|(meaning, _)| meaning.clone()).collect();
        let mut one = Left { key, index, blocks: Vec::new(), catch_all: rule.blocks.is_empty() };
        if rule.blocks.is_empty() {
            one.blocks.push(None);
        }
        for (at, (meaning, _)) in (0..).zip(&rule.blocks) {
            if !one.catch_all && place.lets(meaning) {
                one.blocks.push(Some(at));
                one.catch_all = takes_everything(meaning);
            }
        }
        let last = one.catch_all;
        if !one.blocks.is_empty() {
            all.push(one);
        }
        if last {
            break;
        }
    }
    all
}

/// The rules of several for one host, walked from the latest to the earliest.
fn folded<K: Ord + Clone>(layers: &[(&str, Vec<Left<K>>)]) -> Vec<(String, u32, Option<u32>)> {
    let (mut overridden, mut told, mut last) = (BTreeSet::new(), Vec::new(), None);
    let routes = |name: &str, rule: &Left<K>| -> Vec<_> {
        rule.blocks.iter().map(|block| (name.to_string(), rule.index, *block)).collect()
    };
    for (name, rules) in layers.iter().rev() {
        for rule in rules {
            if rule.catch_all {
                last = last.or(Some(routes(name, rule)));
            } else if !overridden.contains(&rule.key) {
                told.extend(routes(name, rule));
            }
        }
        overridden.extend(rules.iter().filter(|rule| !rule.catch_all).map(|rule| rule.key.clone()));
    }
    told.into_iter().chain(last.into_iter().flatten()).collect()
}

fn falls_under(name: &str, pattern: &str) -> bool {
    pattern.strip_prefix('*').map_or(name == pattern, |suffix| name.ends_with(suffix))
}

/// Exact before wildcard, longer before shorter.
fn rank(pattern: &str) -> (bool, std::cmp::Reverse<usize>) {
    (pattern.starts_with('*'), std::cmp::Reverse(pattern.len()))
}

impl Written {
    fn names(&self) -> Vec<&'static str> {
        if self.http.is_empty() { Vec::new() } else { self.hosts.iter().map(|&at| HOSTS[at].1).collect() }
    }
}

/// The virtual hosts of a table by name, and what they hold.
type Table = BTreeMap<String, Vec<Where>>;

/// Those of `layers` that claim exactly this host string, folded.
fn fold_for(layers: &[&(&'static str, Written)], host: &str, place: Place) -> Vec<Where> {
    let claimants = layers.iter().filter(|(_, content)| content.names().contains(&host));
    let rules: Vec<_> = claimants.map(|(name, content)| (*name, left(content, place))).collect();
    folded(&rules).into_iter().map(Some).collect()
}

/// What a sidecar of `default` has on a port.
fn sidecar_table(layers: &Layers, port: u16) -> Table {
    let place = Place { gateway: "mesh", port };
    let bound: Vec<_> = layers.iter().filter(|(_, content)| content.gateways.contains(&"mesh")).collect();
    let services = || SERVICES.iter().filter(|(_, ports)| ports.contains(&port)).map(|(name, _)| *name);
    // Away from port 80 only those count that name a service of the port.
    let names_one = |host: &str| services().any(|service| falls_under(service, host));
    let counts = |content: &Written| port == 80 || content.names().into_iter().any(names_one);
    let on_port: Vec<_> = bound.iter().copied().filter(|(_, content)| counts(content)).collect();
    let mut table = Table::new();
    for host in on_port.iter().flat_map(|(_, content)| content.names()).filter(|host| !names_one(host)) {
        table.insert(format!("{host}:{port}"), fold_for(&on_port, host, place));
    }
    table.retain(|_, routes| !routes.is_empty());
    for service in services() {
        let claims = bound.iter().flat_map(|(_, content)| content.names());
        let best = claims.filter(|host| falls_under(service, host)).min_by_key(|host| rank(host));
        let routes = best.map(|host| fold_for(&on_port, host, place)).unwrap_or_default();
        table.insert(format!("{service}:{port}"), if routes.is_empty() { vec![None] } else { routes });
    }
    table
}

/// What a gateway has on a port, where its server has these hosts.
fn gateway_table(layers: &Layers, servers: &[&str], port: u16) -> Table {
    let place = Place { gateway: FRONT, port };
    let has_rules = |content: &Written| !left(content, place).is_empty();
    let bound: Vec<_> =
        layers.iter().filter(|(_, content)| content.gateways.contains(&FRONT) && has_rules(content)).collect();
    // For each host that server and VirtualService share, how the VirtualServices have it.
    let mut shared: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (server, own) in servers
        .iter()
        .flat_map(|server| bound.iter().flat_map(|(_, content)| content.names()).map(move |own| (*server, own)))
    {
        if falls_under(own, server) {
            shared.entry(own).or_default().insert(own);
        } else if falls_under(server, own) {
            shared.entry(server).or_default().insert(own);
        }
    }
    let best = |written: &BTreeSet<&'static str>| written.iter().copied().min_by_key(|host| rank(host));
    let routes =
        |written: &BTreeSet<&'static str>| best(written).map(|host| fold_for(&bound, host, place)).unwrap_or_default();
    shared.iter().map(|(host, written)| (format!("{host}:{port}"), routes(written))).collect()
}

/// What is left of tcp or tls rules at a place. A tcp rule that asks for no range takes everything.
fn left_l4(rules: &[L4Rule], place: Place, tcp: bool) -> Vec<Left<L4Block>> {
    let mut all = Vec::new();
    for (index, rule) in (0..).zip(rules) {
        let lets = |at: &u32| place.lets_l4(&rule.blocks[*at as usize]);
        let blocks: Vec<u32> = (0..rule.blocks.len() as u32).filter(lets).collect();
        if blocks.is_empty() && !rule.blocks.is_empty() {
            continue;
        }
        // A gateway looks at no ranges, so that every rule that applies there takes everything.
        let asks_all = rule.blocks.is_empty() || blocks.iter().any(|&at| rule.blocks[at as usize].to.is_none());
        let catch_all = tcp && (asks_all || place.gateway != "mesh");
        let key = rule.blocks.iter().cloned().collect();
        all.push(Left { key, index, blocks: blocks.into_iter().map(Some).collect(), catch_all });
        if catch_all {
            break;
        }
    }
    all
}

fn l4_layers(layers: &Layers, place: Place) -> impl Iterator<Item = &(&'static str, Written)> {
    layers.iter().filter(move |(_, content)| content.http.is_empty() && content.gateways.contains(&place.gateway))
}

/// The chains for tcp: one for each rule.
fn tcp_chains(layers: &Layers, place: Place) -> Vec<Where> {
    let one = |mut rule: Left<L4Block>| {
        rule.blocks = vec![None];
        rule
    };
    let rules: Vec<_> = l4_layers(layers, place)
        .map(|(name, content)| (*name, left_l4(&content.tcp, place, true).into_iter().map(one).collect::<Vec<_>>()))
        .collect();
    let ends = rules.iter().any(|(_, rules)| rules.iter().any(|rule| rule.catch_all));
    let mut chains: Vec<Where> = folded(&rules).into_iter().map(Some).collect();
    match place.gateway {
        "mesh" => chains.extend((!ends).then_some(None)),
        // The first rule has all.
        _ => chains.truncate(1),
    }
    chains
}

/// The chains for tls: one for each block whose name was not said before.
fn tls_chains(layers: &Layers, place: Place) -> Vec<Where> {
    let rules: Vec<_> =
        l4_layers(layers, place).map(|(name, content)| (*name, left_l4(&content.tls, place, false))).collect();
    let mut names = BTreeSet::new();
    let mut chains = Vec::new();
    for (name, index, block) in folded(&rules) {
        let content = layers.iter().find(|(known, _)| *known == name).map(|(_, content)| content);
        let sni = content.and_then(|content| content.tls[index as usize].blocks[block.unwrap_or(0) as usize].to);
        if names.insert(sni) {
            chains.push(Some((name, index, None)));
        }
    }
    if chains.is_empty() && place.gateway == "mesh" {
        chains.push(None);
    }
    chains
}

// The crate's own.

fn origin(origin: Option<&Origin>) -> Where {
    origin.map(|origin| (origin.resource.name.to_string(), origin.rule, origin.block))
}

fn table(plan: &Plan, port: u16) -> Table {
    let listeners = plan.listeners.iter().filter(|listener| listener.port == port);
    let tables = listeners.flat_map(|listener| &listener.chains).filter_map(|chain| match &chain.target {
        Target::Http(table) => Some(&**table),
        Target::Tcp { .. } => None,
    });
    let hosts = tables.flat_map(|table: &HttpTable| &table.hosts);
    hosts
        .map(|host| (host.name.to_string(), host.routes.iter().map(|route| origin(route.origin.as_ref())).collect()))
        .collect()
}

fn chains(plan: &Plan, port: u16) -> Vec<Where> {
    let listeners = plan.listeners.iter().filter(|listener| listener.port == port);
    let chains = listeners.flat_map(|listener| &listener.chains);
    chains
        .filter_map(|chain| match &chain.target {
            Target::Tcp { origin: from, .. } => Some(origin(from.as_ref())),
            Target::Http(_) => None,
        })
        .collect()
}

/// The resources after all steps, and what they should be.
fn taken(steps: &[Step], servers: &[&str]) -> (Resources, Layers) {
    let mut resources = Resources::new();
    let world = WORLD.replace("HOSTS", &quoted(servers));
    let findings = resources.apply_text(&world, "world", Reading::Strict);
    assert_eq!(findings, []);
    let mut layers = Layers::new();
    for step in steps {
        take(step, &world, &mut resources, &mut layers);
    }
    (resources, layers)
}

fn take(step: &Step, world: &str, resources: &mut Resources, layers: &mut Layers) {
    let before = resources.revision();
    let mut changed = false;
    match step {
        Step::Delete(name) => {
            changed = layers.iter().any(|(known, _)| known == name);
            layers.retain(|(known, _)| known != name);
            let reference = meshroute::ResourceRef::new("VirtualService", "default", name);
            assert_eq!(resources.delete(&reference), changed);
        }
        Step::Apply(file, backwards) => {
            let text = spoken(file, *backwards, layers, &mut changed);
            refuse_errors(&resources.apply_text(&text, "file", Reading::Strict));
        }
        Step::Replace(file, backwards) => {
            let kept = |name: &&str| file.iter().any(|(known, _)| known == name);
            changed = layers.iter().any(|(name, _)| !kept(name));
            layers.retain(|(name, _)| kept(name));
            let text = spoken(file, *backwards, layers, &mut changed);
            let mut reader = Reader::new(Reading::Strict);
            reader.text(world, "world");
            reader.text(&text, "file");
            refuse_errors(&resources.replace(reader));
        }
    }
    assert_eq!(resources.revision() != before, changed, "{step:?}");
}

/// A file as text; what it does is done to `layers`.
fn spoken(file: &[Said], backwards: bool, layers: &mut Layers, changed: &mut bool) -> String {
    let mut text = String::new();
    for (name, content) in file {
        let known = layers.iter().find(|(known, _)| known == name).map(|(_, known)| known.clone());
        let Some(content) = content.clone().or(known) else { continue };
        *changed |= put(layers, name, &content);
        writeln!(text, "---\n{}", content.text(name, backwards)).expect("a string takes everything");
    }
    text
}

fn refuse_errors(findings: &[Diagnostic]) {
    let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

fn resolved(resources: &Resources, viewpoint: Viewpoint) -> Plan {
    let mesh = Mesh::with_precedence(Precedence::LastApplied);
    Plan::resolve(resources, &viewpoint.label("app", "client"), &mesh).plan
}

// The dice.

fn meaning() -> impl Strategy<Value = Meaning> {
    let uri = select(vec![
        None,
        Some("prefix: /a"),
        Some("prefix: /a"),
        Some("exact: /a"),
        Some("prefix: /"),
        Some("regex: .*"),
    ]);
    let headers = select(vec![vec![], vec![], vec![("x-a", "1")], vec![("x-a", "1"), ("x-b", "1")]]);
    let port = select(vec![None, None, None, Some(80), Some(81)]);
    let app = select(vec![None, None, None, Some("client"), Some("other")]);
    let gateways = select(vec![vec![], vec![], vec![], vec!["mesh"], vec![FRONT], vec!["mesh", FRONT]]);
    (uri, headers, port, app, gateways).prop_map(|(uri, headers, port, app, gateways)| Meaning {
        uri,
        headers: headers.into_iter().collect(),
        port,
        app,
        gateways,
    })
}

fn dress() -> impl Strategy<Value = Dress> {
    (select(vec!["", "a"]), select(vec!["", "b"])).prop_map(|(name, stat_prefix)| Dress { name, stat_prefix })
}

fn subset() -> impl Strategy<Value = &'static str> {
    select(vec!["v1", "v2"])
}

fn rule() -> impl Strategy<Value = Rule> {
    let blocks = prop_oneof![1 => Just(Vec::new()), 5 => vec((meaning(), dress()), 1..=2)];
    (blocks, subset()).prop_map(|(blocks, subset)| Rule { blocks, subset })
}

fn l4_rules(to: Vec<Option<&'static str>>, fewest: usize) -> impl Strategy<Value = Vec<L4Rule>> {
    let port = select(vec![None, None, Some(90), Some(91)]);
    let app = select(vec![None, None, Some("client"), Some("other")]);
    let block = (select(to), port, app).prop_map(|(to, port, app)| L4Block { to, port, app });
    let rule = (vec(block, fewest..=2), subset()).prop_map(|(blocks, subset)| L4Rule { blocks, subset });
    vec(rule, 1..=3)
}

fn gateways() -> impl Strategy<Value = Vec<&'static str>> {
    select(vec![vec!["mesh"], vec![FRONT], vec!["mesh", FRONT], vec!["mesh", FRONT]])
}

fn http() -> impl Strategy<Value = Written> {
    let hosts = vec(select(vec![0, 0, 1, 2, 3, 4]), 1..=2);
    (hosts, gateways(), vec(rule(), 1..=4)).prop_map(|(hosts, gateways, http)| Written {
        hosts,
        gateways,
        http,
        tcp: Vec::new(),
        tls: Vec::new(),
    })
}

fn l4() -> impl Strategy<Value = Written> {
    let tcp = l4_rules(vec![None, Some("10.0.0.0/8"), Some("10.1.0.0/16")], 0);
    let tls = l4_rules(vec![Some("a.example.com"), Some("b.example.com"), Some("*.example.com")], 1);
    let written = |(gateways, tcp, tls)| Written { hosts: Vec::new(), gateways, http: Vec::new(), tcp, tls };
    (gateways(), tcp, tls).prop_map(written)
}

fn steps(content: impl Strategy<Value = Written> + Clone + 'static) -> impl Strategy<Value = Vec<Step>> {
    let name = || select(vec!["a", "b", "c", "d"]);
    let said = move || (name(), prop_oneof![3 => content.clone().prop_map(Some), 1 => Just(None)]);
    let step = prop_oneof![
        6 => (vec(said(), 1..=3), any::<bool>()).prop_map(|(file, backwards)| Step::Apply(file, backwards)),
        1 => (vec(said(), 1..=3), any::<bool>()).prop_map(|(file, backwards)| Step::Replace(file, backwards)),
        1 => name().prop_map(Step::Delete),
    ];
    vec(step, 2..=6)
}

fn servers() -> impl Strategy<Value = Vec<&'static str>> {
    select(vec![vec!["*"], vec!["ext.example.com"], vec!["*.example.com"], vec!["ext.example.com", "*.example.com"]])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn the_later_one_overrides_the_same_rules_of_the_earlier(steps in steps(http().boxed())) {
        let (resources, layers) = taken(&steps, &["*"]);
        let plan = resolved(&resources, Viewpoint::sidecar("default"));
        for port in [80, 81] {
            prop_assert_eq!(table(&plan, port), sidecar_table(&layers, port), "port {}: {:#?}", port, layers);
        }
    }

    #[test]
    fn so_it_is_at_gateways(steps in steps(http().boxed()), servers in servers()) {
        let (resources, layers) = taken(&steps, &servers);
        let plan = resolved(&resources, Viewpoint::gateway("istio-system"));
        for port in [80, 81] {
            let expected = gateway_table(&layers, &servers, port);
            prop_assert_eq!(table(&plan, port), expected, "port {}: {:#?}", port, layers);
        }
    }

    #[test]
    fn so_it_is_for_tcp(steps in steps(l4().boxed())) {
        let (resources, layers) = taken(&steps, &["*"]);
        for (gateway, viewpoint) in both() {
            let plan = resolved(&resources, viewpoint);
            let expected = tcp_chains(&layers, Place { gateway, port: 90 });
            prop_assert_eq!(chains(&plan, 90), expected, "{}: {:#?}", gateway, layers);
        }
    }

    #[test]
    fn so_it_is_for_tls(steps in steps(l4().boxed())) {
        let (resources, layers) = taken(&steps, &["*"]);
        for (gateway, viewpoint) in both() {
            let plan = resolved(&resources, viewpoint);
            let expected = tls_chains(&layers, Place { gateway, port: 91 });
            prop_assert_eq!(chains(&plan, 91), expected, "{}: {:#?}", gateway, layers);
        }
    }
}

fn both() -> [(&'static str, Viewpoint); 2] {
    [("mesh", Viewpoint::sidecar("default")), (FRONT, Viewpoint::gateway("istio-system"))]
}

/// The comparison is worth little where nobody meets anybody.
#[test]
fn the_dice_make_rules_meet() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut joined, mut dropped) = (0, 0);
    for _ in 0..200 {
        let steps = steps(http().boxed()).new_tree(&mut runner).expect("no choice is refused").current();
        let mut layers = Layers::new();
        for step in steps {
            if let Step::Apply(file, backwards) = step {
                spoken(&file, backwards, &mut layers, &mut false);
            }
        }
        let table = sidecar_table(&layers, 80);
        let names = |routes: &[Where]| routes.iter().flatten().map(|(name, ..)| name.clone()).collect::<BTreeSet<_>>();
        joined += u32::from(table.values().any(|routes| names(routes).len() > 1));
        let place = Place { gateway: "mesh", port: 80 };
        dropped += u32::from(HOSTS.iter().any(|(_, host)| {
            let layers: Vec<_> = layers.iter().filter(|(_, content)| content.gateways.contains(&"mesh")).collect();
            let claimants = layers.iter().filter(|(_, content)| content.names().contains(host));
            let all: usize =
                claimants.flat_map(|(_, content)| left(content, place)).map(|rule| rule.blocks.len()).sum();
            all > fold_for(&layers, host, place).len()
        }));
    }
    assert!(joined >= 50, "only {joined} of 200 joined the rules of several");
    assert!(dropped >= 40, "only {dropped} of 200 dropped a rule");
}

// The order of application, sentence by sentence.

fn virtual_service(name: &str, subset: &str) -> String {
    let spec = format!("{{hosts: [web], http: [{{route: [{{destination: {{host: web, subset: {subset}}}}}]}}]}}");
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}}}, spec: {spec}}}\n"
    )
}

fn apply(resources: &mut Resources, text: &str) {
    let findings = resources.apply_text(text, "file", Reading::Strict);
    assert!(findings.iter().all(|finding| finding.code == "applied-twice"), "{findings:?}");
}

/// The names of what there is, earliest first.
fn order(resources: &Resources) -> Vec<String> {
    let mut all: Vec<_> = resources.iter().map(|one| (one.applied, one.reference.name.to_string())).collect();
    all.sort();
    all.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn a_folders_first_order_is_path_then_document() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("order-of-application");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("b")).expect("a folder can be made");
    let write = |file: &str, names: &[&str]| {
        let text: String = names.iter().map(|name| virtual_service(name, "v1")).collect();
        std::fs::write(folder.join(file), text).expect("a file can be written");
    };
    write("c.yaml", &["a"]);
    write("a.yaml", &["z", "x"]);
    write("b/a.yaml", &["m"]);
    let (resources, findings) = Resources::load(&folder, Reading::Strict);
    assert_eq!(findings, []);
    assert_eq!(order(&resources), ["z", "x", "m", "a"]);
}

#[test]
fn only_what_changed_becomes_the_latest_not_its_neighbours_in_the_file() {
    let mut resources = Resources::new();
    apply(&mut resources, &["a", "b", "c"].map(|name| virtual_service(name, "v1")).concat());
    apply(
        &mut resources,
        &[("a", "v2"), ("b", "v1"), ("c", "v1")].map(|(name, to)| virtual_service(name, to)).concat(),
    );
    assert_eq!(order(&resources), ["b", "c", "a"]);
}

#[test]
fn applying_it_again_as_it_is_keeps_its_place_however_it_is_written() {
    let mut resources = Resources::new();
    apply(&mut resources, &["a", "b"].map(|name| virtual_service(name, "v1")).concat());
    let revision = resources.revision();
    apply(&mut resources, &virtual_service("a", "v1"));
    apply(
        &mut resources,
        "# a comment\nspec:\n  http:\n  - route: [{destination: {subset: v1, host: web}}]\n  hosts: [web]\n\
         metadata: {name: a, namespace: default}\nkind: VirtualService\napiVersion: networking.istio.io/v1\n",
    );
    assert_eq!(order(&resources), ["a", "b"]);
    assert_eq!(resources.revision(), revision);
}

#[test]
fn applying_it_again_under_its_own_name_replaces_it() {
    let mut resources = Resources::new();
    apply(&mut resources, &["a", "b", "a"].map(|name| virtual_service(name, name)).concat());
    assert_eq!(order(&resources), ["a", "b"], "the same content twice in one file is no change");
    apply(&mut resources, &[("a", "v1"), ("b", "b"), ("a", "v2")].map(|(name, to)| virtual_service(name, to)).concat());
    assert_eq!(order(&resources), ["b", "a"]);
}

#[test]
fn a_change_and_its_undoing_make_it_the_latest() {
    let mut resources = Resources::new();
    apply(&mut resources, &["a", "b"].map(|name| virtual_service(name, "v1")).concat());
    apply(&mut resources, &virtual_service("a", "v2"));
    apply(&mut resources, &virtual_service("a", "v1"));
    assert_eq!(order(&resources), ["b", "a"]);
}

#[test]
fn what_was_deleted_comes_back_as_the_latest() {
    let mut resources = Resources::new();
    apply(&mut resources, &["a", "b"].map(|name| virtual_service(name, "v1")).concat());
    assert!(resources.delete(&meshroute::ResourceRef::new("VirtualService", "default", "a")));
    apply(&mut resources, &virtual_service("a", "v1"));
    assert_eq!(order(&resources), ["b", "a"]);
}

#[test]
fn a_replaced_set_keeps_the_order_of_what_did_not_change() {
    let mut resources = Resources::new();
    apply(&mut resources, &["c", "b", "a"].map(|name| virtual_service(name, "v1")).concat());
    let mut reader = Reader::new(Reading::Strict);
    for (name, subset) in [("a", "v1"), ("c", "v1"), ("d", "v1")] {
        reader.text(&virtual_service(name, subset), name);
    }
    assert_eq!(resources.replace(reader), []);
    assert_eq!(order(&resources), ["c", "a", "d"]);
}

#[test]
fn whoever_keeps_resources_across_restarts_can_keep_their_order() {
    let mut before = Resources::new();
    apply(&mut before, &["a", "b", "c"].map(|name| virtual_service(name, "v1")).concat());
    apply(&mut before, &virtual_service("a", "v2"));
    let mut kept: Vec<_> = before.iter().collect();
    kept.sort_by_key(|resource| resource.applied);
    let mut after = Resources::new();
    for resource in kept {
        after.apply(resource.object.clone());
    }
    assert_eq!(order(&after), order(&before));
}
