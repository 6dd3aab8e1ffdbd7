//! A pod: answers as the scenario's nginx does, and says to discovery where its ports really are.
//!
//! Knows its own name and page. Knows nothing of the mesh around it. Beyond nginx it has `/echo`, which sends a
//! request's body back, so that bodies can be tried.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Method, Request, Response, StatusCode};
use serde::de::IgnoredAny;

use crate::args::Args;
use crate::message;
use crate::wire::{self, Part};
use crate::{Failure, session};

const PAGE: &str = "<!DOCTYPE html>
<html>
<head>
<title>Welcome to nginx!</title>
<style>
html { color-scheme: light dark; }
body { width: 35em; margin: 0 auto;
font-family: Tahoma, Verdana, Arial, sans-serif; }
</style>
</head>
<body>
<h1>Welcome to nginx!</h1>
<p>If you see this page, the nginx web server is successfully installed and
working. Further configuration is required.</p>

<p>For online documentation and support please refer to
<a href=\"http://nginx.org/\">nginx.org</a>.<br/>
Commercial support is available at
<a href=\"http://nginx.com/\">nginx.com</a>.</p>

<p><em>Thank you for using nginx.</em></p>
</body>
</html>
";

/// Runs the pod `--namespace`, `--name` on every `--port`; `--greet` is whom its page welcomes to.
pub async fn run(args: &Args) -> Result<(), Failure> {
    let (namespace, name) = (args.one("namespace")?.to_string(), args.one("name")?.to_string());
    let page: Arc<str> = PAGE.replace("Welcome to nginx!", &format!("Welcome to {}!", args.one("greet")?)).into();
    let discovery = session::parent();
    let mut sockets: BTreeMap<u16, SocketAddr> = BTreeMap::new();
    for port in args.all("port") {
        let (listener, address) = wire::bind(args.port_of(port)).await?;
        sockets.insert(port.parse()?, address);
        let page = Arc::clone(&page);
        tokio::spawn(message::serve(listener, move |request| {
            let response = answer(request, &page);
            async move { response }
        }));
    }
    session::report(sockets.iter().map(|(port, address)| (port.to_string(), address.port())).collect())?;
    session::subscribe(Part::Pod { namespace, name, sockets }, 0, discovery, |_, _: IgnoredAny| Ok(())).await;
    Ok(())
}

fn answer(request: Request<Incoming>, page: &str) -> Response<BoxBody<Bytes, hyper::Error>> {
    if request.uri().path() == "/echo" {
        return Response::new(request.into_body().boxed());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = html(StatusCode::METHOD_NOT_ALLOWED, error_page("405 Not Allowed"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" | "/index.html" => html(StatusCode::OK, page.to_string()),
        _ => html(StatusCode::NOT_FOUND, error_page("404 Not Found")),
    }
}

fn error_page(title: &str) -> String {
    format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
         <hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
}

fn html(status: StatusCode, body: String) -> Response<BoxBody<Bytes, hyper::Error>> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(SERVER, HeaderValue::from_static("nginx"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}
