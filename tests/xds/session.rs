//! One subscription, step by step.

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc::Status;
use meshroute::adapter::xds::{Flavor, Kind, Response, Session, Snapshot, Translation};

use crate::puppet::{cluster, endpoints, listener, table};

/// Clusters with their endpoints, and a listener whose table leads to all of them.
fn snapshot(clusters: &[(&str, &str)]) -> Arc<Snapshot> {
    let mut made = Translation::default();
    for (name, says) in clusters {
        made.clusters.push(cluster(name, says));
        made.endpoints.push(endpoints(name, says));
    }
    let names: Vec<String> = clusters.iter().map(|(name, _)| name.to_string()).collect();
    made.listeners.push(listener("l", "t", "1"));
    made.routes.push(table("t", &names, "1"));
    Arc::new(Snapshot::new(&made))
}

fn ask(session: &mut Session, kind: Kind, names: &[&str]) {
    say(session, kind, names, "", None);
}

fn say(session: &mut Session, kind: Kind, names: &[&str], nonce: &str, refusal: Option<&str>) {
    session.request(&DiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.into(),
        error_detail: refusal.map(|message| Status { message: message.into(), ..Status::default() }),
        ..DiscoveryRequest::default()
    });
}

/// The next response, which is accepted; the names in it.
fn next(session: &mut Session, names: &[&str]) -> Option<(Kind, Vec<String>)> {
    let response = session.next_response()?;
    say(session, response.kind(), names_of(response.kind(), names), &response.nonce(), None);
    Some((response.kind(), owned(&response)))
}

fn names_of<'n>(kind: Kind, names: &'n [&'n str]) -> &'n [&'n str] {
    match kind {
        Kind::Cluster | Kind::Listener => &[],
        Kind::Endpoints => names,
        Kind::Route => &["t"],
    }
}

fn owned(response: &Response) -> Vec<String> {
    response.names().into_iter().map(str::to_string).collect()
}

/// A client that has everything.
fn settled(clusters: &[(&str, &str)]) -> Session {
    let mut session = Session::new(Flavor::StateOfTheWorld, snapshot(clusters));
    let names: Vec<&str> = clusters.iter().map(|(name, _)| *name).collect();
    for kind in Kind::ALL {
        ask(&mut session, kind, names_of(kind, &names));
        assert_eq!(next(&mut session, &names).map(|(kind, _)| kind), Some(kind));
    }
    assert!(session.next_response().is_none() && session.is_settled());
    session
}

#[test]
fn whoever_asks_is_answered_with_a_version_that_says_what_it_has() {
    let one = snapshot(&[("a", "1"), ("b", "1")]);
    let mut session = Session::new(Flavor::StateOfTheWorld, Arc::clone(&one));
    assert!(session.next_response().is_none(), "nothing was asked");
    ask(&mut session, Kind::Cluster, &[]);
    let response = session.next_response().expect("it was asked");
    assert_eq!((response.kind(), response.names()), (Kind::Cluster, vec!["a", "b"]));
    assert_eq!(response.version(), one.version(Kind::Cluster));
    assert_eq!(session.word(Kind::Cluster).accepted, None);
    say(&mut session, Kind::Cluster, &[], &response.nonce(), None);
    assert_eq!(session.word(Kind::Cluster).accepted, Some(one.version(Kind::Cluster)));
    assert!(session.next_response().is_none());
}

#[test]
fn equal_configurations_have_equal_versions() {
    let (one, other) = (snapshot(&[("a", "1"), ("b", "2")]), snapshot(&[("b", "2"), ("a", "1")]));
    let different = snapshot(&[("a", "2"), ("b", "1")]);
    assert_eq!(one.version(Kind::Cluster), other.version(Kind::Cluster));
    assert_ne!(one.version(Kind::Cluster), different.version(Kind::Cluster));
}

#[test]
fn a_word_on_something_older_is_passed_over() {
    let mut session = settled(&[("a", "1")]);
    session.publish(snapshot(&[("a", "2")]));
    let response = session.next_response().expect("there is something new");
    say(&mut session, Kind::Cluster, &[], "1", Some("late"));
    assert_eq!(session.word(Kind::Cluster).refused, None);
    assert!(session.next_response().is_none_or(|next| next.kind() == Kind::Endpoints), "its word is waited for");
    say(&mut session, Kind::Cluster, &[], &response.nonce(), None);
    assert_eq!(session.word(Kind::Cluster).accepted, Some(response.version()));
}

#[test]
fn clusters_come_first_and_go_last() {
    let mut session = settled(&[("a", "1"), ("b", "1")]);
    session.publish(snapshot(&[("a", "1"), ("c", "1")]));
    let all = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(next(&mut session, &["a", "b"]), Some((Kind::Cluster, all(&["a", "c", "b"]))));
    assert!(session.next_response().is_none(), "the client has not asked for the new cluster's endpoints yet");
    let nonce = session.word(Kind::Endpoints).sent.clone().map(|_| "2").expect("it was sent");
    say(&mut session, Kind::Endpoints, &["a", "b", "c"], nonce, None);
    assert_eq!(next(&mut session, &["a", "b", "c"]), Some((Kind::Endpoints, all(&["c"]))));
    assert_eq!(next(&mut session, &[]), Some((Kind::Route, all(&["t"]))));
    assert_eq!(next(&mut session, &[]), Some((Kind::Cluster, all(&["a", "c"]))));
    assert!(session.next_response().is_none());
}

#[test]
fn a_cluster_that_changes_gets_its_endpoints_again_though_they_are_the_same() {
    let mut session = settled(&[("a", "1"), ("b", "1")]);
    let mut made = Translation::default();
    made.clusters = vec![cluster("a", "2"), cluster("b", "1")];
    made.endpoints = vec![endpoints("a", "1"), endpoints("b", "1")];
    made.listeners = vec![listener("l", "t", "1")];
    made.routes = vec![table("t", &["a".into(), "b".into()], "1")];
    session.publish(Arc::new(Snapshot::new(&made)));
    assert_eq!(next(&mut session, &[]).map(|(kind, _)| kind), Some(Kind::Cluster));
    assert_eq!(next(&mut session, &["a", "b"]), Some((Kind::Endpoints, vec!["a".to_string()])));
    assert!(session.next_response().is_none());
}

#[test]
fn what_is_refused_is_kept_with_its_reason_and_not_offered_again() {
    let mut session = settled(&[("a", "1")]);
    let accepted = session.word(Kind::Cluster).accepted.clone();
    let bad = snapshot(&[("a", "2")]);
    session.publish(Arc::clone(&bad));
    let response = session.next_response().expect("there is something new");
    say(&mut session, Kind::Cluster, &[], &response.nonce(), Some("cluster a: no"));
    let word = session.word(Kind::Cluster).clone();
    assert_eq!(word.accepted, accepted);
    let refused = word.refused.expect("it was refused");
    assert_eq!((refused.version, refused.reason), (bad.version(Kind::Cluster), "cluster a: no".to_string()));
    // Endpoints go on, all else waits.
    assert_eq!(next(&mut session, &["a"]).map(|(kind, _)| kind), Some(Kind::Endpoints));
    assert!(session.next_response().is_none() && !session.is_settled());
    session.publish(snapshot(&[("a", "3")]));
    assert_eq!(next(&mut session, &[]), Some((Kind::Cluster, vec!["a".to_string()])));
    assert_eq!(session.word(Kind::Cluster).refused, None);
}

#[test]
fn the_slow_get_the_newest() {
    let mut session = settled(&[("a", "1")]);
    session.publish(snapshot(&[("a", "2")]));
    let response = session.next_response().expect("there is something new");
    session.publish(snapshot(&[("a", "3")]));
    session.publish(snapshot(&[("a", "4")]));
    let endpoints = session.next_response().expect("the cluster waits for them");
    assert_eq!(endpoints.version(), snapshot(&[("a", "2")]).version(Kind::Endpoints));
    assert!(session.next_response().is_none());
    say(&mut session, Kind::Cluster, &[], &response.nonce(), None);
    let response = session.next_response().expect("there is something new");
    assert_eq!(response.version(), snapshot(&[("a", "4")]).version(Kind::Cluster));
}

#[test]
fn who_comes_back_from_another_replica_is_sent_only_what_it_lacks() {
    let now = snapshot(&[("a", "1"), ("b", "2")]);
    let mut session = Session::new(Flavor::StateOfTheWorld, Arc::clone(&now));
    session.request(&DiscoveryRequest {
        type_url: Kind::Cluster.type_url().into(),
        version_info: now.version(Kind::Cluster),
        ..DiscoveryRequest::default()
    });
    assert!(session.next_response().is_none());
    assert_eq!(session.word(Kind::Cluster).accepted, Some(now.version(Kind::Cluster)));

    let mut session = Session::new(Flavor::Delta, Arc::clone(&now));
    let mut first = DeltaDiscoveryRequest { type_url: Kind::Cluster.type_url().into(), ..Default::default() };
    // The version of `a` is had from a response.
    session.delta_request(&first);
    let response = session.next_response().expect("it was asked");
    let mut bytes = Vec::new();
    response.encode(Flavor::Delta, &mut bytes);
    let sent: envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse =
        prost::Message::decode(bytes.as_slice()).expect("it is one");
    let version = |name: &str| sent.resources.iter().find(|one| one.name == name).expect("it is there").version.clone();
    let old = [("a", version("a")), ("b", "another".into()), ("gone", "some".into())];
    first.initial_resource_versions = old.map(|(name, version)| (name.to_string(), version)).into();
    let mut session = Session::new(Flavor::Delta, now);
    session.delta_request(&first);
    let response = session.next_response().expect("it lacks something");
    assert_eq!((response.names(), response.removed().count()), (vec!["b"], 0));
    let word = DeltaDiscoveryRequest {
        response_nonce: response.nonce(),
        initial_resource_versions: Default::default(),
        ..first
    };
    session.delta_request(&word);
    let response = session.next_response().expect("something is to go");
    assert_eq!(response.removed().collect::<Vec<_>>(), ["gone"]);
}

#[test]
fn what_does_not_exist_is_told_and_sent_when_it_does() {
    let mut session = Session::new(Flavor::Delta, snapshot(&[("a", "1")]));
    let type_url = Kind::Endpoints.type_url().to_string();
    let resource_names_subscribe = vec!["a".into(), "z".into()];
    session.delta_request(&DeltaDiscoveryRequest {
        type_url: type_url.clone(),
        resource_names_subscribe,
        ..DeltaDiscoveryRequest::default()
    });
    let response = session.next_response().expect("it was asked");
    assert_eq!((response.names(), response.removed().collect::<Vec<_>>()), (vec!["a"], vec!["z"]));
    session.delta_request(&DeltaDiscoveryRequest { type_url, response_nonce: response.nonce(), ..Default::default() });
    session.publish(snapshot(&[("a", "1"), ("z", "1")]));
    let response = session.next_response().expect("it is there now");
    assert_eq!(response.names(), ["z"]);
}

#[test]
fn kinds_that_are_not_served_are_passed_over() {
    let mut session = Session::new(Flavor::StateOfTheWorld, snapshot(&[]));
    session.request(&DiscoveryRequest { type_url: "type.googleapis.com/other".into(), ..DiscoveryRequest::default() });
    assert!(session.next_response().is_none());
}
