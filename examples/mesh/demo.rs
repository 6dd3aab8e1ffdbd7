//! The tour: starts a mesh on a copy of the scenario, shows what it does, and stops.
//!
//! Everything that is printed was measured in this run, over the same sockets that `serve` opens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use meshroute::Diagnostic;

use crate::Failure;
use crate::client::{self, Answer};
use crate::node::{Room, Running, Settings};
use crate::paper::Paper;
use crate::serve::{scenario, stop_asked};
use crate::status::Status;

const PATIENCE: Duration = Duration::from_secs(10);

/// An eleventh canary: the pods that the scenario's `canary-11` has been waiting for.
const CANARY_11: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: nginx-deployment-canary-11
spec:
  replicas: 1
  selector:
    matchLabels: {app: nginx, isCanary: 'true', canaryId: '11'}
  template:
    metadata:
      labels: {app: nginx, isCanary: 'true', canaryId: '11'}
    spec:
      containers:
        - name: nginx
          image: nginx:latest
          ports:
            - containerPort: 80
          lifecycle:
            postStart:
              exec:
                command: [/bin/sh, -c, 'sed -i \"s/nginx!/${HOSTNAME}!/g\" /usr/share/nginx/html/index.html']
";

/// The same condition as the scenario's second rule, and another destination.
const OVERRIDE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: no-canary-2
spec:
  hosts:
    - nginx.default.svc.cluster.local
  http:
    - match:
        - headers:
            canary_id:
              exact: '2'
      route:
        - destination:
            host: nginx.default.svc.cluster.local
            subset: online
";

/// A bracket is open and stays so.
const BROKEN: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: broken
spec:
  hosts: [nginx.default.svc.cluster.local]
  http:
    - match:
        - headers: {canary_id: {exact: 2
      route:
        - destination: {host: nginx.default.svc.cluster.local, subset: online}
";

/// A regular expression that is none.
const REGEX: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: regex
spec:
  hosts: [nginx.default.svc.cluster.local]
  http:
    - match:
        - headers: {canary_id: {regex: '[0-9'}}
      route:
        - destination: {host: nginx.default.svc.cluster.local, subset: online}
";

/// A way in from outside.
const INGRESS: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: shop
spec:
  selector: {istio: ingressgateway}
  servers:
    - port: {number: 80, name: http, protocol: HTTP}
      hosts: [shop.example.com]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: shop
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http:
    - match:
        - uri: {prefix: /next/}
      rewrite: {uri: /}
      route:
        - destination: {host: nginx.default.svc.cluster.local, subset: canary-2, port: {number: 5000}}
    - route:
        - destination: {host: nginx.default.svc.cluster.local, subset: online, port: {number: 5000}}
";

/// Nobody comes in without proving who they are.
const STRICT: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: istio-system
spec:
  mtls: {mode: STRICT}
";

/// Only the gateway may ask.
const READERS: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: readers
spec:
  selector: {matchLabels: {app: nginx}}
  rules:
    - from: [{source: {namespaces: [istio-system]}}]
      to: [{operation: {methods: [GET]}}]
";

/// Runs the tour.
pub async fn run() -> Result<(), Failure> {
    let room = Room::new()?;
    let folder = room.path("nginx-canary");
    copy(&scenario(), &folder)?;
    let started = Instant::now();
    let mesh = Running::start(&folder, room, Settings::default())?;
    let mut tour = Tour { mesh, folder, paper: Paper::new(), readings: 0, sidecar: None, known: Vec::new() };
    let outcome = tokio::select! {
        outcome = tour.guide(started) => outcome,
        _ = stop_asked() => Err("stopped before the end".into()),
    };
    let Tour { mesh, paper, .. } = tour;
    mesh.stop().await;
    if outcome.is_ok() {
        paper.heading("All processes are stopped and the copy is gone.");
        paper.line("To keep a mesh running and try it with curl:  cargo run --example mesh -- serve");
    }
    outcome
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let file = entry?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

struct Tour {
    mesh: Running,
    folder: PathBuf,
    paper: Paper,
    /// How often discovery had read the folder when it was last looked at.
    readings: u64,
    sidecar: Option<SocketAddr>,
    /// What was found in the folder so far.
    known: Vec<String>,
}

impl Tour {
    async fn guide(&mut self, started: Instant) -> Result<(), Failure> {
        self.welcome(started).await?;
        self.four_requests().await?;
        self.split().await?;
        self.eleventh_canary().await?;
        self.outside().await?;
        self.later_rule().await?;
        self.broken_edit().await?;
        self.gateway().await?;
        self.who_is_who().await
    }

    async fn welcome(&mut self, started: Instant) -> Result<(), Failure> {
        let status = self.settle().await?;
        let master = status.pods.iter().find(|pod| pod.name.contains("master")).ok_or("the master is missing")?;
        self.sidecar = Some(self.mesh.socket(&format!("proxy {}", master.name), "http_proxy").await?);
        let paper = &self.paper;
        paper.title("A small service mesh, on this machine only");
        paper.prose(
            "In a mesh every program (a pod) has a small proxy beside it (its sidecar). A program just asks for \
             a service by name; its sidecar decides, by rules that operators write in YAML, which pod gets the request.",
        );
        paper.gap();
        let (parts, files) = (self.mesh.parts.borrow().len(), count_files(&self.folder)?);
        paper.line(&format!("  files      {files}, a copy of examples/mesh/config/nginx-canary"));
        paper.line(&format!("  processes  {parts}: discovery (reads the files and tells the others), a gateway,"));
        paper.line(&format!("             a kube-proxy, {} pods and a sidecar for each", status.pods.len()));
        paper.line(&format!("  ready      {} after the start", seconds(started)));
        paper.gap();
        for (at, pod) in status.pods.iter().enumerate() {
            let labels = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
            let head = if at == 0 { "pods" } else { "" };
            paper.line(&format!("  {head:<9}  {:<46} {labels}", short(&pod.name)));
        }
        paper.heading("What discovery found in the files");
        if status.findings.is_empty() {
            paper.line("  nothing to complain of");
        }
        status.findings.iter().for_each(|finding| self.finding(finding));
        self.known = status.findings.iter().map(|finding| finding.message.clone()).collect();
        Ok(())
    }

    async fn four_requests(&mut self) -> Result<(), Failure> {
        self.paper.heading("1. Four requests from the master pod");
        for id in [Some("1"), Some("2"), Some("3"), None] {
            self.show(id).await?;
        }
        Ok(())
    }

    async fn split(&mut self) -> Result<(), Failure> {
        self.paper.heading("2. `canary_id: 1`, forty times");
        self.paper.prose(
            "Its rule sends half to the subset canary-1 and half to canary-11, which no pod belongs to. The mesh does \
             not hide that: it answers as Envoy does, 503 with the flag UH (no healthy upstream).",
        );
        self.tally("1", 40).await
    }

    async fn eleventh_canary(&mut self) -> Result<(), Failure> {
        self.paper.heading("3. The eleventh canary arrives");
        self.write("nginx-canary-11.yaml", CANARY_11, "a Deployment labelled canaryId '11'").await?;
        self.tally("1", 40).await?;
        self.tally("2", 10).await?;
        self.tally("3", 10).await
    }

    async fn outside(&mut self) -> Result<(), Failure> {
        self.paper.heading("4. A caller outside the mesh");
        self.paper.prose(
            "It has no sidecar, so no rule has a say: the cluster hands its connections to all nginx pods in turn, \
             whatever its headers are.",
        );
        let service = self.mesh.socket("kubeproxy", "default/nginx:5000").await?;
        self.paper.gap();
        self.paper.command(&format!("curl -s {service} -H \"canary_id: 2\"    # 12 times"));
        let mut counts = BTreeMap::new();
        for _ in 0..12 {
            let answer = client::get(service, "/", &[("canary_id", "2")]).await?;
            *counts.entry(who(&answer)).or_insert(0) += 1;
        }
        self.counted(&counts);
        Ok(())
    }

    async fn later_rule(&mut self) -> Result<(), Failure> {
        self.paper.heading("5. A later VirtualService with the same rule");
        self.paper.prose("Where two of them say what to do with `canary_id: 2`, the one applied later counts.");
        self.write("override.yaml", OVERRIDE, "`canary_id: 2` goes to online").await?;
        self.show(Some("2")).await?;
        self.remove("override.yaml").await?;
        self.show(Some("2")).await
    }

    async fn broken_edit(&mut self) -> Result<(), Failure> {
        self.paper.heading("6. Broken edits");
        self.paper.prose("Each is refused as a whole. What was in force before stays in force, everywhere.");
        for (name, text, about) in [
            ("broken.yaml", BROKEN, "a bracket is missing"),
            ("regex.yaml", REGEX, "a regular expression that is none"),
        ] {
            self.write(name, text, about).await?;
            self.show(Some("2")).await?;
            self.remove(name).await?;
        }
        Ok(())
    }

    async fn gateway(&mut self) -> Result<(), Failure> {
        self.paper.heading("7. A way in from outside");
        self.write("shop.yaml", INGRESS, "a Gateway and a VirtualService for it").await?;
        let door = self.mesh.socket("gateway", "80").await?;
        for (host, path) in [("shop.example.com", "/"), ("shop.example.com", "/next/"), ("other.example.com", "/")] {
            self.paper.gap();
            self.paper.command(&format!("curl -s {door}{path} -H \"Host: {host}\""));
            let answer = client::get(door, path, &[("host", host)]).await?;
            self.answered(&answer);
        }
        Ok(())
    }

    async fn who_is_who(&mut self) -> Result<(), Failure> {
        self.paper.heading("8. Who is who");
        self.paper.prose(
            "All of the above went over mutual TLS from sidecar to sidecar: each proves who it is with a certificate that \
             discovery signs for a few hours. A caller outside the mesh has none. It was taken so far; now it is not.",
        );
        self.write("strict.yaml", STRICT, "mutual TLS for all").await?;
        let service = self.mesh.socket("kubeproxy", "default/nginx:5000").await?;
        self.paper.gap();
        self.paper.command(&format!("curl -s {service}"));
        match client::get(service, "/", &[]).await {
            Ok(answer) => self.answered(&answer),
            Err(_) => self.paper.outcome(false, "---", "the connection is closed"),
        }
        self.show(None).await?;
        self.write("readers.yaml", READERS, "only the gateway may ask nginx").await?;
        self.show(None).await?;
        let door = self.mesh.socket("gateway", "80").await?;
        self.paper.gap();
        self.paper.command(&format!("curl -s {door}/ -H \"Host: shop.example.com\""));
        self.answered(&client::get(door, "/", &[("host", "shop.example.com")]).await?);
        Ok(())
    }

    /// One request through the master's sidecar, and what came back.
    async fn show(&self, id: Option<&str>) -> Result<(), Failure> {
        let proxy = self.command_line(id, "")?;
        let answer = ask(proxy, id).await?;
        self.answered(&answer);
        Ok(())
    }

    /// Many of them.
    async fn tally(&self, id: &str, times: u32) -> Result<(), Failure> {
        let proxy = self.command_line(Some(id), &format!("    # {times} times"))?;
        let mut counts = BTreeMap::new();
        for _ in 0..times {
            *counts.entry(who(&ask(proxy, Some(id)).await?)).or_insert(0) += 1;
        }
        self.counted(&counts);
        Ok(())
    }

    /// Prints the command, and says where its proxy is.
    fn command_line(&self, id: Option<&str>, remark: &str) -> Result<SocketAddr, Failure> {
        let proxy = self.sidecar.ok_or("the sidecar is missing")?;
        let header = id.map(|id| format!(" -H \"canary_id: {id}\"")).unwrap_or_default();
        self.paper.gap();
        self.paper.command(&format!("http_proxy={proxy} curl -s nginx:5000{header}{remark}"));
        Ok(proxy)
    }

    fn answered(&self, answer: &Answer) {
        let said = match answer.welcome() {
            Some(pod) => format!("Welcome to {pod}!"),
            None => with_flag(answer, answer.body.trim()),
        };
        self.paper.outcome(answer.status.is_success(), answer.status.as_str(), &said);
        self.paper.because(answer.header("x-meshroute-reason"));
    }

    fn counted(&self, counts: &BTreeMap<String, u32>) {
        for (who, count) in counts {
            self.paper.outcome(!who.starts_with('5'), &format!("{count:>3} x"), who);
        }
    }

    /// Puts a file into the folder and waits until everybody has what follows from it.
    async fn write(&mut self, name: &str, text: &str, about: &str) -> Result<(), Failure> {
        std::fs::write(self.folder.join(name), text)?;
        self.changed(&format!("+ {name}"), about).await
    }

    async fn remove(&mut self, name: &str) -> Result<(), Failure> {
        std::fs::remove_file(self.folder.join(name))?;
        self.changed(&format!("- {name}"), "taken away").await
    }

    async fn changed(&mut self, file: &str, about: &str) -> Result<(), Failure> {
        let since = Instant::now();
        let status = self.settle().await?;
        let came = if status.refused.is_empty() { "in force everywhere" } else { "refused" };
        self.paper.gap();
        self.paper.change(file, about, &format!("{came} after {}", seconds(since)));
        self.news(&status.refused);
        self.news(&status.findings);
        Ok(())
    }

    /// Prints what was not found before.
    fn news(&mut self, findings: &[Diagnostic]) {
        for finding in findings {
            if !self.known.contains(&finding.message) {
                self.finding(finding);
                self.known.push(finding.message.clone());
            }
        }
    }

    async fn settle(&mut self) -> Result<Status, Failure> {
        let status = self.mesh.settled(self.readings, PATIENCE).await?;
        self.readings = status.readings;
        Ok(status)
    }

    fn finding(&self, finding: &Diagnostic) {
        let place = finding.place.as_ref().map(|place| format!("{}:{}", place.file, place.line)).unwrap_or_default();
        self.paper.gap();
        self.paper.line(&format!("    {:<9}{place}", finding.severity.to_string()));
        self.paper.indented(13, &finding.message);
        if !finding.remedy.is_empty() {
            self.paper.indented(13, &finding.remedy);
        }
    }
}

async fn ask(proxy: SocketAddr, id: Option<&str>) -> Result<Answer, Failure> {
    let headers: Vec<_> = id.map(|id| ("canary_id", id)).into_iter().collect();
    client::get(proxy, "http://nginx:5000/", &headers).await
}

/// Who answered: a pod, or the mesh itself.
fn who(answer: &Answer) -> String {
    match answer.welcome() {
        Some(pod) => pod.to_string(),
        None => format!("{} {}", answer.status.as_str(), with_flag(answer, answer.body.trim())),
    }
}

fn with_flag(answer: &Answer, said: &str) -> String {
    let said = if said.is_empty() { "without a body" } else { said };
    format!("{} {said}", answer.header("x-meshroute-flags")).trim().to_string()
}

fn count_files(folder: &Path) -> std::io::Result<usize> {
    Ok(std::fs::read_dir(folder)?.count())
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

/// A pod's name without its namespace.
fn short(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, name)| name)
}
