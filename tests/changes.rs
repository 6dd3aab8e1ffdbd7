//! Views that were changed bit by bit mean what they would if they were made from nothing.
//!
//! Small worlds out of few names, so that everything depends on everything, and sequences of changes to them.

#[path = "support/plans.rs"]
mod plans;
#[path = "support/worlds.rs"]
mod worlds;

use std::sync::Arc;

use meshroute::plan::{HttpTable, Target, VirtualHost};
use meshroute::{
    Live, Mesh, Plan, Precedence, Reader, Reading, Request, ResourceRef, Resources, Roll, Router, Snapshot, TlsHello,
    Viewpoint, Views,
};
use plans::Choices;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn what_was_changed_is_what_is_made_from_nothing(data in proptest::collection::vec(any::<u8>(), 0..250)) {
        check(&data);
    }
}

/// Sequences whose bytes are drawn evenly are longer than those that proptest likes.
#[test]
fn long_sequences_too() {
    for seed in 0..2 {
        check(&noise(seed, 1_500));
    }
}

/// The comparison is worth little where nearly every change ends in building from nothing: then nothing is shared.
#[test]
fn most_changes_share_most() {
    let (mut changes, mut shared) = (0, 0);
    for seed in 0..4 {
        run(&noise(seed, 1_000), &mut |before, after| {
            if !Arc::ptr_eq(before.plan(), after.plan()) {
                changes += 1;
                shared += u32::from(before.plan().names.is_shared_with(&after.plan().names));
            }
        });
    }
    assert!(changes > 50, "{changes}");
    assert!(shared * 6 > changes, "{shared} of {changes}");
}

/// So it is where the view of a client that comes later is not made from that of another.
#[test]
fn most_latecomers_share_most() {
    let (mut late, mut sharing) = (0, 0);
    for seed in 0..20 {
        let data = noise(seed, 1_000);
        let mut world = World::new(&data);
        while !world.choices.is_empty() {
            worlds::change(&mut world.choices, &mut world.views);
            world.clients.truncate(5);
            world.cells.truncate(5);
            world.open(Viewpoint::sidecar("z").label("app", "a"));
            late += 1;
            let all: Vec<Snapshot> = world.cells.iter().map(|cell| cell.load()).collect();
            sharing += u32::from(all[..5].iter().any(|earlier| share(earlier, &all[5])));
        }
    }
    assert!(late > 50 && sharing * 4 > late, "{sharing} of {late}");
}

/// Nor where a Service or ServiceEntry comes, gets another port or address, and goes.
#[test]
fn services_come_and_go_beside_others() {
    let service = |name: &str, rest: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: x}}, spec: {{{rest}}}}}")
    };
    let entry = |rest: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: e, namespace: x}}, spec: \
             {{hosts: [ext.com, api.ext.com], resolution: DNS, {rest}}}}}"
        )
    };
    let http = "{number: 80, name: http, protocol: HTTP}";
    let mut world = World::new(&[]);
    for (name, port) in [("a", 80), ("b", 8080)] {
        let text = service(name, &format!("clusterIP: 10.0.0.{port}, ports: [{{name: http, port: {port}}}]"));
        world.views.apply_text(&text, "-", Reading::Strict);
    }
    // A gateway whose rules lead to none of those that come and go.
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: x}\nspec: {selector: {gw: g}, \
                   servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.org]}]}\n---\n\
                   apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: x}\nspec: {hosts: [a.org], \
                   gateways: [x/g], http: [{route: [{destination: {host: a}}, {destination: {host: b}, weight: 1}]}]}";
    world.views.apply_text(gateway, "-", Reading::Strict);
    let steps = [
        service("c", "clusterIP: 10.0.0.3, ports: [{name: http, port: 80}]"),
        service("c", "clusterIP: 10.0.0.4, ports: [{name: http, port: 80}, {name: web, port: 53, protocol: UDP}]"),
        service("c", "clusterIP: 10.0.0.4, ports: [{name: http, port: 8080, targetPort: 9}]"),
        entry(&format!("ports: [{http}]")),
        entry(&format!("ports: [{http}], exportTo: ['.']")),
    ];
    let act = |world: &mut World<'_>, act: &dyn Fn(&mut Views)| {
        let before: Vec<Snapshot> = world.cells.iter().map(|cell| cell.load()).collect();
        act(&mut world.views);
        world.compare();
        let changed = before.iter().zip(&world.cells).filter(|(before, cell)| {
            let now = cell.load();
            assert!(share(before, &now), "{:?}", world.views.resources().iter().last());
            !Arc::ptr_eq(before.plan(), now.plan())
        });
        assert!(changed.count() >= 3);
    };
    for text in &steps {
        let mut reader = Reader::new(Reading::Strict);
        reader.text(text, "-");
        let object = reader.objects().next().expect("the text is right").clone();
        act(&mut world, &|views| {
            views.apply(object.clone()).expect("what was resolved is legal");
        });
    }
    for (kind, name) in [("Service", "c"), ("ServiceEntry", "e")] {
        let reference = ResourceRef::new(kind, "x", name);
        act(&mut world, &|views| assert!(views.delete(&reference).expect("what was resolved is legal")));
    }
}

/// A gateway shares the virtual hosts whose rules did not change, on all of its ports.
#[test]
fn rules_of_a_gateway_come_and_go_beside_others() {
    let rules = |name: &str, more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: x}}\nspec: {{hosts: \
             [{name}.org], gateways: [g], http: [{more}{{route: [{{destination: {{host: {name}}}}}]}}]}}"
        )
    };
    let mut world = World::new(&[]);
    for text in [
        "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: x}, spec: {ports: [{name: http, port: 80}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: b, namespace: x}, spec: {ports: [{name: http, port: 80}]}}",
        "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: x}, spec: {selector: {gw: g}, servers: [\
         {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.org'], tls: {httpsRedirect: true}}, \
         {port: {number: 443, name: https, protocol: HTTPS}, hosts: ['x/*'], tls: {mode: SIMPLE, credentialName: c}}]}}",
        &rules("a", ""),
        &rules("b", ""),
    ] {
        world.views.apply_text(text, "-", Reading::Strict);
    }
    let steps = [
        rules("a", "{match: [{uri: {prefix: /a}}], redirect: {uri: /b}}, "),
        rules("c", ""),
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a, namespace: x}, spec: {host: a, \
         trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: h}}}}}"
            .to_string(),
        "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: x}, spec: {ports: [{name: http, port: 8080}]}}".to_string(),
    ];
    let gone = [("VirtualService", "c"), ("DestinationRule", "a"), ("Service", "a"), ("VirtualService", "a")];
    let gone = gone.map(|(kind, name)| ResourceRef::new(kind, "x", name));
    let read = |text: &String| {
        let mut reader = Reader::new(Reading::Strict);
        reader.text(text, "-");
        reader.objects().next().expect("the text is right").clone()
    };
    let come = steps.iter().map(|text| (Some(read(text)), None));
    for (now, gone) in come.chain(gone.iter().map(|gone| (None, Some(gone)))) {
        let before = world.cells[4].load();
        let done = match (now, gone) {
            (Some(now), _) => world.views.apply(now).map(|_| ()),
            (None, gone) => world.views.delete(gone.expect("one of the two")).map(|_| ()),
        };
        done.expect("what was resolved is legal");
        world.compare();
        let now = world.cells[4].load();
        assert!(!Arc::ptr_eq(before.plan(), now.plan()));
        let kept = |router: &Router| -> Vec<Arc<VirtualHost>> {
            let hosts = tables(router).flat_map(|table| &table.hosts);
            hosts.filter(|host| host.name.starts_with("b.org")).cloned().collect()
        };
        let (before, now) = (kept(&before), kept(&now));
        assert_eq!(before.len(), 2);
        assert!(before.iter().zip(&now).all(|(before, now)| Arc::ptr_eq(before, now)), "{now:?}");
    }
}

/// Whether two routers have a virtual host in common.
fn share(one: &Router, other: &Router) -> bool {
    let others: Vec<&Arc<VirtualHost>> = tables(other).flat_map(|table| &table.hosts).collect();
    tables(one).flat_map(|table| &table.hosts).any(|host| others.iter().any(|other| Arc::ptr_eq(host, other)))
}

fn tables(router: &Router) -> impl Iterator<Item = &HttpTable> {
    let chains = router.plan().listeners.iter().flat_map(|listener| &listener.chains);
    chains.filter_map(|chain| match &chain.target {
        Target::Http(table) => Some(&**table),
        Target::Tcp { .. } => None,
    })
}

fn check(data: &[u8]) {
    run(data, &mut |_, _| ());
}

/// Runs a sequence; `seen` is told of every router after every change, with the one before.
fn run(data: &[u8], seen: &mut dyn FnMut(&Router, &Router)) {
    let mut world = World::new(data);
    world.compare();
    while !world.choices.is_empty() {
        let before: Vec<Arc<Router>> = world.cells.iter().map(|cell| cell.load().to_arc()).collect();
        if world.clients.len() < 9 && world.choices.chance(15) {
            let client = worlds::latecomer(&mut world.choices);
            world.open(client);
        } else {
            worlds::change(&mut world.choices, &mut world.views);
        }
        world.compare();
        for (before, cell) in before.iter().zip(&world.cells) {
            seen(before, &cell.load());
        }
    }
}

/// Views of some clients, and what is done with them.
struct World<'b> {
    choices: Choices<'b>,
    mesh: Mesh,
    views: Views,
    clients: Vec<Viewpoint>,
    cells: Vec<Arc<Live>>,
}

impl<'b> World<'b> {
    fn new(data: &'b [u8]) -> Self {
        let mut choices = Choices::new(data);
        let mesh = Mesh::with_precedence(choices.one(&[Precedence::LastApplied, Precedence::Istio]));
        let mut resources = Resources::new();
        for _ in 0..choices.below(16) {
            if let Some(object) = worlds::object(&mut choices) {
                resources.apply(object);
            }
        }
        let views = Views::new(resources, mesh.clone());
        let mut world = World { choices, mesh, views, clients: Vec::new(), cells: Vec::new() };
        worlds::viewpoints().into_iter().for_each(|client| world.open(client));
        world
    }

    fn open(&mut self, client: Viewpoint) {
        self.cells.push(self.views.open(&client).expect("what was resolved is legal"));
        self.clients.push(client);
    }

    fn compare(&self) {
        for (client, cell) in self.clients.iter().zip(&self.cells) {
            let now = cell.load();
            let plan = Plan::resolve(self.views.resources(), client, &self.mesh).plan;
            let wanted = Router::compile(plan).expect("what was resolved is legal");
            assert_eq!(now.plan().canonical(), wanted.plan().canonical(), "a change left {client:?} behind");
            same_answers(&now, &wanted);
        }
    }
}

/// The indexes belong to the plan, too.
fn same_answers(now: &Router, wanted: &Router) {
    let roll = Roll::seeded(7);
    for listener in &wanted.plan().listeners {
        let tables = listener.chains.iter().filter_map(|chain| match &chain.target {
            Target::Http(table) => Some(table),
            Target::Tcp { .. } => None,
        });
        for name in tables.flat_map(|table| names(table)) {
            for (headers, tls) in [(&[][..], None), (&[("v", "1")], None), (&[], Some(TlsHello { sni: Some(&*name) }))]
            {
                let mut request = Request::new("GET", &name, "/a/b").headers(&headers).port(listener.port);
                request.tls = tls;
                request.address = listener.addresses.first().copied();
                let told = |router: &Router| {
                    let decision = router.decide(&request, &roll);
                    let host = decision.host.map(|host| host.name.clone());
                    (decision.cluster().cloned(), decision.route.map(|route| route.name.clone()), host)
                };
                assert_eq!(told(now), told(wanted), "a change left the index of {name} behind");
            }
        }
    }
}

fn names(table: &HttpTable) -> Vec<String> {
    let domains = table.hosts.iter().flat_map(|host| &host.domains);
    let concrete = |text: &str| text.strip_prefix('*').map_or(text.to_string(), |suffix| format!("q{suffix}"));
    domains.map(|domain| concrete(domain.as_str())).chain(["nobody.org".to_string()]).collect()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
