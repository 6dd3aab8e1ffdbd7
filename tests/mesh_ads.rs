//! How discovery of the example tells proxies what is new: by type, each with its version, nonce and word, in an order in
//! which nothing in force points to nothing.

#[path = "../examples/mesh/ads.rs"]
#[allow(dead_code)] // The example uses the rest.
mod ads;
#[path = "support/served.rs"]
mod served;
#[path = "support/tls.rs"]
mod tls;

use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::Arc;

use ads::{Holding, Push, Reply, Set, Sets, Subscription, Type};
use serde_json::{Value, json};
use served::{Discovery, Folder, Served, get};

/// A world of a few types: each a list of `name` or `name=value`; a route's value is the cluster that it names.
fn world(types: &[(Type, &str)]) -> Sets {
    let set = |text: &str| -> Set {
        let entry = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, "1"));
            (Arc::from(name), Arc::new(json!(value)))
        };
        text.split_whitespace().map(entry).collect()
    };
    types.iter().map(|(r#type, text)| (*r#type, Arc::new(set(text)))).collect()
}

const TYPES: [Type; 4] = [Type::Clusters, Type::Endpoints, Type::Listeners, Type::Routes];

fn four(clusters: &str, endpoints: &str, listeners: &str, routes: &str) -> Sets {
    world(&[(TYPES[0], clusters), (TYPES[1], endpoints), (TYPES[2], listeners), (TYPES[3], routes)])
}

/// A push in a line: `rds +r -s`.
fn line(push: &Push) -> String {
    let new = push.resources.keys().map(|name| format!(" +{name}"));
    let gone = push.removed.iter().map(|name| format!(" -{name}"));
    format!("{}{}", push.r#type.short(), new.chain(gone).collect::<String>())
}

/// Whether every route names a cluster that is there.
fn holds(sets: &Sets) -> Result<(), String> {
    let Some(routes) = sets.get(&Type::Routes) else { return Ok(()) };
    let lost = routes.iter().find(|(_, to)| !sets[&Type::Clusters].contains_key(to.as_str().unwrap()));
    lost.map_or(Ok(()), |(route, to)| Err(format!("{route} points to {to}")))
}

/// Both ends of a connection.
#[derive(Default)]
struct Pair {
    subscription: Subscription,
    holding: Holding,
    held: Sets,
}

impl Pair {
    /// One push and the word on it; those of `bad` are refused.
    fn step(&mut self, version: u64, target: &Sets, bad: impl Fn(&Push) -> bool) -> Option<String> {
        let push = self.subscription.next(version, target)?;
        assert!(self.subscription.waits() && self.subscription.next(version, target).is_none(), "one at a time");
        let (told, bad, held) = (line(&push), bad(&push), &mut self.held);
        let reply = self.holding.take(push, |sets| {
            holds(sets).expect("nothing points to nothing");
            if bad {
                return Err("bad".to_string());
            }
            held.clone_from(sets);
            Ok(())
        });
        assert!(self.subscription.heard(reply.clone()));
        assert!(!self.subscription.heard(reply), "a word counts once");
        Some(told)
    }

    fn steps(&mut self, version: u64, target: &Sets, bad: impl Fn(&Push) -> bool) -> Vec<String> {
        let steps: Vec<String> = std::iter::from_fn(|| self.step(version, target, &bad)).take(100).collect();
        assert!(steps.len() < 100, "it comes to an end");
        steps
    }

    fn all(&mut self, version: u64, target: &Sets) -> Vec<String> {
        self.steps(version, target, |_| false)
    }
}

#[test]
fn types_come_in_order_and_then_only_what_has_changed() {
    let mut pair = Pair::default();
    let first = four("a b", "a b", "80", "80=a");
    assert_eq!(pair.all(1, &first), ["cds +a +b", "eds +a +b", "lds +80", "rds +80"]);
    assert_eq!((pair.all(2, &first), &pair.held), (vec![], &first));
    // An endpoint.
    let second = four("a b", "a b=2", "80", "80=a");
    assert_eq!((pair.all(3, &second), &pair.held), (vec!["eds +b".to_string()], &second));
    let versions: Vec<_> =
        pair.subscription.channels().map(|(_, known)| (known.sent, known.acked, known.nonce)).collect();
    assert_eq!(versions, [(1, 1, 1), (3, 3, 2), (1, 1, 1), (1, 1, 1)]);
}

#[test]
fn what_is_empty_is_told_once() {
    let mut pair = Pair::default();
    let empty = four("", "", "", "");
    assert_eq!(pair.all(1, &empty), ["cds", "eds", "lds", "rds"]);
    assert_eq!((pair.all(2, &empty), &pair.held), (vec![], &empty));
}

#[test]
fn nothing_is_taken_away_before_the_routes_are_accepted() {
    let mut pair = Pair::default();
    pair.all(1, &four("a", "a", "80", "80=a"));
    let target = four("b", "b", "80", "80=b");
    assert_eq!(pair.all(2, &target), ["cds +b", "eds +b", "rds +80", "eds -a", "cds -a"]);
    assert_eq!(pair.held, target);
}

#[test]
fn what_is_refused_is_not_in_force_and_holds_up_what_names_it() {
    let mut pair = Pair::default();
    let first = four("a", "a", "80", "80=a");
    pair.all(1, &first);
    let target = four("a=2 b", "a b", "80 81", "80=b");
    let bad = |push: &Push| push.r#type == Type::Clusters;
    // Endpoints go on: they are nothing that points anywhere.
    assert_eq!(pair.steps(2, &target, bad), ["cds +a +b", "eds +b"]);
    assert_eq!(pair.held[&Type::Clusters], first[&Type::Clusters]);
    assert_eq!(pair.held[&Type::Routes], first[&Type::Routes]);
    let refused: Vec<_> = pair.subscription.refused().collect();
    assert_eq!(
        (refused.len(), refused[0].0, refused[0].1.version, &*refused[0].1.reason),
        (1, Type::Clusters, 2, "bad")
    );
    // It is not offered again as it was, only as something else.
    assert_eq!(pair.all(3, &target), [] as [&str; 0]);
    let target = four("a=3 b", "a b", "80 81", "80=b");
    assert_eq!(pair.all(4, &target), ["cds +a +b", "lds +81", "rds +80"]);
    assert_eq!((&pair.held, pair.subscription.refused().count()), (&target, 0));
}

#[test]
fn routes_that_are_refused_keep_the_clusters_of_those_in_force() {
    let mut pair = Pair::default();
    let first = four("a", "a", "80", "80=a");
    pair.all(1, &first);
    let bad = |push: &Push| push.r#type == Type::Routes;
    assert_eq!(pair.steps(2, &four("b", "b", "80", "80=b"), bad), ["cds +b", "eds +b", "rds +80"]);
    assert_eq!(pair.held, four("a b", "a b", "80", "80=a"));
    // Back to what was: nothing is refused any more, and what nobody names goes.
    assert_eq!(pair.all(3, &first), ["eds -b", "cds -b"]);
    assert_eq!((&pair.held, pair.subscription.refused().count()), (&first, 0));
}

#[test]
fn a_removal_that_is_refused_is_not_asked_for_again_and_again() {
    let mut pair = Pair::default();
    pair.all(1, &four("a b", "", "", ""));
    let target = four("a", "", "", "");
    assert_eq!(pair.steps(2, &target, |push| !push.removed.is_empty()), ["cds -b"]);
    assert_eq!(pair.all(3, &target), [] as [&str; 0]);
    assert_eq!(pair.subscription.refused().count(), 1);
}

#[test]
fn an_old_word_says_nothing_of_what_was_sent_since() {
    let mut pair = Pair::default();
    pair.all(1, &four("a", "", "", ""));
    let push = pair.subscription.next(2, &four("a b", "", "", "")).unwrap();
    let word = |nonce, error: Option<&str>| Reply { r#type: push.r#type, nonce, error: error.map(str::to_string) };
    assert!(!pair.subscription.heard(word(push.nonce - 1, None)));
    assert!(!pair.subscription.heard(word(push.nonce + 1, Some("no"))));
    assert!(!pair.subscription.heard(Reply { r#type: Type::Names, ..word(push.nonce, None) }));
    assert!(pair.subscription.waits() && pair.subscription.heard(word(push.nonce, None)));
}

/// Worlds that follow each other at any moment, and subscribers that refuse now and then: what is in force never points to
/// nothing, and in the end everything is there.
#[test]
fn whatever_happens_nothing_points_to_nothing() {
    for seed in 0..300u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut dice = move |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        let mut pair = Pair::default();
        let mut target = four("", "", "", "");
        for version in 1..60 {
            if dice(3) == 0 {
                let (all, values) = (dice(32), dice(32));
                let some = (0..5).filter(|at| all >> at & 1 == 1);
                let clusters: Vec<String> = some.map(|at| format!("c{at}={}", values >> at & 1)).collect();
                let names: Vec<&str> = clusters.iter().map(|one| &one[..2]).collect();
                let routes: Vec<String> = (0..if names.is_empty() { 0 } else { dice(4) })
                    .map(|at| format!("r{at}={}", names[dice(names.len() as u64) as usize]))
                    .collect();
                target = four(&clusters.join(" "), &names.join(" "), "80", &routes.join(" "));
            }
            let refuses = dice(4) == 0;
            pair.step(version, &target, |_| refuses);
        }
        // What was refused is offered again once it is something else.
        pair.all(60, &four("z", "z", "81", "z=z"));
        pair.all(61, &target);
        assert_eq!((&pair.held, pair.subscription.refused().count()), (&target, 0), "seed {seed}");
    }
}

/// A proxy that once had everything goes by what a new connection brings, though some of that is refused and never comes.
#[test]
fn what_a_new_connection_brings_counts_before_it_has_brought_all() {
    let every = |name| world(&Type::OF_PROXIES.map(|r#type| (r#type, name)));
    let held = world(&[(Type::Policies, "deny"), (Type::Clusters, "new")]);
    assert_eq!(ads::over(&Sets::new(), &held), None, "a proxy without routes has nothing to put in force");

    let now = ads::over(&every("old"), &held).unwrap();
    let names = |r#type| now[&r#type].keys().map(|name| &**name).collect::<Vec<_>>();
    assert_eq!((names(Type::Policies), names(Type::Routes)), (vec!["deny"], vec!["old"]));
    assert_eq!(names(Type::Clusters), ["new", "old"], "the routes in force may name it");
    assert_eq!(ads::over(&now, &every("new")), Some(every("new")), "nobody names it any more");
}

/// Discovery by itself, and one subscriber.
struct Bare {
    discovery: Discovery,
    wire: BufReader<tls::Client>,
    folder: Folder,
}

impl Bare {
    fn start(folder: Folder) -> Self {
        let roster = json!({"token": {"part": "sidecar default/me", "name": null}});
        let discovery = Discovery::start(&folder, &roster, &[]);
        let mut wire = tls::reach(&discovery.api, &discovery.roots).unwrap();
        let part = json!({"sidecar": {"namespace": "default", "pod": "me", "labels": {}, "inbound": {}}});
        writeln!(wire, "{}", json!({"hello": {"pid": 1, "part": part, "admin": 0, "token": "token"}})).unwrap();
        Bare { discovery, wire: BufReader::new(wire), folder }
    }

    fn push(&mut self) -> Push {
        let mut line = String::new();
        self.wire.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn say(&mut self, push: &Push, error: Option<&str>) {
        let error = error.map(str::to_string);
        let reply = Reply { r#type: push.r#type, nonce: push.nonce, error };
        writeln!(self.wire.get_mut(), "{}", serde_json::to_string(&reply).unwrap()).unwrap();
    }

    /// Accepts so many pushes.
    fn take(&mut self, count: usize) -> Vec<Push> {
        let take = |bare: &mut Self| {
            let push = bare.push();
            bare.say(&push, None);
            push
        };
        (0..count).map(|_| take(self)).collect()
    }

    /// What discovery's page says of the subscriber, once it is as wanted.
    fn subscriber(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.discovery.until("the subscriber is as wanted", |status| wanted(&status["subscribers"][0]))["subscribers"]
            [0]
        .clone()
    }
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n")
}

fn rule(to: &str, status: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web}}\nspec:\n  hosts: [web]\n  http:\n  \
         - match: [{{uri: {{exact: /teapot}}}}]\n    directResponse: {{status: {status}}}\n  - route: [{{destination: {{host: {to}}}}}]\n"
    )
}

#[test]
fn on_the_wire_a_refusal_is_kept_and_shown_and_what_it_needs_stays() {
    let folder = Folder::empty("ads");
    folder.write("web.yaml", &service("web"));
    folder.write("old.yaml", &service("old"));
    folder.write("rule.yaml", &rule("old", 418));
    let mut bare = Bare::start(folder);
    let types: Vec<Type> = bare.take(8).iter().map(|push| push.r#type).collect();
    assert_eq!(types, Type::OF_PROXIES);
    let first = bare.subscriber(|one| one["types"]["nds"]["acked"].as_u64() > Some(0));
    assert_eq!((&first["nack"], &first["acked"]), (&Value::Null, &first["sent"]));

    // A rule that changes is one virtual host, and nothing else.
    bare.folder.write("rule.yaml", &rule("old", 419));
    let push = bare.push();
    assert_eq!((line(&push), push.nonce), ("rds +80/web.default.svc.cluster.local:80".to_string(), 2));
    bare.say(&push, Some("it does not brew"));
    let nacked = bare.subscriber(|one| !one["nack"].is_null());
    assert_eq!(nacked["nack"], "rds: it does not brew");
    let rds = &nacked["types"]["rds"];
    assert_eq!((&rds["nack"], &rds["acked"]), (&json!("it does not brew"), &first["types"]["rds"]["acked"]));
    assert_eq!(rds["refused"].as_u64(), Some(push.version));
    assert_eq!(nacked["types"]["cds"], first["types"]["cds"]);
    let page = get(&bare.discovery.page, "/", "").body;
    assert!(page.contains("rds REFUSED") && page.contains("cds SYNCED"), "{page}");
    assert!(page.contains("it does not brew"), "{page}");

    // The old Service goes (its own host with it) and a new one comes: the old cluster goes when nothing names it any more.
    std::fs::remove_file(bare.folder.0.join("old.yaml")).unwrap();
    bare.folder.write("new.yaml", &service("new"));
    bare.folder.write("rule.yaml", &rule("new", 418));
    let mut order = Vec::new();
    while !order.contains(&"cds -".to_string()) {
        let push = bare.take(1).remove(0);
        let gone = push.removed.iter().filter(|name| name.contains("old.default")).count();
        order.push(format!("{} {}", push.r#type.short(), if gone > 0 { "-" } else { "" }));
    }
    let at =
        |what: &str| order.iter().position(|one| one == what).unwrap_or_else(|| panic!("{what} is not in {order:?}"));
    assert!(at("cds ") < at("eds ") && at("eds ") < at("rds -") && at("rds -") < at("cds -"), "{order:?}");
    let last = bare.subscriber(|one| one["nack"].is_null() && one["acked"] == one["sent"]);
    assert!(last["acked"].as_u64() > first["acked"].as_u64());
}

/// Services of several protocols with rules of all kinds, a gateway with two servers, and one pod.
const MANY_KINDS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80}, {name: http-more, port: 8080, targetPort: 80}, {name: tcp, port: 5432, targetPort: 80}, {name: tls, port: 443, targetPort: 80}, {port: 9000, targetPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {ports: [{name: http, port: 80}, {port: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web, version: v1}}, spec: {containers: [{name: web, ports: [{containerPort: 80}]}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web, web.example]
  gateways: [mesh, istio-system/door]
  http:
  - match: [{uri: {prefix: /half}}]
    mirror: {host: other}
    route: [{destination: {host: web, subset: v1, port: {number: 80}}, weight: 40}, {destination: {host: web, subset: v2, port: {number: 80}}, weight: 60}]
  - match: [{uri: {exact: /gone}}]
    redirect: {uri: /here}
  - route: [{destination: {host: web, port: {number: 80}}}]
  tcp:
  - match: [{port: 5432}]
    route: [{destination: {host: web, subset: v1, port: {number: 5432}}}]
  tls:
  - match: [{port: 443, sniHosts: [web.example]}]
    route: [{destination: {host: web, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: door, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [web.example]}
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: [web.example], tls: {mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec: {hosts: [outside.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1}]}
";

#[test]
fn what_a_proxy_puts_together_says_what_discovery_meant() {
    let folder = Folder::empty("many-kinds");
    folder.write("all.yaml", MANY_KINDS);
    let served = Served::start(&folder);
    let dump = |page: &str, target: &str| -> Value { serde_json::from_str(&get(page, target, "").body).unwrap() };
    let said = |dump: &Value| serde_json::from_value::<meshroute::Plan>(dump["plan"].clone()).unwrap().canonical();
    let compare = |status: &Value| {
        let proxies = status["subscribers"].as_array().unwrap().iter().filter(|one| one["admin"] != 0);
        let compared = proxies.map(|one| {
            let part = one["part"].as_str().unwrap();
            let from = part.strip_prefix("sidecar ").unwrap_or("gateway");
            let own = said(&dump(&format!("127.0.0.1:{}", one["admin"]), "/config_dump"));
            assert_eq!(own, said(&dump(&served.page, &format!("/config_dump?from={from}"))), "{part}");
            own.listeners.len()
        });
        compared.collect::<Vec<_>>()
    };
    let settled = |status: &Value| status["settled"] == true;
    let before = compare(&served.until("everybody has everything", settled));
    assert!(before.len() >= 2 && before.iter().all(|listeners| *listeners >= 2), "{before:?}");

    // A port and its rules go, another comes.
    let readings = served.status()["readings"].as_u64();
    folder.write("all.yaml", &MANY_KINDS.replace("8080", "8081").replace("subset: v2,", ""));
    let status =
        served.until("the change is in force", |status| status["readings"].as_u64() > readings && settled(status));
    assert_eq!(compare(&status), before);
}
