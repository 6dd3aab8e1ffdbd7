//! The small mesh with real networks: each pod has a namespace, an nginx and its own address, and programs in there know
//! nothing of a proxy. Needs root, nftables, nginx and ping; `.ci/run` has them.
#![cfg(target_os = "linux")]

#[path = "support/served.rs"]
mod served;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use served::{Folder, Served, after, all_gone, get, program, signal};

const MASTER: &str = "nginx-deployment-master";

/// One mesh at a time: what one has left behind, the start of another takes away.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(folder: &Folder) -> Served {
    Served::start_with(folder, &["--intercept", "--pods", "nginx"])
}

/// Runs a command in a pod's network.
fn exec(pod: &str, command: &[&str]) -> Output {
    let mut exec = Command::new(program());
    for variable in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        exec.env_remove(variable);
    }
    exec.args(["exec", pod]).args(command).output().unwrap()
}

/// What a command in a pod's network prints.
fn said(pod: &str, command: &[&str]) -> String {
    let output = exec(pod, command);
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

/// The owner's command in the master's network, and who is welcomed to.
fn welcome(header: &str) -> Option<String> {
    let command = format!("curl -s nginx:5000 {header} | grep 'Welcome to'");
    let page = said(MASTER, &["sh", "-c", &command]);
    let pod = page.split_once("<h1>Welcome to ")?.1.split_once("!</h1>")?.0;
    pod.rsplitn(3, '-').nth(2).map(str::to_string)
}

fn address_of(pod: &str) -> String {
    let shown = said(pod, &["ip", "-4", "-o", "address", "show", "dev", "eth0"]);
    after(&shown, "inet ").trim_end_matches("/32").to_string()
}

/// What a mesh has made outside its own folder.
fn made_by(pid: u32) -> Vec<String> {
    let own = format!("meshroute-{pid}-");
    let entries = ["/run/netns", "/etc/netns"].into_iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let paths = entries.flatten().map(|entry| entry.unwrap().path().display().to_string());
    paths.filter(|path| path.contains(&own)).collect()
}

/// Interfaces and tables of rules in the machine's own network.
fn outside() -> String {
    let shown = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let links = shown("ip", &["-o", "link"]);
    let links = links.lines().filter_map(|line| line.split(": ").nth(1)).collect::<Vec<_>>().join("\n");
    links + &shown("nft", &["list", "tables"])
}

/// The processes whose command line names something.
fn processes(naming: &Path) -> Vec<u64> {
    let naming = naming.display().to_string();
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let names = |pid: &u64| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&naming)
    };
    pids.filter(names).collect()
}

/// A host outside of the mesh.
const OUTSIDE: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: outside}\nspec:\n  hosts: \
    [outside.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  ports: [{number: 80, name: http, protocol: \
    HTTP}]\n  endpoints: [{address: 127.0.0.1, ports: {http: PORT}}]\n";

/// A pod that stays outside of the mesh.
const BARE: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: bare\n  labels: {sidecar.istio.io/inject: 'false'}\nspec: \
    {containers: [{name: nginx, ports: [{containerPort: 80}]}]}\n";

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: \
    istio-system}\nspec: {mtls: {mode: STRICT}}\n";

#[test]
#[ignore = "needs root, nftables and nginx; .ci/run runs it"]
fn the_owners_command_works_without_any_variable() {
    let (_alone, before) = (alone(), outside());
    let precheck = Command::new(program()).args(["precheck", "--intercept", "--pods", "nginx"]).output().unwrap();
    let looks = String::from_utf8(precheck.stdout).unwrap();
    assert!(precheck.status.success() && looks.contains("ok  interception "), "{looks}");
    let folder = Folder::new("intercept");
    let mut served = start(&folder);
    assert!(served.printed.contains("curl -s nginx:5000 -H \"canary_id: 1\""), "{}", served.printed);

    rules_hold();
    names_are_told();
    let online = address_of("nginx-deployment");
    let page = said(MASTER, &["curl", "-s", &online]);
    assert!(page.contains("Welcome to nginx-deployment-"), "{page}");
    let ping = exec(MASTER, &["ping", "-c", "2", "-i", "0.2", "-W", "2", &online]);
    assert!(ping.status.success(), "{ping:?}");
    a_sidecar_that_is_killed_comes_back(&served);
    let service = served.place("default/nginx:5000");
    a_host_without_an_address_is_reached(&served, &folder, service.rsplit_once(':').unwrap().1);
    a_pod_outside_comes_and_goes(&served, &folder);

    // Whoever is outside is let in, until only those are who say who they are.
    assert_eq!(get(&service, "/", "").status(), "200");
    folder.write("strict.yaml", STRICT);
    served.until("mutual TLS is required", |status| {
        status["settled"] == true && served::try_get(&service, "/", "").is_none()
    });
    assert_eq!(welcome("-H \"canary_id: 2\"").as_deref(), Some("nginx-deployment-canary-2"));
    let refused = said(MASTER, &["curl", "-s", "-m", "5", &online]);
    assert!(refused.contains("connection termination"), "{refused}");

    let room = served.log.parent().unwrap().to_path_buf();
    let (children, nginx) = (served.children(), processes(&room.join("pods")));
    assert_eq!((outside(), made_by(served.parent.id()).len()), (before.clone(), 9), "four pods and the hub");
    assert!(signal("-TERM", u64::from(served.parent.id())));
    assert!(served.wait().success());
    all_gone(&[children, nginx].concat());
    assert_eq!((outside(), made_by(served.parent.id())), (before, Vec::new()));
    assert!(!room.exists());
}

fn rules_hold() {
    let first: Vec<_> = (0..20).map(|_| welcome("-H \"canary_id: 1\"")).collect();
    assert!(first.contains(&Some("nginx-deployment-canary-1".into())), "{first:?}");
    // The other half goes to canary 11, which has no pods.
    assert!(first.contains(&None), "{first:?}");
    assert_eq!(first.iter().flatten().filter(|pod| *pod != "nginx-deployment-canary-1").count(), 0, "{first:?}");
    assert_eq!(welcome("-H \"canary_id: 2\"").as_deref(), Some("nginx-deployment-canary-2"));
    assert_eq!(welcome("-H \"canary_id: 3\"").as_deref(), Some("nginx-deployment"));
    assert_eq!(welcome("").as_deref(), Some("nginx-deployment"));
    let head = said(MASTER, &["curl", "-sI", "nginx:5000"]);
    assert!(head.contains("server: nginx/") && head.contains("x-meshroute-reason: rule 3 of VirtualService"), "{head}");
}

/// By UDP and by TCP; what nobody in the mesh has is not there.
fn names_are_told() {
    for options in ["RES_OPTIONS=", "RES_OPTIONS=use-vc"] {
        let found = said(MASTER, &["env", options, "getent", "ahostsv4", "nginx.default"]);
        assert!(found.starts_with("10.96."), "{options}: {found}");
        assert!(!exec(MASTER, &["env", options, "getent", "hosts", "nobody"]).status.success());
    }
}

fn a_sidecar_that_is_killed_comes_back(served: &Served) {
    let status = served.status();
    let mut parts = status["subscribers"].as_array().unwrap().iter();
    let master = |one: &&Value| one["part"].as_str().unwrap().starts_with("sidecar default/nginx-deployment-master");
    let killed = parts.find(master).unwrap()["pid"].as_u64().unwrap();
    assert!(signal("-9", killed));
    let gone = format!("\"pid\":{killed},");
    served.until("it runs again", |status| status["settled"] == true && !status.to_string().contains(&gone));
    assert_eq!(welcome("-H \"canary_id: 2\"").as_deref(), Some("nginx-deployment-canary-2"));
}

/// Whoever asks for it is told an address, and the sidecar knows who is meant.
fn a_host_without_an_address_is_reached(served: &Served, folder: &Folder, port: &str) {
    folder.write("outside.yaml", &OUTSIDE.replace("PORT", port));
    let known = || exec(MASTER, &["getent", "hosts", "outside.example"]).status.success();
    served.until("the host is known", |status| status["settled"] == true && known());
    let page = said(MASTER, &["curl", "-s", "outside.example"]);
    assert!(page.contains("Welcome to nginx-deployment-"), "{page}");
}

/// Names and Services are there for it too, but no rules.
fn a_pod_outside_comes_and_goes(served: &Served, folder: &Folder) {
    let (parent, settled) = (served.parent.id(), |status: &Value| status["settled"] == true);
    let pods = made_by(parent).len();
    folder.write("bare.yaml", BARE);
    served.until("the pod runs", |status| settled(status) && made_by(parent).len() > pods);
    let page = said("bare", &["curl", "-s", "nginx:5000", "-H", "canary_id: 2"]);
    assert!(page.contains("Welcome to nginx-deployment-"), "{page}");
    let page = said(MASTER, &["curl", "-s", &address_of("bare")]);
    assert!(page.contains("Welcome to nginx!"), "{page}");
    std::fs::remove_file(folder.0.join("bare.yaml")).unwrap();
    served.until("it is gone", |status| settled(status) && made_by(parent).len() == pods);
}

#[test]
#[ignore = "needs root, nftables and nginx; .ci/run runs it"]
fn what_is_left_when_all_are_killed_the_next_start_takes_away() {
    let _alone = alone();
    let folder = Folder::new("killed-intercept");
    let mut first = start(&folder);
    let (pid, room) = (first.parent.id(), first.log.parent().unwrap().to_path_buf());
    let parts = [first.children(), processes(&room.join("pods"))].concat();
    assert!(signal("-9", u64::from(pid)));
    // Some end by themselves before it is their turn.
    for part in &parts {
        signal("-9", *part);
    }
    assert!(!first.wait().success());
    all_gone(&parts);
    assert!(!made_by(pid).is_empty() && room.exists());

    let mut second = start(&folder);
    assert_eq!(made_by(pid), Vec::<String>::new());
    assert!(!room.exists());
    assert_eq!(welcome("-H \"canary_id: 2\"").as_deref(), Some("nginx-deployment-canary-2"));
    assert!(signal("-TERM", u64::from(second.parent.id())));
    assert!(second.wait().success());
    assert_eq!(made_by(second.parent.id()), Vec::<String>::new());
}
