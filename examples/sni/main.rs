//! A router for TLS connections by server name: it reads the hello, asks, and passes everything on untouched.
//!
//! ```sh
//! cargo run --example sni -- --self-check               # two TLS servers behind it, asked by real clients
//! cargo run --example sni -- FOLDER 127.0.0.1:8443      # a folder of Istio's YAML, as a gateway on port 443
//! cargo run --example sni -- FOLDER 127.0.0.1:8443 --proxy-protocol    # behind a load balancer that speaks it
//! ```

mod self_check;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshroute::adapter::proxy_protocol::{Preface, preface};
use meshroute::adapter::tls::{Opening, opening};
use meshroute::{Connection, Live, Mesh, Outcome, Plan, Reader, Reading, Resources, Roll, Router, Viewpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn Error + Send + Sync>;

/// How long a client may take to say what it wants, and a server to be reached.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--self-check"] => self_check::run().await,
        [folder, address, ref rest @ ..] if matches!(rest, [] | ["--proxy-protocol"]) => {
            let mut reader = Reader::new(Reading::Lenient);
            reader.path(folder.as_ref());
            let gate = Gate::new(reader, Door { port: 443, proxied: !rest.is_empty() })?;
            gate.serve(TcpListener::bind(address).await?).await
        }
        _ => Err("say `--self-check`, or FOLDER ADDRESS [--proxy-protocol]".into()),
    }
}

/// What is known of every connection before it says anything.
#[derive(Clone, Copy)]
struct Door {
    /// The port that the Gateway resource speaks of, whichever one is really listened on.
    port: u16,
    /// Whether a load balancer stands before it and says where connections came from.
    proxied: bool,
}

/// Passes connections on.
struct Gate {
    live: Live,
    door: Door,
}

impl Gate {
    fn new(reader: Reader, door: Door) -> Result<Arc<Self>, Failure> {
        let mut resources = Resources::new();
        let mut findings = resources.apply_read(reader);
        let client = Viewpoint::gateway("istio-system").label("istio", "ingressgateway");
        let resolution = Plan::resolve(&resources, &client, &Mesh::default());
        findings.extend(resolution.findings);
        findings.iter().for_each(|finding| eprintln!("{finding}"));
        Ok(Arc::new(Gate { live: Live::new(Router::compile(resolution.plan)?), door }))
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) -> Result<(), Failure> {
        loop {
            let (stream, peer) = listener.accept().await?;
            let gate = Arc::clone(&self);
            tokio::spawn(async move {
                if let Err(error) = gate.pass_on(stream).await {
                    eprintln!("{peer}: {error}");
                }
            });
        }
    }

    /// Reads until it is known where to, and from then on knows nothing.
    async fn pass_on(&self, mut client: TcpStream) -> Result<(), Failure> {
        let mut read = Vec::new();
        let opened = tokio::time::timeout(PATIENCE, self.target(&mut client, &mut read)).await??;
        let Some((target, begin)) = opened else { return Ok(()) };
        let mut server = tokio::time::timeout(PATIENCE, TcpStream::connect(target)).await??;
        server.write_all(&read[begin..]).await?;
        copy_bidirectional(&mut client, &mut server).await?;
        Ok(())
    }

    /// Where a connection goes, if anywhere, and how much of what was read was not said by the client.
    async fn target(&self, client: &mut TcpStream, read: &mut Vec<u8>) -> Result<Option<(SocketAddr, usize)>, Failure> {
        let begin = if self.door.proxied { self.introduced(client, read).await? } else { 0 };
        let connection = Connection::new(self.door.port);
        loop {
            let decided = match opening(&read[begin..])? {
                Opening::Short(more) => Err(more),
                Opening::Hello(hello) => Ok(self.ask(&connection.tls(hello.tls()))),
                Opening::Plain => Ok(self.ask(&connection)),
            };
            match decided {
                Ok(target) => return Ok(target?.map(|target| (target, begin))),
                Err(more) => read_more(client, read, more).await?,
            }
        }
    }

    /// How long the load balancer's words are. Where a gateway's servers are bound to addresses,
    /// `header.connection()` says which one was dialled.
    async fn introduced(&self, client: &mut TcpStream, read: &mut Vec<u8>) -> Result<usize, Failure> {
        loop {
            match preface(read)? {
                Preface::Header(header) => return Ok(header.length()),
                Preface::Absent => return Err("the load balancer does not speak the PROXY protocol".into()),
                Preface::Short(more) => read_more(client, read, more).await?,
            }
        }
    }

    fn ask(&self, connection: &Connection<'_>) -> Result<Option<SocketAddr>, Failure> {
        let (router, roll) = (self.live.load(), Roll::random());
        let Outcome::Connect(to) = router.connect(connection, &roll).outcome else { return Ok(None) };
        let Some(endpoint) = to.endpoint(&roll) else { return Ok(None) };
        Ok(Some(SocketAddr::new(endpoint.address.parse()?, endpoint.port)))
    }
}

async fn read_more(client: &mut TcpStream, read: &mut Vec<u8>, more: usize) -> Result<(), Failure> {
    match client.take(more as u64).read_buf(read).await? {
        0 => Err("it was closed before it said what it wants".into()),
        _ => Ok(()),
    }
}
