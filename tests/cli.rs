//! The command, asked about the nginx canary as an operator would ask.

#[cfg(unix)]
#[path = "support/served.rs"]
mod served;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const CANARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mesh/config/nginx-canary");

fn meshroute(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshroute")).args(args).output().expect("the command can be started")
}

fn meshroute_with(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshroute"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command can be started");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it is read");
    child.wait_with_output().expect("it ends")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asks from the master pod, with a `canary_id` if there is one.
fn route(canary_id: &str) -> Output {
    let header = format!("canary_id: {canary_id}");
    let mut args =
        vec!["route", "-f", CANARY, "--from", "default/nginx-deployment-master", "GET", "http://nginx:5000/"];
    if !canary_id.is_empty() {
        args.extend(["-H", &header]);
    }
    meshroute(&args)
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

#[test]
fn without_a_header_a_request_goes_online() {
    let answer = route("");
    let text = stdout(&answer);
    assert_eq!(answer.status.code(), Some(0), "{text}");
    assert!(text.contains("goes to subset online of nginx.default.svc.cluster.local:5000"), "{text}");
    assert!(text.contains("spec.http[0].match[0] does not hold: there is no header `canary_id`"), "{text}");
    assert!(text.contains("nginx-vs.yaml:30"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours are for terminals");
}

#[test]
fn canary_2_goes_to_its_subset_and_3_online() {
    for (canary_id, subset) in [("2", "canary-2"), ("3", "online")] {
        let answer = route(canary_id);
        let text = stdout(&answer);
        assert_eq!(answer.status.code(), Some(0), "{text}");
        assert!(text.contains(&format!("goes to subset {subset} of")), "{text}");
    }
}

#[test]
fn canary_1_is_shared_with_a_subset_that_has_no_pods() {
    let answer = route("1");
    let text = stdout(&answer);
    assert_eq!(answer.status.code(), Some(1), "{text}");
    assert!(text.contains("50%  goes to subset canary-1 of"), "{text}");
    assert!(text.contains("50%  503 UH"), "{text}");
    let warned = stderr(&answer);
    assert!(warned.contains("nginx-vs.yaml:17") && warned.contains("nginx-vs.yaml:21"), "{warned}");
}

#[test]
fn a_roll_decides_between_the_two() {
    for (roll, subset, status) in [("0", "canary-1", 0), ("49", "canary-1", 0), ("50", "canary-11", 1)] {
        let header = ["-H", "canary_id: 1", "--format", "json", "--roll", roll];
        let answer = meshroute(&[&["route", "-f", CANARY, "http://nginx:5000/"][..], &header].concat());
        let outcome = &json(&answer)["outcomes"][0];
        assert_eq!((outcome["subset"].as_str(), answer.status.code()), (Some(subset), Some(status)), "{outcome}");
    }
}

#[test]
fn who_asks_must_be_known() {
    let answer = meshroute(&["route", "-f", CANARY, "--from", "default/nobody", "http://nginx:5000/"]);
    assert_eq!(answer.status.code(), Some(2));
    assert!(stderr(&answer).contains("there is no pod `nobody` in namespace `default`"));
    let several =
        meshroute(&["route", "-f", CANARY, "--from", "default/nginx-deployment-canary", "http://nginx:5000/"]);
    assert!(stderr(&several).contains("may be `nginx-deployment-canary-1-"), "{}", stderr(&several));
}

#[test]
fn get_lists_what_is_loaded_under_every_name() {
    for name in ["vs", "virtualservice", "VirtualServices", "virtualservice.networking.istio.io"] {
        let text = stdout(&meshroute(&["get", name, "-f", CANARY]));
        let mut lines = text.lines();
        assert_eq!(
            lines.next().map(|head| head.split_whitespace().collect()),
            Some(vec!["NAME", "GATEWAYS", "HOSTS", "AGE"])
        );
        assert!(lines.next().is_some_and(|row| row.starts_with("nginx ")), "{text}");
    }
    let text = stdout(&meshroute(&["get", "dr,po", "-f", CANARY, "-o", "wide"]));
    assert!(text.contains("online,canary-1,canary-2,canary-11"), "{text}");
    assert_eq!(text.matches("pod/nginx-deployment-").count(), 4, "{text}");
    let unknown = meshroute(&["get", "crontab", "-f", CANARY]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("virtualservices (vs)"), "{}", stderr(&unknown));
    assert_eq!(meshroute(&["get", "vs", "nobody", "-f", CANARY]).status.code(), Some(1));
}

#[test]
fn what_get_writes_can_be_read_again() {
    let written = stdout(&meshroute(&["get", "all", "-f", CANARY, "-o", "yaml"]));
    let again = stdout(&meshroute_with(&["get", "all", "-f", "-", "-o", "yaml"], &written));
    assert_eq!(written, again);
}

#[test]
fn analyze_tells_each_thing_once_with_its_place() {
    let answer = meshroute(&["analyze", "-f", CANARY]);
    let text = stdout(&answer);
    assert_eq!(answer.status.code(), Some(1), "{text}");
    assert!(text.contains("error subset `canary-11` selects no pod") && text.contains("[IST0173]"), "{text}");
    assert_eq!(text.matches("[weight-in-destination]").count(), 2, "{text}");
    assert!(text.contains("1 error, 2 warnings, 1 remark in 7 resources"), "{text}");
    let found = json(&meshroute(&["analyze", "--format", "json", CANARY]));
    assert_eq!(found.as_array().map(Vec::len), Some(4));
    assert_eq!(found[0]["resource"], "DestinationRule default/nginx");
}

#[test]
fn analyze_reads_standard_input_and_says_what_is_no_yaml() {
    let clean = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n";
    let answer = meshroute_with(&["analyze", "--format", "json", "-"], clean);
    assert_eq!((answer.status.code(), stdout(&answer).trim()), (Some(0), "[]"));
    let broken = meshroute_with(&["analyze", "-"], "a: [\n");
    assert_eq!(broken.status.code(), Some(2), "{}", stdout(&broken));
    assert_eq!(meshroute(&["analyze", "-f", "/nowhere"]).status.code(), Some(2));
}

#[test]
fn validate_refuses_the_canary_and_names_both_weights_and_the_remedy() {
    let as_path = meshroute(&["validate", CANARY]);
    let as_option = meshroute(&["validate", "-f", CANARY]);
    let text = stdout(&as_path);
    assert_eq!(as_path.status.code(), Some(1), "{text}");
    for weight in ["nginx-vs.yaml:17", "nginx-vs.yaml:21"] {
        assert!(text.contains(weight), "{text}");
    }
    assert_eq!(text.matches("move it out one level, beside `destination`").count(), 2, "{text}");
    assert_eq!(text, stdout(&as_option));
}

#[test]
fn validate_without_anything_to_read_says_what_it_wants() {
    let answer = meshroute(&["validate"]);
    assert_eq!(answer.status.code(), Some(2));
    assert!(stderr(&answer).contains("<PATH>"), "{}", stderr(&answer));
}

#[test]
fn a_connection_names_the_rule_that_sends_it_on() {
    let config = r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{name: tcp, port: 3306}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-1, labels: {app: db}}
status: {podIP: 10.0.0.7}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec:
  hosts: [db]
  tcp:
  - match: [{port: 3307}]
    route: [{destination: {host: elsewhere}}]
  - route: [{destination: {host: db}}]
"#;
    let file = std::env::temp_dir().join(format!("meshroute-cli-connection-{}.yaml", std::process::id()));
    std::fs::write(&file, config).expect("the file can be written");
    let path = file.to_string_lossy();
    let answer = meshroute(&["route", "-f", &path, "tcp://db:3306"]);
    std::fs::remove_file(&file).expect("it was written");
    let text = stdout(&answer);
    assert_eq!(answer.status.code(), Some(0), "{text}{}", stderr(&answer));
    assert!(text.contains("the connection goes to db.default.svc.cluster.local:3306"), "{text}");
    assert!(text.contains("VirtualService default/db, spec.tcp[1] takes it"), "{text}");
    assert!(text.contains(&format!("{path}:20")), "{text}");
}

/// Answers one request for a running mesh's resources, as discovery would.
fn running_mesh(status: &'static str, resources: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    let address = listener.local_addr().expect("it listens").to_string();
    let discovery = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody asks");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut stream, &mut byte).expect("the head comes whole");
            head.push(byte[0]);
        }
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{resources}", resources.len());
        stream.write_all(answer.as_bytes()).expect("it is read");
        String::from_utf8(head).expect("it is text")
    });
    (address, discovery)
}

#[test]
fn a_running_mesh_is_looked_at_as_files_are() {
    let resources =
        "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: default}\nspec: {ports: [{port: 80}]}\n";
    let (address, discovery) = running_mesh("200 OK", resources);
    let answer = meshroute(&["get", "svc", "--mesh", &address]);
    let asked = discovery.join().expect("it has answered");
    assert!(asked.starts_with("GET /api/resources HTTP/1.0\r\n"), "{asked}");
    assert_eq!(answer.status.code(), Some(0), "{}", stderr(&answer));
    assert!(stdout(&answer).contains("db"), "{}", stdout(&answer));

    let (address, discovery) = running_mesh("404 Not Found", "");
    let answer = meshroute(&["analyze", "--mesh", &format!("http://{address}/")]);
    discovery.join().expect("it has answered");
    assert_eq!(answer.status.code(), Some(2));
    assert!(
        stderr(&answer).contains(&format!("the mesh at {address}: it answers /api/resources with 404")),
        "{}",
        stderr(&answer)
    );
    let both = meshroute(&["get", "svc", "--mesh", &address, "-f", "config/"]);
    assert_eq!(both.status.code(), Some(2));
}

/// What is in force is what discovery has accepted, not what stands in the folder; and the status that a cluster would give.
#[cfg(unix)]
#[test]
fn what_is_in_force_in_a_mesh_that_runs() {
    let folder = served::Folder::new("cli");
    let mesh = served::Served::start(&folder);
    let get = |what: &[&str]| meshroute(&[&["get"], what, &["--mesh", &mesh.page]].concat());
    assert_eq!(stdout(&get(&["vs"])), stdout(&meshroute(&["get", "vs", "-f", CANARY])));
    let pods = stdout(&get(&["po", "-o", "yaml"]));
    assert!(pods.contains("podIP: 10.") && pods.contains("nginx-deployment-master"), "{pods}");
    folder.write("broken.yaml", "] no yaml");
    mesh.until("the edit is refused", |status| status["refused"][0].is_object());
    assert_eq!(get(&["vs"]).status.code(), Some(0), "the last good version is in force");

    let told = stdout(&meshroute(&["route", "--mesh", &mesh.page, "http://nginx:5000/", "-H", "canary_id: 2"]));
    assert!(told.contains("subset canary-2 of"), "{told}");
    let found = stdout(&meshroute(&["analyze", "--mesh", &mesh.page]));
    assert!(found.contains("canary-11"), "{found}");
    let nobody = meshroute(&["get", "vs", "--mesh", "127.0.0.1:1"]);
    assert!(!nobody.status.success() && stderr(&nobody).contains("the mesh at 127.0.0.1:1: "), "{}", stderr(&nobody));
}
