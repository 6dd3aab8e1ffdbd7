//! What the fuzz targets do with their bytes. `tests/replay.rs` runs the same bodies over every file that was kept.
//!
//! Included by path, beside [`plans`](super::plans). Each body panics when something is wrong, and only then.
#![allow(dead_code, reason = "whoever includes this uses the part that is needed")]

use std::sync::OnceLock;
use std::time::Duration;

use meshroute::authorize::{Call, Guard};
use meshroute::balance::RateLimiter;
use meshroute::limit::{RateLimits, Spot, Stage};
use meshroute::{
    Decision, Mesh, Outcome, Plan, Precedence, Reading, Request, Resources, Roll, Router, Viewpoint, yaml,
};

use super::plans::{self, Choices, OwnedRequest};

/// Bytes as configuration: whatever can be read can be resolved, and what was resolved can be compiled and asked.
pub fn reading(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for strictly in [Reading::Lenient, Reading::Strict] {
        let mut resources = Resources::new();
        let findings = resources.apply_text(&text, "fuzz.yaml", strictly);
        findings.iter().for_each(|finding| assert!(!finding.to_string().is_empty()));
        written_and_read_back(&resources);
        for precedence in [Precedence::LastApplied, Precedence::Istio] {
            let mesh = Mesh::with_precedence(precedence);
            resolved(&resources, &Viewpoint::sidecar("default").label("app", "web"), &mesh);
            resolved(&resources, &Viewpoint::gateway("istio-system").label("istio", "ingressgateway"), &mesh);
        }
    }
}

fn resolved(resources: &Resources, viewpoint: &Viewpoint, mesh: &Mesh) {
    let resolution = Plan::resolve(resources, viewpoint, mesh);
    resolution.findings.iter().for_each(|finding| assert!(!finding.to_string().is_empty()));
    let (guard, findings) = Guard::of(resources, viewpoint, mesh);
    let (limits, more) = RateLimits::of(resources, viewpoint, mesh);
    findings.iter().chain(&more).for_each(|finding| assert!(!finding.to_string().is_empty()));
    let mut limiter = RateLimiter::default();
    limiter.update(limits);
    for (port, stage) in [(80, Stage::First), (8080, Stage::Last)] {
        let request = Request::new("GET", "web", "/a?b=c").port(port);
        assert!(!guard.judge(&Call::new(port).request(&request)).to_string().is_empty());
        let asked =
            |limiter: &mut RateLimiter| limiter.ask(stage, &Spot::new(port), &Roll::seeded(1), Duration::ZERO).cloned();
        let (_, again) = (asked(&mut limiter), asked(&mut limiter));
        assert!(again.is_none_or(|limit| limit.status >= 400), "an error is told as one");
    }
    let router = Router::compile(resolution.plan).expect("what was resolved is legal");
    for host in ["web", "web.default.svc.cluster.local:80", "example.com"] {
        for port in [80, 443, 5000, 8080] {
            same_answer(&router, &Request::new("GET", host, "/a?b=c").port(port), &Roll::seeded(1));
        }
    }
}

/// What the writer makes of a resource, the strict reader takes without a word.
fn written_and_read_back(resources: &Resources) {
    for resource in resources.iter() {
        let Ok(text) = yaml::write(resource.object) else { continue };
        let mut again = Resources::new();
        let findings = again.apply_text(&text, "again.yaml", Reading::Lenient);
        assert_eq!(again.find(resource.reference), Some(resource.object), "{findings:?}\n{text}");
    }
}

/// Bytes as a hostile request, put to a few fixed routers.
pub fn asking(data: &[u8]) {
    let mut choices = Choices::new(data);
    let request = hostile(&mut choices);
    for router in fixed_routers() {
        same_answer(router, &request.ask(), &request.roll());
        same_connection(router, &request);
        router.lookup(&request.authority);
    }
}

fn hostile(choices: &mut Choices<'_>) -> OwnedRequest {
    let text = |choices: &mut Choices<'_>, most| String::from_utf8_lossy(choices.bytes(most)).into_owned();
    let mut request = OwnedRequest {
        method: text(choices, 8),
        scheme: choices.one(&["http", "https", "", "wss"]).into(),
        authority: text(choices, 80),
        path: choices.bytes(255).to_vec(),
        port: choices.one(&[80, 443, 5000, 0]),
        address: choices.chance(30).then(|| [10, 0, 0, 1].into()),
        headers: Vec::new(),
        hello: choices.chance(30),
        sni: None,
        seed: choices.number(),
    };
    request.sni = choices.chance(50).then(|| text(choices, 40));
    if choices.chance(75) {
        request.path.insert(0, b'/');
    }
    while !choices.is_empty() && request.headers.len() < 64 {
        let name = match choices.chance(50) {
            true => text(choices, 16),
            false => choices.one(&["canary_id", "a", "x-forwarded-proto", "host"]).into(),
        };
        request.headers.push((name, choices.bytes(64).to_vec()));
    }
    request
}

fn fixed_routers() -> &'static [Router] {
    static ROUTERS: OnceLock<Vec<Router>> = OnceLock::new();
    ROUTERS.get_or_init(|| (0..6).map(|seed| compiled(&noise(seed, 4096))).collect())
}

fn compiled(data: &[u8]) -> Router {
    Router::compile(plans::plan(&mut Choices::new(data))).expect("the generator makes legal plans")
}

/// Bytes that look random, the same for the same seed (SplitMix64).
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

/// Bytes as a plan and some requests: the router answers as the plan explains.
pub fn agreeing(data: &[u8]) {
    asked(data, &mut |_, _| {});
}

/// As [`agreeing`]; shows each request and its answer.
///
/// The requests are read from the last quarter, so that a plan that uses up its bytes leaves them some.
pub fn asked(data: &[u8], see: &mut dyn FnMut(&OwnedRequest, &Decision<'_>)) {
    let (for_plan, for_requests) = data.split_at(data.len() - data.len() / 4);
    let router = compiled(for_plan);
    let mut choices = Choices::new(for_requests);
    for _ in 0..8 {
        let request = plans::request(&mut choices, router.plan());
        see(&request, &same_answer(&router, &request.ask(), &request.roll()));
        same_connection(&router, &request);
        if choices.is_empty() {
            break;
        }
    }
}

/// Asks a router and its plan, compares all that can be seen of the two answers, and hands back the router's.
pub fn same_answer<'a>(router: &'a Router, request: &Request<'a>, roll: &Roll) -> Decision<'a> {
    let decision = router.decide(request, roll);
    let explanation = router.plan().explain(request, roll);
    let (fast, plain) = (seen(&decision, request, roll), seen(&explanation.decision, request, roll));
    assert_eq!(fast, plain, "the router answers otherwise than the plan explains\n{request:?}\n{explanation}");
    decision
}

/// The same for a whole connection.
fn same_connection(router: &Router, request: &OwnedRequest) {
    let (connection, roll) = (request.connection(), request.roll());
    let fast = router.connect(&connection, &roll);
    let plain = router.plan().explain_connection(&connection, &roll);
    assert_eq!(
        outcome(&fast.outcome, &roll),
        outcome(&plain.decision.outcome, &roll),
        "the router answers otherwise than the plan explains\n{connection:?}\n{plain}"
    );
    assert!(!matches!(fast.outcome, Outcome::Forward(_) | Outcome::Redirect(_) | Outcome::Direct(_)));
}

/// All that can be seen of an answer. Parts of the plan are told apart by where they stand, not by what they say.
fn seen(decision: &Decision<'_>, request: &Request<'_>, roll: &Roll) -> Vec<String> {
    let mut headers = vec![("a".to_string(), "1".to_string())];
    decision.edit_request(&mut headers);
    decision.edit_response(&mut headers);
    let path = decision.path();
    vec![
        outcome(&decision.outcome, roll),
        format!("host {:?}", decision.host.map(std::ptr::from_ref)),
        format!("route {:?}", decision.route.map(std::ptr::from_ref)),
        format!("cluster {:?}", decision.cluster().map(std::ptr::from_ref)),
        format!("delay {:?}", decision.delay),
        format!("path {}", path.escape_ascii()),
        format!("authority {:?}", decision.authority()),
        format!("location {:?}", decision.location(request)),
        format!("mirrors {:?}", decision.mirrors(roll).map(std::ptr::from_ref).collect::<Vec<_>>()),
        format!("headers {headers:?}"),
    ]
}

fn outcome(outcome: &Outcome<'_>, roll: &Roll) -> String {
    match outcome {
        Outcome::Forward(to) | Outcome::Connect(to) => {
            let endpoint = to.endpoint(roll).map(std::ptr::from_ref);
            let forward = to.forward().map(std::ptr::from_ref);
            let kind = if matches!(outcome, Outcome::Forward(_)) { "forward" } else { "connect" };
            format!(
                "{kind} {:?} {:?} {forward:?} {endpoint:?}",
                std::ptr::from_ref(to.cluster),
                std::ptr::from_ref(to.destination())
            )
        }
        Outcome::Redirect(code) => format!("redirect {code}"),
        Outcome::Direct(answer) => format!("direct {:?}", std::ptr::from_ref(*answer)),
        Outcome::Refuse(refusal) => format!("refuse {refusal} {:?}", refusal.grpc),
        other => format!("{other:?}"),
    }
}
