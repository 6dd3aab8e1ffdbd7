//! The whole room, with stepped time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::key::{Keyed, hash};
use super::*;
use crate::limit::{RateLimits, Spot, Stage};
use crate::model::destination_rule::{
    ConnectionPoolSettings, Distribute, HttpSettings, LocalityLoadBalancerSetting, OutlierDetection, RetryBudget,
    TcpSettings, WarmupConfiguration,
};
use crate::plan::{Cluster, Endpoint, HashKey, LoadBalancer, Policy, Retry};
use crate::resolve::{Mesh, Viewpoint};
use crate::resources::Resources;
use crate::yaml::Reading;

const START: Duration = Duration::from_secs(1_000);

fn seconds(seconds: u64) -> Duration {
    START + Duration::from_secs(seconds)
}

/// Endpoints on 127.0.0.1 from port 19101 on, by weight.
fn cluster(load_balancer: LoadBalancer, weights: &[u32]) -> Cluster {
    let mut cluster = Cluster::missing("pods", "", 80);
    let ports = (19_101..).zip(weights);
    let endpoint = |(port, weight): (u16, &u32)| Endpoint { weight: *weight, ..Endpoint::new("127.0.0.1", port, "") };
    cluster.endpoints = ports.map(endpoint).collect();
    cluster.policy.load_balancer = load_balancer;
    cluster
}

fn balancer(cluster: &Cluster) -> Balancer {
    Balancer::new(cluster, "", Roll::seeded(1), START)
}

fn port(balancer: &mut Balancer, ask: &Ask<'_>) -> Option<u16> {
    balancer.pick(ask).map(|chosen| chosen.endpoint.port)
}

/// How many of so many picks each port gets.
fn tally(balancer: &mut Balancer, picks: u64, now: Duration) -> BTreeMap<u16, u64> {
    let mut counts = BTreeMap::new();
    for seed in 0..picks {
        *counts.entry(port(balancer, &Ask::new(Roll::seeded(seed), now)).expect("there are endpoints")).or_insert(0) +=
            1;
    }
    counts
}

/// Observed on Envoy 1.40: five endpoints on 127.0.0.1, ports 19101 to 19105 (here: 1 to 5), keys by header.
const KEYS: [&str; 31] = [
    "a", "canary-1", "user-7", "user-000", "user-001", "user-002", "user-003", "user-004", "user-005", "user-006",
    "user-007", "user-008", "user-009", "user-010", "user-011", "user-012", "user-013", "user-014", "user-015",
    "user-016", "user-017", "user-018", "user-019", "user-020", "user-021", "user-022", "user-023", "user-024",
    "user-025", "user-026", "user-027",
];
const RING: &str = "2331431421123245521515433234424";
const WEIGHTED_RING: &str = "2331231321153225521555533252454";
const MAGLEV: &str = "4354514211511553241214545411455";
const WEIGHTED_MAGLEV: &str = "4355534215535553551214545411455";

#[test]
fn a_ring_and_a_table_are_envoys() {
    let cases = [
        (LoadBalancer::RingHash(1_024), [1, 1, 1, 1, 1], RING),
        (LoadBalancer::RingHash(1_024), [1, 2, 3, 1, 4], WEIGHTED_RING),
        (LoadBalancer::Maglev(65_537), [1, 1, 1, 1, 1], MAGLEV),
        (LoadBalancer::Maglev(65_537), [1, 2, 3, 1, 4], WEIGHTED_MAGLEV),
    ];
    for (method, weights, observed) in cases {
        let mut balancer = balancer(&cluster(method.clone(), &weights));
        let mut by = |keyed: Keyed<'_>, key: &HashKey| {
            let hash = hash(key, &keyed);
            assert!(hash.is_some());
            let ask = Ask { hash, ..Ask::new(Roll::seeded(9), START) };
            port(&mut balancer, &ask).expect("there are endpoints") - 19_100
        };
        let header = HashKey::Header("x-key".into());
        let query = HashKey::Query("k".into());
        let cookie = HashKey::Cookie { name: "k".into(), path: "".into(), ttl: None };
        let mut answers = String::new();
        for key in KEYS {
            let (lines, path) =
                ([("x-key", key.to_string()), ("cookie", format!("j=1; k={key}"))], format!("/?k={key}"));
            let keyed = Keyed { headers: &lines, path: path.as_bytes(), source: None };
            answers += &by(keyed, &header).to_string();
            assert_eq!(by(keyed, &cookie), by(keyed, &header), "{method:?} {key}");
            assert_eq!(by(keyed, &query), by(keyed, &header), "{method:?} {key}");
        }
        assert_eq!(answers, observed, "{method:?}");
        if weights == [1; 5] {
            let lines = [("x-key", "b"), ("x-key", "a")];
            let keyed = Keyed { headers: &lines, path: b"/", source: Some([127, 0, 0, 1].into()) };
            let wanted = if matches!(method, LoadBalancer::Maglev(_)) { (3, 3) } else { (2, 4) };
            assert_eq!((by(keyed, &header), by(keyed, &HashKey::SourceIp)), wanted);
        }
    }
}

#[test]
fn who_lacks_the_key_goes_anywhere() {
    let keyed = Keyed { headers: &crate::NoHeaders, path: b"/?kk=1", source: None };
    for key in [
        HashKey::Header("k".into()),
        HashKey::Query("k".into()),
        HashKey::SourceIp,
        HashKey::Cookie { name: "k".into(), path: "".into(), ttl: None },
    ] {
        assert_eq!(hash(&key, &keyed), None);
    }
    let mut ring = balancer(&cluster(LoadBalancer::RingHash(1_024), &[1; 3]));
    assert_eq!(tally(&mut ring, 300, START).len(), 3);
}

#[test]
fn a_cookie_is_made_where_it_has_a_lifetime() {
    let cookie = |ttl| HashKey::Cookie { name: "user".into(), path: "/".into(), ttl };
    let (hash_of_fresh, text) = key::fresh_cookie(&cookie(Some(Duration::from_secs(10))), 0x38).unwrap();
    assert_eq!(text, "user=\"0000000000000038\"; Max-Age=10; Path=/; HttpOnly");
    let sent = [("cookie", "user=\"0000000000000038\"")];
    let keyed = Keyed { headers: &sent, path: b"/", source: None };
    assert_eq!(hash(&cookie(None), &keyed), Some(hash_of_fresh));
    assert_eq!(
        key::fresh_cookie(&cookie(Some(Duration::ZERO)), 1).unwrap().1,
        "user=\"0000000000000001\"; Path=/; HttpOnly"
    );
    assert_eq!(key::fresh_cookie(&cookie(None), 1), None);
}

#[test]
fn shares_follow_weights() {
    for method in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest] {
        let mut uneven = balancer(&cluster(method.clone(), &[1, 2, 5]));
        assert_eq!(tally(&mut uneven, 800, START), [(19_101, 100), (19_102, 200), (19_103, 500)].into(), "{method:?}");
    }
    let mut even = balancer(&cluster(LoadBalancer::RoundRobin, &[0, 0, 0, 0]));
    let turns: Vec<_> = (0..8).map(|seed| port(&mut even, &Ask::new(Roll::seeded(seed), START)).unwrap()).collect();
    assert_eq!(turns[..4], turns[4..]);
    assert_eq!(turns.iter().collect::<BTreeSet<_>>().len(), 4);
    let mut random = balancer(&cluster(LoadBalancer::Random, &[1, 9]));
    assert!(tally(&mut random, 1_000, START).values().all(|count| (400..600).contains(count)), "weights don't count");
}

#[test]
fn the_less_busy_of_two_is_taken() {
    let mut balancer = balancer(&cluster(LoadBalancer::LeastRequest, &[1, 1]));
    let busy = balancer.pick(&Ask::new(Roll::seeded(1), START)).unwrap();
    let (busy, its_port) = (busy.host, busy.endpoint.port);
    for _ in 0..3 {
        balancer.begin(busy);
    }
    // Only when both draws fall on it.
    let counts = tally(&mut balancer, 1_000, START);
    assert!((200..300).contains(&counts[&its_port]), "{counts:?}");
    for _ in 0..3 {
        balancer.end(busy, Ended::Answered(200), START);
    }
    let counts = tally(&mut balancer, 1_000, START);
    assert!((400..600).contains(&counts[&its_port]), "{counts:?}");
}

#[test]
fn another_try_goes_elsewhere() {
    for method in [LoadBalancer::Random, LoadBalancer::RingHash(1_024), LoadBalancer::Maglev(65_537)] {
        let mut balancer = balancer(&cluster(method, &[1; 4]));
        let mut before = Vec::new();
        let mut elsewhere = 0;
        for seed in 0..200 {
            before.clear();
            let first = balancer.pick(&Ask { hash: Some(seed), ..Ask::new(Roll::seeded(seed), START) }).unwrap().host;
            before.push(first);
            let ask = Ask { hash: Some(seed), before: &before, ..Ask::new(Roll::seeded(seed), START) };
            elsewhere += u32::from(balancer.pick(&ask).unwrap().host != first);
        }
        assert!(elsewhere >= 198, "{elsewhere}");
    }
    // Where there is nowhere else, the same again.
    let mut alone = balancer(&cluster(LoadBalancer::Random, &[1]));
    let first = alone.pick(&Ask::new(Roll::seeded(1), START)).unwrap().host;
    assert!(alone.pick(&Ask { before: &[first], ..Ask::new(Roll::seeded(1), START) }).is_some());
}

fn outlier() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx_errors: Some(2),
        interval: Some(crate::model::Duration::from_nanos(1_000_000_000)),
        base_ejection_time: Some(crate::model::Duration::from_nanos(10_000_000_000)),
        max_ejection_percent: 100,
        ..Default::default()
    }
}

/// With outlier detection, and every request to the first port answered with an error twice.
fn with_a_failing(policy: OutlierDetection, weights: &[u32]) -> Balancer {
    let mut cluster = cluster(LoadBalancer::RoundRobin, weights);
    cluster.policy.outlier_detection = Some(policy);
    let mut balancer = balancer(&cluster);
    fail(&mut balancer, 19_101, START);
    balancer
}

fn fail(balancer: &mut Balancer, failing: u16, now: Duration) {
    for seed in 0..8 {
        let chosen = balancer.pick(&Ask::new(Roll::seeded(seed), now)).unwrap();
        let (host, port) = (chosen.host, chosen.endpoint.port);
        balancer.begin(host);
        balancer.end(host, Ended::Answered(if port == failing { 500 } else { 200 }), now);
    }
}

fn is_used(balancer: &mut Balancer, port: u16, now: Duration) -> bool {
    tally(balancer, 20, now).contains_key(&port)
}

#[test]
fn one_that_fails_is_set_aside_and_comes_back() {
    let mut balancer = with_a_failing(outlier(), &[1; 4]);
    assert!(!is_used(&mut balancer, 19_101, START));
    assert!(!is_used(&mut balancer, 19_101, seconds(9)));
    assert!(is_used(&mut balancer, 19_101, seconds(11)));
    // The second time it takes twice as long.
    fail(&mut balancer, 19_101, seconds(11));
    assert!(!is_used(&mut balancer, 19_101, seconds(29)));
    assert!(is_used(&mut balancer, 19_101, seconds(32)));
    // Good behaviour makes up for it.
    fail(&mut balancer, 0, seconds(40));
    fail(&mut balancer, 19_101, seconds(50));
    assert!(is_used(&mut balancer, 19_101, seconds(62)));
}

#[test]
fn only_so_many_are_set_aside() {
    // Observed on Envoy 1.40: of five with 10 % none, with 20 % one, with 50 % two, with 100 % five.
    for (percent, wanted) in [(0, 0), (10, 0), (19, 0), (20, 1), (50, 2), (100, 5)] {
        let mut balancer = with_a_failing(OutlierDetection { max_ejection_percent: percent, ..outlier() }, &[1; 5]);
        for port in 19_101..=19_105 {
            for _ in 0..3 {
                if balancer.pick(&Ask::new(Roll::seeded(1), START)).is_some() {
                    fail_all(&mut balancer, port);
                }
            }
        }
        assert_eq!(balancer.hosts().filter(|(_, ejected, _)| *ejected).count(), wanted, "{percent} %");
        // By Istio's default nobody panics: without a healthy one there is none.
        assert_eq!(balancer.pick(&Ask::new(Roll::seeded(1), START)).is_none(), wanted == 5);
    }
}

fn fail_all(balancer: &mut Balancer, _: u16) {
    for seed in 0..5 {
        let Some(chosen) = balancer.pick(&Ask::new(Roll::seeded(seed), START)) else { return };
        let host = chosen.host;
        balancer.end(host, Ended::Lost, START);
    }
}

#[test]
fn below_the_threshold_all_are_used() {
    let policy = OutlierDetection { min_health_percent: 50, ..outlier() };
    let mut balancer = with_a_failing(policy, &[1; 3]);
    assert!(!is_used(&mut balancer, 19_101, START));
    fail(&mut balancer, 19_102, START);
    // One of three is less than half.
    assert_eq!(tally(&mut balancer, 30, START).len(), 3);
}

#[test]
fn what_counts_as_a_failure() {
    let ejected = |policy: OutlierDetection, ended: &[Ended]| {
        let mut cluster = cluster(LoadBalancer::RoundRobin, &[1; 2]);
        cluster.policy.outlier_detection = Some(policy);
        let mut balancer = balancer(&cluster);
        let host = balancer.pick(&Ask::new(Roll::seeded(1), START)).unwrap().host;
        ended.iter().for_each(|ended| balancer.end(host, *ended, START));
        balancer.is_ejected(host)
    };
    let (lost, late) = (Ended::Lost, Ended::TimedOut);
    let [ok, bad, gateway] = [200, 500, 503].map(Ended::Answered);
    assert!(ejected(outlier(), &[bad, gateway]) && ejected(outlier(), &[lost, late]));
    assert!(!ejected(outlier(), &[bad, ok, bad]));
    assert!(ejected(outlier(), &[bad, Ended::Abandoned, bad]));
    let gateways =
        OutlierDetection { consecutive_5xx_errors: Some(0), consecutive_gateway_errors: Some(2), ..outlier() };
    assert!(ejected(gateways.clone(), &[gateway, late]));
    assert!(!ejected(gateways, &[gateway, bad, gateway, bad, bad, bad]));
    let split = OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failures: Some(2),
        ..outlier()
    };
    assert!(ejected(split.clone(), &[lost, late]) && ejected(split.clone(), &[bad, lost, bad]));
    assert!(!ejected(split, &[lost, ok, lost]));
    let listed = OutlierDetection { outlier_detection_http_error_codes: vec![429], ..outlier() };
    assert!(ejected(listed.clone(), &[Ended::Answered(429), Ended::Answered(429)]));
    assert!(!ejected(listed, &[bad, bad]));
}

#[test]
fn health_outlives_a_change_of_the_cluster() {
    let mut before = cluster(LoadBalancer::RoundRobin, &[1; 3]);
    before.policy.outlier_detection = Some(outlier());
    let mut balancer = balancer(&before);
    fail(&mut balancer, 19_101, START);
    let kept = balancer.pick(&Ask::new(Roll::seeded(1), START)).unwrap().host;
    balancer.begin(kept);
    let mut after = before.clone();
    after.endpoints =
        before.endpoints.iter().rev().cloned().chain([Endpoint::new("127.0.0.1", 20_000, "new")]).collect();
    balancer.update(&after, START);
    assert!(!is_used(&mut balancer, 19_101, START) && is_used(&mut balancer, 20_000, START));
    assert_eq!(balancer.hosts().map(|(_, _, active)| active).sum::<u32>(), 1);
    balancer.end(kept, Ended::Answered(200), START);
    assert_eq!(balancer.hosts().map(|(_, _, active)| active).sum::<u32>(), 0);
    // Whoever left is no concern any more, and nobody is taken for it.
    after.endpoints = [Endpoint::new("127.0.0.1", 20_001, "other")].into();
    balancer.update(&after, START);
    balancer.end(kept, Ended::Lost, START);
    assert_eq!(balancer.hosts().count(), 1);
    assert!(is_used(&mut balancer, 20_001, START));
}

#[test]
fn a_new_endpoint_warms_up() {
    let mut before = cluster(LoadBalancer::RoundRobin, &[1]);
    before.policy.warmup = Some(WarmupConfiguration {
        duration: Some(crate::model::Duration::from_nanos(100_000_000_000)),
        minimum_percent: Some(10.0),
        aggression: None,
    });
    let mut balancer = balancer(&before);
    let mut after = before.clone();
    after.endpoints = cluster(LoadBalancer::RoundRobin, &[1, 1]).endpoints;
    balancer.update(&after, seconds(200));
    let share = |balancer: &mut Balancer, at| tally(balancer, 1_100, seconds(at)).get(&19_102).copied().unwrap_or(0);
    assert!((90..110).contains(&share(&mut balancer, 200)));
    assert!((350..380).contains(&share(&mut balancer, 250)), "a third at half time");
    assert!((540..560).contains(&share(&mut balancer, 300)));
}

#[test]
fn localities_take_over_and_share() {
    let there = |localities: &[&str]| -> std::sync::Arc<[Endpoint]> {
        let endpoint = |(port, locality): (u16, &&str)| Endpoint {
            locality: (*locality).into(),
            ..Endpoint::new("127.0.0.1", port, "")
        };
        (19_101..).zip(localities).map(endpoint).collect()
    };
    let mut cluster = cluster(LoadBalancer::RoundRobin, &[]);
    cluster.endpoints = there(&["eu/a/", "us/a/"]);
    cluster.policy.outlier_detection = Some(outlier());
    let mut balancer = Balancer::new(&cluster, "eu/a/", Roll::seeded(1), START);
    assert_eq!(tally(&mut balancer, 50, START), [(19_101, 50)].into());
    fail(&mut balancer, 19_101, START);
    assert_eq!(tally(&mut balancer, 50, START), [(19_102, 50)].into());

    cluster.endpoints = there(&["eu/a/", "eu/b/", "us/a/"]);
    let rule = Distribute { from: "eu/*".into(), to: [("eu/*".into(), 80), ("us/*".into(), 20)].into() };
    cluster.policy.locality = Some(LocalityLoadBalancerSetting { distribute: vec![rule], ..Default::default() });
    for (method, exactly) in [(LoadBalancer::RoundRobin, true), (LoadBalancer::RingHash(1_024), false)] {
        cluster.policy.load_balancer = method;
        let mut balancer = Balancer::new(&cluster, "eu/a/", Roll::seeded(1), START);
        let counts = tally(&mut balancer, 1_000, START);
        let near = |count: u64, wanted: u64| if exactly { count == wanted } else { count.abs_diff(wanted) < 80 };
        assert!(near(counts[&19_101], 400) && near(counts[&19_102], 400) && near(counts[&19_103], 200), "{counts:?}");
    }
}

#[test]
fn limits_hold() {
    let mut policy = Policy {
        connection_pool: Some(ConnectionPoolSettings {
            tcp: Some(TcpSettings { max_connections: 1, ..Default::default() }),
            http: Some(HttpSettings { http1_max_pending_requests: 1, max_retries: 2, ..Default::default() }),
        }),
        ..Policy::default()
    };
    let mut breaker = Breaker::new(Limits::of(&policy));
    assert_eq!((breaker.connect(true), breaker.connect(false)), (Ok(()), Err(Overflow::Connections)));
    assert_eq!(breaker.connect(true), Ok(()), "an endpoint without any may always have one");
    breaker.connected();
    breaker.connected();
    assert_eq!(breaker.connect(false), Ok(()));
    assert_eq!((breaker.wait(), breaker.wait()), (Ok(()), Err(Overflow::Pending)));
    breaker.waited();
    assert_eq!(breaker.wait(), Ok(()));
    assert_eq!((breaker.retry(), breaker.retry(), breaker.retry()), (Ok(()), Ok(()), Err(Overflow::Retries)));
    policy.retry_budget = Some(RetryBudget { percent: Some(50.0), min_retry_concurrency: 1, budget_interval: None });
    let mut breaker = Breaker::new(Limits::of(&policy));
    assert_eq!((breaker.retry(), breaker.retry()), (Ok(()), Err(Overflow::Retries)));
    (0..6).for_each(|_| assert_eq!(breaker.send(), Ok(())));
    assert_eq!((breaker.retry(), breaker.retry(), breaker.retry()), (Ok(()), Ok(()), Err(Overflow::Retries)));
    breaker.retried();
    assert_eq!(breaker.retry(), Ok(()));
}

fn policy(on: &[&str], statuses: &[u16]) -> Retry {
    Retry {
        on: on.iter().map(|on| Box::from(*on)).collect(),
        statuses: statuses.to_vec(),
        attempts: 6,
        ..Retry::built_in()
    }
}

#[test]
fn conditions_of_another_try() {
    let again = |policy: &Retry, tried| matches!(Tries::new(policy).judge(tried, 0), Verdict::Again(_));
    let failed = |condition: &str| {
        use Failure::{Before, Connect, Overflow, Refused, Reset, TimedOut};
        let policy = policy(&[condition], &[]);
        [Connect, Refused, Before, Reset, TimedOut, Overflow]
            .map(|failure| u8::from(again(&policy, Tried::Failed(failure))))
    };
    for all in ["5xx", "gateway-error", "reset"] {
        assert_eq!(failed(all), [1, 1, 1, 1, 1, 0], "{all}");
    }
    assert_eq!(failed("connect-failure"), [1, 0, 0, 0, 0, 0]);
    assert_eq!(failed("refused-stream"), [0, 1, 0, 0, 0, 0]);
    assert_eq!(failed("reset-before-request"), [1, 0, 1, 0, 0, 0]);
    assert_eq!(failed("retriable-4xx"), [0; 6]);
    let answered = |condition: &str| {
        let policy = policy(&[condition], &[418]);
        [200, 409, 418, 500, 502, 504, 505].map(|status| u8::from(again(&policy, Tried::answered(status))))
    };
    assert_eq!(answered("5xx"), [0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(answered("gateway-error"), [0, 0, 0, 0, 1, 1, 0]);
    assert_eq!(answered("retriable-4xx"), [0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(answered("retriable-status-codes"), [0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(answered("reset"), [0; 7]);
    let grpc = |condition: &str| {
        let policy = policy(&[condition], &[]);
        let tried = |grpc| Tried::Answered { status: 200, grpc: Some(grpc), rate_limited: false };
        (0..=16).filter(|grpc| again(&policy, tried(*grpc))).collect::<Vec<u32>>()
    };
    let conditions = ["cancelled", "deadline-exceeded", "resource-exhausted", "internal", "unavailable", "5xx"];
    assert_eq!(conditions.map(grpc), [vec![1], vec![4], vec![8], vec![13], vec![14], vec![]]);
    let limited = Tried::Answered { status: 503, grpc: None, rate_limited: true };
    assert!(!again(&policy(&["5xx"], &[]), limited));
    assert!(again(&policy(&["envoy-ratelimited"], &[]), limited), "that it says so decides alone");
    assert!(!again(&policy(&["envoy-ratelimited"], &[]), Tried::answered(503)));
}

#[test]
fn pauses_grow_and_tries_end() {
    let policy = policy(&["5xx"], &[]);
    let mut tries = Tries::new(&policy);
    let mut ends = Vec::new();
    while let Verdict::Again(pause) = tries.judge(Tried::answered(500), u64::MAX / 2) {
        ends.push(pause);
    }
    assert_eq!(tries.judge(Tried::answered(500), 0), Verdict::Exhausted);
    assert_eq!(tries.judge(Tried::answered(200), 0), Verdict::Done);
    assert_eq!(ends.len(), 6);
    for (pause, end) in ends.iter().zip([25, 50, 100, 200, 250, 250]) {
        assert!(*pause < Duration::from_millis(end), "{ends:?}");
    }
    // The pause is even over its range.
    let longest = (0..1_000).map(|draw| match Tries::new(&policy).judge(Tried::answered(500), draw * 25_000) {
        Verdict::Again(pause) => pause,
        other => panic!("{other:?}"),
    });
    assert!(longest.max() > Some(Duration::from_millis(24)));
}

#[test]
fn a_bucket_fills_all_the_time() {
    let mut bucket = TokenBucket::new(10, 10, Duration::from_secs(60), START);
    assert_eq!((0..20).filter(|_| bucket.take(START)).count(), 10);
    assert!(!bucket.take(seconds(5)));
    assert!(bucket.take(seconds(6)) && !bucket.take(seconds(6)));
    assert_eq!((0..60).filter(|at| bucket.take(seconds(6 + at))).count(), 9);
    assert_eq!((0..20).filter(|_| bucket.take(seconds(10_000))).count(), 10);
    assert!(!bucket.take(START), "a clock that goes back gives nothing");
    assert!(!TokenBucket::new(0, 1, Duration::from_secs(1), START).take(seconds(9)));
    assert!(TokenBucket::new(1, 0, Duration::from_secs(1), START).take(START));
    assert!((0..9).all(|_| TokenBucket::new(1, 1, Duration::ZERO, START).take(START)));
}

/// An EnvoyFilter of `shop` that lets so many requests in at once, and one more each minute.
fn limits(names: &[(&str, u32)]) -> RateLimits {
    let mut resources = Resources::new();
    for (name, most) in names {
        let config = format!(
            "{{'@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit, stat_prefix: a, \
             token_bucket: {{max_tokens: {most}, fill_interval: 60s}}, filter_enabled: {{default_value: {{numerator: 100}}}}, \
             filter_enforced: {{default_value: {{numerator: 50}}}}}}"
        );
        let text = format!(
            "{{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {{name: {name}, namespace: shop}}, spec: \
             {{configPatches: [{{applyTo: HTTP_FILTER, match: {{context: SIDECAR_INBOUND}}, patch: {{operation: INSERT_BEFORE, \
             value: {{name: envoy.filters.http.local_ratelimit, typed_config: {config}}}}}}}]}}}}"
        );
        assert_eq!(resources.apply_text(&text, "-", Reading::Strict), []);
    }
    let (limits, findings) = RateLimits::of(&resources, &Viewpoint::sidecar("shop"), &Mesh::default());
    assert_eq!((findings, limits.is_empty()), (Vec::new(), names.is_empty()));
    limits
}

#[test]
fn what_was_taken_stays_taken_while_a_limit_stays() {
    // Of half of the draws nothing is enforced; this one is of the other half.
    let enforced = (0..).map(Roll::seeded).find(|roll| roll.draw(Purpose::Limit(1)) % 100 < 50).unwrap();
    let mut limiter = RateLimiter::default();
    let passes = |limiter: &mut RateLimiter| {
        (0..9).take_while(|_| limiter.ask(Stage::First, &Spot::new(80), &enforced, START).is_none()).count()
    };
    limiter.update(limits(&[("b", 3)]));
    assert_eq!(passes(&mut limiter), 3);
    // Another one in front of it, and it stands elsewhere; then another size.
    limiter.update(limits(&[("a", 9), ("b", 3)]));
    assert_eq!(passes(&mut limiter), 0);
    limiter.update(limits(&[("b", 2)]));
    assert_eq!(passes(&mut limiter), 2);
    assert!(limiter.ask(Stage::First, &Spot::new(81), &enforced, START).is_none(), "another port has another bucket");
    limiter.update(limits(&[]));
    assert_eq!(passes(&mut limiter), 9);
}

#[test]
fn what_is_not_enforced_passes_all_the_same() {
    let mut limiter = RateLimiter::default();
    limiter.update(limits(&[("a", 0)]));
    let refused = |seed| limiter.ask(Stage::First, &Spot::new(80), &Roll::seeded(seed), START).is_some();
    let refused = (0..10_000).map(refused).filter(|refused| *refused).count();
    assert!((4_800..5_200).contains(&refused), "{refused} of 10000 at one in two");
}

/// What may happen to a balancer.
#[derive(Clone, Debug)]
enum Event {
    Pick(u64),
    End(usize, u16),
    Later(u64),
    Endpoints(Vec<(u16, u32, u8)>),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let endpoint = (1u16..9, 0u32..4, 0u8..3);
    let event = prop_oneof![
        6 => any::<u64>().prop_map(Event::Pick),
        6 => (any::<usize>(), prop_oneof![Just(200u16), Just(500), Just(503)]).prop_map(|(at, status)| Event::End(at, status)),
        1 => (0u64..40).prop_map(Event::Later),
        1 => proptest::collection::vec(endpoint, 0..8).prop_map(Event::Endpoints),
    ];
    proptest::collection::vec(event, 1..80)
}

fn methods() -> impl Strategy<Value = LoadBalancer> {
    prop_oneof![
        Just(LoadBalancer::LeastRequest),
        Just(LoadBalancer::RoundRobin),
        Just(LoadBalancer::Random),
        Just(LoadBalancer::Passthrough),
        (0u64..60).prop_map(LoadBalancer::RingHash),
        (0u64..60).prop_map(LoadBalancer::Maglev),
    ]
}

proptest! {
    /// Whatever happens, nothing panics; who is picked is in the cluster; and while nobody may panic (the default), it
    /// is none that is set aside.
    #[test]
    fn anything_may_happen(method in methods(), events in events(), percent in 0i32..120) {
        let mut cluster = cluster(method, &[1, 2, 0]);
        cluster.policy.outlier_detection = Some(OutlierDetection { max_ejection_percent: percent, ..outlier() });
        let mut balancer = Balancer::new(&cluster, "r0/z/", Roll::seeded(3), START);
        let (mut now, mut open) = (START, Vec::new());
        for event in events {
            match event {
                Event::Pick(seed) => {
                    let Some(chosen) = balancer.pick(&Ask::new(Roll::seeded(seed), now)) else { continue };
                    let (host, endpoint) = (chosen.host, chosen.endpoint.clone());
                    prop_assert!(cluster.endpoints.contains(&endpoint));
                    prop_assert!(!balancer.is_ejected(host));
                    balancer.begin(host);
                    open.push(host);
                }
                Event::End(at, status) if !open.is_empty() => {
                    let host = open.swap_remove(at % open.len());
                    balancer.end(host, Ended::Answered(status), now);
                }
                Event::End(..) => {}
                Event::Later(seconds) => now += Duration::from_secs(seconds),
                Event::Endpoints(endpoints) => {
                    let endpoint = |(port, weight, region): (u16, u32, u8)| Endpoint {
                        weight,
                        locality: format!("r{region}/z/").into(),
                        ..Endpoint::new("10.0.0.1", port, "")
                    };
                    cluster.endpoints = endpoints.into_iter().map(endpoint).collect();
                    balancer.update(&cluster, now);
                }
            }
        }
        let counted: u32 = balancer.hosts().map(|(_, _, active)| active).sum();
        prop_assert!(counted as usize <= open.len());
    }

    /// When one of some endpoints goes, little goes elsewhere but what went to it. On a ring, too, something does: the
    /// others get more points, so that there are as many as before.
    #[test]
    fn few_keys_move(number in 2usize..12, gone in any::<usize>(), ring in any::<bool>()) {
        let method = if ring { LoadBalancer::RingHash(1_024) } else { LoadBalancer::Maglev(65_537) };
        let before = cluster(method, &vec![1; number]);
        let mut after = before.clone();
        let gone = before.endpoints[gone % number].clone();
        after.endpoints = before.endpoints.iter().filter(|endpoint| **endpoint != gone).cloned().collect();
        let (mut one, mut other) = (balancer(&before), balancer(&after));
        let mut moved = 0;
        for key in 0..200u64 {
            let ask = Ask { hash: Some(xxh64(&key.to_le_bytes(), 0)), ..Ask::new(Roll::seeded(0), START) };
            let (was, is) = (port(&mut one, &ask), port(&mut other, &ask));
            moved += u32::from(was != is && was != Some(gone.port));
        }
        prop_assert!(moved <= 60, "{moved} of 200");
    }
}

#[test]
fn grpcs_own_statuses_stand_for_those_of_http() {
    let stands_for = |code| match Ended::of_grpc(code) {
        Ended::Answered(status) => status,
        other => panic!("{other:?}"),
    };
    assert_eq!([0, 1, 2, 4, 5, 8, 13, 14, 99].map(stands_for), [200, 499, 500, 504, 404, 429, 500, 503, 500]);
}
