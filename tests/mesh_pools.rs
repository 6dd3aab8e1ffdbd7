//! How a sidecar uses connections to upstreams: how many it opens, shares and keeps, and what they count for.
#![cfg(unix)]

#[path = "support/alone.rs"]
mod alone;
#[path = "support/served.rs"]
mod served;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use alone::{Alone, raw, upstream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::{Request, Response};
use served::PATIENCE;
use tokio::time::timeout;

type Client = BoxBody<Bytes, Infallible>;

fn asked(url: &str) -> Request<Client> {
    Request::get(url).header("host", "raw").body(Empty::new().boxed()).unwrap()
}

/// Status and body, in time.
async fn answered<E: std::fmt::Debug>(
    answer: impl Future<Output = Result<Response<hyper::body::Incoming>, E>>,
) -> (u16, String) {
    let whole = timeout(PATIENCE, async {
        let (parts, body) = answer.await.unwrap().into_parts();
        (parts.status.as_u16(), body.collect().await.unwrap().to_bytes())
    });
    let (status, body) = whole.await.expect("it is answered in time");
    (status, String::from_utf8(body.to_vec()).unwrap())
}

const ONE_CONNECTION: &str = "{connectionPool: {tcp: {maxConnections: 1}}}";

#[tokio::test]
async fn who_wants_to_go_where_a_connection_is_being_opened_shares_it() {
    let (port, seen) = upstream(100).await;
    let alone = Alone::before(port, "shared", ONE_CONNECTION, &[]);
    let mut two = alone.two().await;
    let many: Vec<_> = (0..5).map(|_| tokio::spawn(answered(two.send_request(asked("http://raw/hold?200"))))).collect();
    for one in many {
        assert_eq!(one.await.unwrap().0, 200);
    }
    assert_eq!(seen.connections.load(SeqCst), 1);
    // HTTP/1.1 has connections of its own, however full the others are.
    assert_eq!(answered(two.send_request(asked("http://raw:81/hold?0"))).await.0, 200);
    assert_eq!(answered(alone.one().await.send_request(asked("http://raw:81/hold?0"))).await.0, 200);
}

#[tokio::test]
async fn a_connection_that_is_full_or_has_served_enough_is_followed_by_another() {
    let (port, seen) = upstream(4).await;
    let alone = Alone::before(port, "full", "", &[]);
    let mut two = alone.two().await;
    assert_eq!(answered(two.send_request(asked("http://raw/hold?0"))).await.0, 200);
    let held: Vec<_> =
        (0..4).map(|_| tokio::spawn(answered(two.send_request(asked("http://raw/hold?5000"))))).collect();
    while seen.requests.load(SeqCst) < 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = Instant::now();
    assert_eq!(answered(two.send_request(asked("http://raw/hold?0"))).await.0, 200);
    assert!(started.elapsed() < Duration::from_secs(4), "it does not wait for those that were first");
    assert_eq!(seen.connections.load(SeqCst), 2);
    held.iter().for_each(tokio::task::JoinHandle::abort);

    let (port, seen) = upstream(100).await;
    let policy = "{connectionPool: {http: {maxRequestsPerConnection: 2}}}";
    let alone = Alone::before(port, "enough", policy, &[]);
    let mut two = alone.two().await;
    for _ in 0..6 {
        assert_eq!(answered(two.send_request(asked("http://raw/hold?0"))).await.0, 200);
    }
    assert_eq!(seen.connections.load(SeqCst), 3);
}

#[tokio::test]
async fn what_a_connection_has_become_still_counts() {
    let (port, _seen) = upstream(100).await;
    let policy = "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}";
    let alone = Alone::before(port, "became", policy, &[]);
    let mut upgraded = asked("http://raw:82/");
    upgraded.headers_mut().insert("connection", "upgrade".parse().unwrap());
    upgraded.headers_mut().insert("upgrade", "echo".parse().unwrap());
    let mut one = alone.one().await;
    let mut answer = one.send_request(upgraded).await.unwrap();
    assert_eq!(answer.status().as_u16(), 101);
    let socket = hyper::upgrade::on(&mut answer).await.unwrap();
    // The one connection is taken: one waits for it, and there is no room for others.
    let mut waiting = alone.one().await;
    let waiting = tokio::spawn(answered(waiting.send_request(asked("http://raw:82/hold?0"))));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    assert_eq!(answered(alone.one().await.send_request(asked("http://raw:82/hold?0"))).await.0, 503);
    drop(socket);
    assert_eq!(waiting.await.unwrap().0, 200);
}

#[tokio::test]
async fn one_too_many_costs_no_connection_and_one_that_rests_for_long_is_closed() {
    let (port, seen) = upstream(100).await;
    let policy = "{connectionPool: {http: {http2MaxRequests: 1, idleTimeout: 2s}}}";
    let alone = Alone::before(port, "rests", policy, &[]);
    let (mut first, mut second) = (alone.one().await, alone.one().await);
    let held = tokio::spawn(answered(first.send_request(asked("http://raw:82/hold?1000"))));
    while seen.requests.load(SeqCst) < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..5 {
        assert_eq!(answered(second.send_request(asked("http://raw:82/hold?0"))).await.0, 503);
    }
    assert_eq!(held.await.unwrap().0, 200);
    assert_eq!(seen.connections.load(SeqCst), 2, "the refused ones have left theirs to each other");
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert_eq!(answered(second.send_request(asked("http://raw:82/hold?0"))).await.0, 200);
    assert_eq!(seen.connections.load(SeqCst), 3);
}

/// A server that says at which address it was found, and nothing else.
fn telling() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = write!(stream, "{}", stream.local_addr().unwrap().ip());
        }
    });
    port
}

/// What comes through a tunnel, for a client at this address.
fn tunnelled(alone: &Alone, from: Ipv4Addr, to: &str) -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&alone.proxy.parse::<SocketAddr>().unwrap().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text.split_once("\r\n\r\n").map(|(_, text)| text.to_string()).unwrap_or_default()
}

#[test]
fn connections_stick_to_an_endpoint_by_the_clients_address() {
    let port = telling();
    let pod = |n: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: raw-{n}, labels: {{app: raw}}}}\nspec: {{containers: [{{name: raw, \
             ports: [{{containerPort: {port}}}]}}]}}\nstatus: {{podIP: 127.0.0.{n}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
        )
    };
    let policy = "{loadBalancer: {consistentHash: {useSourceIp: true}}}";
    let pods: String = (2..6).map(pod).collect();
    let alone = Alone::start("by-source", &(raw(port, policy) + &pods), &[]);
    let of = |client: u8| -> BTreeSet<String> {
        (0..4).map(|_| tunnelled(&alone, Ipv4Addr::new(127, 0, 1, client), "raw:83")).collect()
    };
    let found: Vec<_> = (1..13).map(of).collect();
    assert!(found.iter().all(|pods| pods.len() == 1), "{found:?}");
    assert!(found.iter().flatten().collect::<BTreeSet<_>>().len() > 1, "{found:?}");
}

#[tokio::test]
async fn where_nobody_says_where_a_host_is_its_client_does() {
    let ((port, _seen), bytes) = (upstream(100).await, telling());
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: outside}}\nspec:\n  hosts: [outside.example]\n  \
         addresses: [127.0.0.3]\n  ports: [{{number: {port}, name: http, protocol: HTTP}}, {{number: {bytes}, name: tcp, protocol: \
         TCP}}]\n  resolution: NONE\n"
    );
    let alone = Alone::start("original", &entry.replace("127.0.0.3", "127.0.0.1"), &[]);
    for host in ["outside.example", "127.0.0.1"] {
        let mut request = asked(&format!("http://{host}:{port}/hold?0"));
        request.headers_mut().insert("host", format!("{host}:{port}").parse().unwrap());
        assert_eq!(answered(alone.one().await.send_request(request)).await.0, 200, "{host}");
    }
    let alone = Alone::start("original-bytes", &entry, &[]);
    let told = tokio::task::spawn_blocking(move || {
        ["outside.example", "127.0.0.3"].map(|to| tunnelled(&alone, Ipv4Addr::LOCALHOST, &format!("{to}:{bytes}")))
    });
    assert_eq!(told.await.unwrap(), ["127.0.0.3"; 2]);
}
