//! The nginx canary through the control plane: a real Envoy asks for it, if `ENVOY` names one, and is sent requests;
//! else a client of its own asks for it and looks at what it gets.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::Any;
use meshroute::adapter::xds::{Bootstrap, Entry, Kind};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{ControlPlane, Failed};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mesh/config/nginx-canary");
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run() -> Result<(), Failed> {
    let folder = Folder::new()?;
    let entry = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let plane =
        ControlPlane::start(folder.0.to_str().ok_or("odd path")?, "127.0.0.1:0", Entry::ProxyProtocol(entry)).await?;
    let Some(envoy) = std::env::var_os("ENVOY") else { return without_envoy(&plane).await };
    let file = folder.0.with_extension("envoy.yaml");
    let node = Bootstrap::sidecar("nginx-master", "default", plane.address).label("app", "nginx-master");
    std::fs::write(&file, node.to_string())?;
    let _envoy = Envoy::start(Path::new(&envoy), &file)?;
    settled(&plane).await?;
    let ask = async |canary: &str| ask(entry, canary).await;
    for _ in 0..10 {
        expect(&ask("2").await?, "200", "nginx-deployment-canary-2-")?;
        expect(&ask("3").await?, "200", "nginx-deployment-")?;
    }
    let (mut served, mut refused) = (0, 0);
    while served == 0 || refused == 0 {
        let answer = ask("1").await?;
        match answer.contains(" 503 ") {
            true => refused += 1,
            false => served += expect(&answer, "200", "nginx-deployment-canary-1-").map(|()| 1)?,
        }
        if served + refused > 200 {
            return Err(format!("the split is none: {served} served, {refused} refused").into());
        }
    }
    let eleven = std::fs::read_to_string(Path::new(CONFIG).join("nginx-canary-1.yaml"))?
        .replace("canary-1", "canary-11")
        .replace("canaryId: '1'", "canaryId: '11'");
    std::fs::write(folder.0.join("nginx-canary-11.yaml"), eleven)?;
    eventually(async || Ok(ask("1").await?.contains("nginx-deployment-canary-11-"))).await?;
    settled(&plane).await?;
    for _ in 0..40 {
        expect(&ask("1").await?, "200", "nginx-deployment-canary-1")?;
    }
    std::fs::remove_file(&file)?;
    println!("xds: a real Envoy serves the canary, and a pod that came later; what had no pod was refused");
    Ok(())
}

/// Asks for everything in the order in which an Envoy does.
async fn without_envoy(plane: &ControlPlane) -> Result<(), Failed> {
    let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{}", plane.address)).await?;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<DiscoveryRequest>();
    let mut responses = client.stream_aggregated_resources(Requests(receiver)).await?.into_inner();
    let node = Node { id: "sidecar~127.0.0.1~nginx-master.default~default".into(), ..Node::default() };
    let expected = ["online", "canary-1", "canary-2", "canary-11"]
        .map(|subset| format!("outbound|5000|{subset}|nginx.default.svc.cluster.local"));
    let (mut endpoints, mut routes) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        let resource_names = match kind {
            Kind::Cluster | Kind::Listener => Vec::new(),
            Kind::Endpoints => std::mem::take(&mut endpoints),
            Kind::Route => std::mem::take(&mut routes),
        };
        let ask = DiscoveryRequest {
            node: Some(node.clone()),
            type_url: kind.type_url().into(),
            resource_names,
            ..DiscoveryRequest::default()
        };
        sender.send(ask.clone())?;
        let response = responses.message().await?.ok_or("the stream ended")?;
        println!("{kind}: {} resources at {}", response.resources.len(), response.version_info);
        if kind == Kind::Cluster {
            endpoints = discovered(&response.resources)?;
            if let Some(missing) = expected.iter().find(|name| !endpoints.contains(name)) {
                return Err(format!("there is no cluster {missing}").into());
            }
        }
        if kind == Kind::Listener {
            routes = vec!["nginx.default.svc.cluster.local:5000".into(), "5000".into()];
        }
        if kind == Kind::Route {
            let first = response.resources.first().ok_or("no route table")?;
            let table = RouteConfiguration::decode(first.value.as_slice())?;
            let host = table.virtual_hosts.iter().find(|host| host.name.starts_with("nginx.")).ok_or("no nginx")?;
            if host.routes.len() != 3 {
                return Err(format!("nginx has {} routes", host.routes.len()).into());
            }
        }
        let word = DiscoveryRequest { version_info: response.version_info, response_nonce: response.nonce, ..ask };
        sender.send(word)?;
    }
    settled(plane).await?;
    println!("xds: the canary was asked for and accepted (no ENVOY was named)");
    Ok(())
}

/// The clusters whose endpoints are to be asked for.
fn discovered(clusters: &[Any]) -> Result<Vec<String>, Failed> {
    let clusters = clusters.iter().map(|resource| Cluster::decode(resource.value.as_slice()));
    let clusters: Vec<Cluster> = clusters.collect::<Result<_, _>>()?;
    Ok(clusters
        .into_iter()
        .filter(|cluster| cluster.eds_cluster_config.is_some())
        .map(|cluster| cluster.name)
        .collect())
}

struct Requests(tokio::sync::mpsc::UnboundedReceiver<DiscoveryRequest>);

impl futures_core::Stream for Requests {
    type Item = DiscoveryRequest;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<DiscoveryRequest>> {
        self.0.poll_recv(context)
    }
}

/// Waits until everybody who is connected has accepted everything.
async fn settled(plane: &ControlPlane) -> Result<(), Failed> {
    eventually(async || {
        let connected = plane.fleet.connected();
        Ok(!connected.is_empty() && connected.iter().all(|one| one.settled && one.word(Kind::Route).accepted.is_some()))
    })
    .await
}

async fn eventually(holds: impl AsyncFn() -> Result<bool, Failed>) -> Result<(), Failed> {
    let begin = tokio::time::Instant::now();
    while !holds().await? {
        if begin.elapsed() > PATIENCE {
            return Err("what was waited for did not come".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Sends a request that was dialled to the service's own address, and gives back the whole answer.
async fn ask(entry: std::net::SocketAddr, canary: &str) -> Result<String, Failed> {
    let mut stream = TcpStream::connect(entry).await?;
    let line = "PROXY TCP4 10.244.175.92 10.96.196.48 40000 5000\r\n";
    let request =
        format!("{line}GET / HTTP/1.1\r\nhost: nginx:5000\r\ncanary_id: {canary}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn expect(answer: &str, status: &str, text: &str) -> Result<(), Failed> {
    if answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text) {
        return Ok(());
    }
    Err(format!("wanted {status} from `{text}`, got:\n{answer}").into())
}

/// A copy of the canary's files that may be changed; gone in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failed> {
        let folder = std::env::temp_dir().join(format!("meshroute-xds-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        for file in std::fs::read_dir(CONFIG)? {
            let file = file?;
            std::fs::copy(file.path(), folder.join(file.file_name()))?;
        }
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind in the temporary folder does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running Envoy; ended with this.
struct Envoy(Child);

impl Envoy {
    fn start(binary: &Path, bootstrap: &Path) -> Result<Self, Failed> {
        let mut command = Command::new(binary);
        command.arg("-c").arg(bootstrap).args([
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]);
        Ok(Envoy(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
