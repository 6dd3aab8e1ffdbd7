//! Pingora's hooks with the router in them, against hooks that always say the same peer.

use std::io::Cursor;

use meshroute::adapter::pingora::Routed;
use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::ResponseHeader;
use pingora_proxy::{ProxyHttp, Session};

use super::{PORT, Pace, clock, live};

const REQUEST: &[u8] = b"GET /a?b=c HTTP/1.1\r\nhost: nginx:5000\r\ncanary_id: 2\r\naccept: */*\r\n\r\n";

/// The least that a proxy is.
struct Fixed;

#[async_trait::async_trait]
impl ProxyHttp for Fixed {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new("10.0.0.1:80", false, String::new())))
    }
}

/// What Pingora does of a request and its response, without the endpoint and the client.
async fn through<P: ProxyHttp<CTX: Send + Sync> + Sync>(proxy: &P) {
    let mut session = Session::new_h1(Box::new(Cursor::new(REQUEST.to_vec())));
    assert!(session.as_downstream_mut().read_request().await.expect("it is one"));
    let mut trip = proxy.new_ctx();
    assert!(!proxy.request_filter(&mut session, &mut trip).await.expect("nobody fails"), "it goes on");
    let peer = proxy.upstream_peer(&mut session, &mut trip).await.expect("there is one");
    let mut header = session.req_header().clone();
    proxy.upstream_request_filter(&mut session, &mut header, &mut trip).await.expect("nobody fails");
    let mut response = ResponseHeader::build(200, None).expect("it is one");
    proxy.upstream_response_filter(&mut session, &mut response, &mut trip).await.expect("nobody fails");
    proxy.response_filter(&mut session, &mut response, &mut trip).await.expect("nobody fails");
    std::hint::black_box((peer, header, response));
}

/// A session in memory that reads the request, and all hooks up to the head of a response.
pub async fn hooks(pace: &Pace) {
    let routed = Routed::new(live(), PORT, clock());
    let what = "pingora: a session that reads a request, and its hooks; `Routed`";
    pace.compare(what, async || through(&Fixed).await, async || through(&routed).await).await;
}
