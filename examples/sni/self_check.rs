//! Two real TLS servers behind the router, and real clients before it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener as Listener, TcpStream as Stream};
use std::sync::Arc;
use std::thread;

use meshroute::{Reader, Reading};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tokio::net::TcpListener;

use crate::{Door, Failure, Gate};

const NAMES: [&str; 2] = ["alpha.example", "beta.example"];

pub async fn run() -> Result<(), Failure> {
    let servers = [Server::start(NAMES[0], "h2")?, Server::start(NAMES[1], "http/1.1")?];
    let direct = gate(&servers, false).await?;
    let behind = gate(&servers, true).await?;
    tokio::task::spawn_blocking(move || check(&servers, direct, behind)).await??;
    println!("sni: 2 servers, 7 connections, all as the rules have it");
    Ok(())
}

fn check(servers: &[Server; 2], direct: SocketAddr, behind: SocketAddr) -> Result<(), Failure> {
    for (server, protocol) in servers.iter().zip(["h2", "http/1.1"]) {
        // As one segment, as many of one byte, and behind a load balancer's words of either version.
        let hello = |client| speak(client, server, server.name);
        expect(server, protocol, hello(Client::new(direct, usize::MAX, b"")?)?)?;
        expect(server, protocol, hello(Client::new(direct, 1, b"")?)?)?;
        let text = b"PROXY TCP4 192.0.2.1 10.0.0.1 51234 443\r\n".as_slice();
        let packed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x0a\0\0\x01\xc8\x22\x01\xbb".as_slice();
        expect(server, protocol, hello(Client::new(behind, 7, if protocol == "h2" { text } else { packed })?)?)?;
    }
    match speak(Client::new(direct, usize::MAX, b"")?, &servers[0], "nobody.example") {
        Ok(_) => Err("a name that no rule claims was let through".into()),
        Err(_) => Ok(()),
    }
}

/// The certificate that the client saw, the protocol that was agreed on, and what the server said.
type Heard = (CertificateDer<'static>, Vec<u8>, String);

fn expect(server: &Server, protocol: &str, heard: Heard) -> Result<(), Failure> {
    let wanted = (server.certificate.clone(), protocol.as_bytes().to_vec(), format!("this is {}", server.name));
    if heard == wanted { Ok(()) } else { Err(format!("{}: wanted {wanted:?}, got {heard:?}", server.name).into()) }
}

/// A router with a gateway's rules, that sends each name to its server.
async fn gate(servers: &[Server; 2], proxied: bool) -> Result<SocketAddr, Failure> {
    let mut reader = Reader::new(Reading::Strict);
    reader.text(GATEWAY, "gateway.yaml");
    for server in servers {
        let rules = RULES.replace("NAME", server.name).replace("PORT", &server.port.to_string());
        reader.text(&rules, &format!("{}.yaml", server.name));
    }
    let gate = Gate::new(reader, Door { port: 443, proxied })?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(gate.serve(listener));
    Ok(address)
}

const GATEWAY: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: tls, protocol: TLS}, hosts: ["*.example"], tls: {mode: PASSTHROUGH}}
"#;

const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME, namespace: istio-system}
spec:
  hosts: [NAME]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {tls: PORT}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, namespace: istio-system}
spec:
  hosts: [NAME]
  gateways: [front]
  tls:
  - match: [{sniHosts: [NAME]}]
    route: [{destination: {host: NAME, port: {number: 443}}}]
"#;

/// A TLS server with a certificate of its own that says its name to whoever comes.
struct Server {
    name: &'static str,
    port: u16,
    certificate: CertificateDer<'static>,
}

impl Server {
    fn start(name: &'static str, protocol: &str) -> Result<Self, Failure> {
        let made = rcgen::generate_simple_self_signed([name.to_string()])?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key)?;
        config.alpn_protocols = vec![protocol.into()];
        let (config, listener) = (Arc::new(config), Listener::bind("127.0.0.1:0")?);
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Err(error) = greet(&config, stream, name) {
                    eprintln!("{name}: {error}");
                }
            }
        });
        Ok(Server { name, port, certificate })
    }
}

fn greet(config: &Arc<ServerConfig>, mut stream: Stream, name: &str) -> Result<(), Failure> {
    let mut connection = ServerConnection::new(Arc::clone(config))?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    write!(tls, "this is {name}")?;
    tls.conn.send_close_notify();
    tls.flush()?;
    // Whoever closes first may lose what the other has not read yet.
    let _ = stream.read(&mut [0; 1024]);
    Ok(())
}

/// A connection whose bytes go out in small pieces.
struct Client {
    stream: Stream,
    piece: usize,
}

impl Client {
    fn new(address: SocketAddr, piece: usize, introduction: &[u8]) -> Result<Self, Failure> {
        let mut stream = Stream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.write_all(introduction)?;
        Ok(Client { stream, piece })
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(&bytes[..bytes.len().min(self.piece)])
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

impl Read for Client {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(bytes)
    }
}

/// Asks for `name`, trusting the certificate of `server` alone.
fn speak(mut client: Client, server: &Server, name: &'static str) -> Result<Heard, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(server.certificate.clone())?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec!["h2".into(), "http/1.1".into()];
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(name)?)?;
    let mut said = String::new();
    rustls::Stream::new(&mut connection, &mut client).read_to_string(&mut said)?;
    let seen = connection.peer_certificates().and_then(<[_]>::first).ok_or("no certificate came")?;
    Ok((seen.clone().into_owned(), connection.alpn_protocol().unwrap_or_default().to_vec(), said))
}
