//! A mesh that runs: what it has in force, asked of its discovery over plain HTTP.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long discovery may take for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than this is no mesh's configuration.
const MOST: u64 = 64 << 20;

/// Where a mesh runs whose resources are looked at instead of files.
#[derive(clap::Args)]
pub struct Running {
    /// Looks at what is in force in a running mesh: the address of discovery's page, such as 127.0.0.1:20001
    #[arg(long, value_name = "ADDRESS", conflicts_with = "file")]
    mesh: Option<String>,
}

impl Running {
    /// Where it runs, if one was named.
    pub fn address(&self) -> Option<&str> {
        self.mesh.as_deref().map(|address| address.trim_start_matches("http://").trim_end_matches('/'))
    }
}

/// The resources that are in force, in order of application, as YAML.
pub fn resources(address: &str) -> Result<String, String> {
    ask(address, "/api/resources").map_err(|why| format!("the mesh at {address}: {why}"))
}

fn ask(address: &str, path: &str) -> Result<String, String> {
    let socket = address.to_socket_addrs().map_err(|error| error.to_string())?.next().ok_or("it has no address")?;
    let mut stream = TcpStream::connect_timeout(&socket, PATIENCE).map_err(|error| error.to_string())?;
    let limits = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    limits.map_err(|error| error.to_string())?;
    // HTTP/1.0, so that the body comes as it is and the connection ends with it.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/yaml\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).map_err(|error| error.to_string())?;
    let answer = String::from_utf8(answer).map_err(|_| "it answers with something else than text")?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("it does not speak HTTP")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_string()),
        status => Err(format!("it answers {path} with {}: is that discovery's page?", status.unwrap_or("nothing"))),
    }
}
