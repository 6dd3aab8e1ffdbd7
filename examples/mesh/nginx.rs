//! A pod that is a real nginx: its configuration, and its process.
//!
//! The pod's own process stays beside it and speaks to discovery. nginx runs in the pod's namespace, in one process, and
//! ends with the one beside it, however that comes about: Linux sees to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::args::Args;
use crate::{Failure, dial, netns};

/// How long nginx may take until it listens, in looks, and how far apart those are.
const LOOKS: (u32, Duration) = (250, Duration::from_millis(20));

/// Starts an nginx that shows `page` on these sockets, and waits until it does. Its files go to `--folder`.
pub async fn start(args: &Args, page: &str, sockets: &[SocketAddr]) -> Result<Child, Failure> {
    let folder = PathBuf::from(args.one("folder")?);
    std::fs::create_dir_all(folder.join("html"))?;
    std::fs::write(folder.join("html/index.html"), page)?;
    std::fs::write(folder.join("nginx.conf"), configuration(&folder, sockets))?;
    let mut command = Command::new(std::env::current_exe()?);
    let namespace = args.all("netns").first().map_or("-", String::as_str);
    command.args(["within", namespace, &std::process::id().to_string()]);
    command.args(["nginx", "-e", "stderr", "-p"]).arg(&folder).arg("-c").arg(folder.join("nginx.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    for socket in sockets {
        listens(&mut child, *socket).await?;
    }
    Ok(child)
}

/// Waits until it listens.
async fn listens(child: &mut Child, socket: SocketAddr) -> Result<(), Failure> {
    for _ in 0..LOOKS.0 {
        if dial::home(socket).await.is_ok() {
            return Ok(());
        }
        tokio::select! {
            ended = child.wait() => return Err(format!("nginx has ended ({}); is it there?", ended?).into()),
            () = tokio::time::sleep(LOOKS.1) => {}
        }
    }
    Err(format!("nginx does not listen on {socket}").into())
}

fn configuration(folder: &Path, sockets: &[SocketAddr]) -> String {
    let folder = folder.display();
    let listen: String = sockets.iter().map(|socket| format!("    listen {socket};\n")).collect();
    let rooms = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let rooms: String = rooms.iter().map(|room| format!("  {room}_temp_path \"{folder}/{room}\";\n")).collect();
    format!(
        "daemon off;\nmaster_process off;\npid \"{folder}/nginx.pid\";\nerror_log stderr;\nevents {{}}\nhttp {{\n  \
         access_log off;\n  default_type text/html;\n{rooms}  server {{\n{listen}    root \"{folder}/html\";\n  }}\n}}\n"
    )
}

/// `mesh within NETNS PARENT COMMAND...`: becomes a command in a namespace (`-`: in none) that ends with its parent.
#[cfg(target_os = "linux")]
pub fn within(words: &[String]) -> Result<(), Failure> {
    use std::os::unix::process::{CommandExt as _, parent_id};
    let [namespace, parent, program, args @ ..] = words else {
        return Err("`mesh within NETNS PARENT COMMAND...` is started by pods".into());
    };
    if namespace != "-" {
        netns::join(namespace)?;
    }
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if parent.parse() != Ok(parent_id()) {
        return Err("the parent has ended already".into());
    }
    let error = std::process::Command::new(program).args(args).exec();
    Err(format!("`{program}`: {error}").into())
}

/// Nothing else can promise that nginx ends with its pod.
#[cfg(not(target_os = "linux"))]
pub fn within(_: &[String]) -> Result<(), Failure> {
    netns::join("nginx").map_err(|_| "`--pods nginx` needs Linux".into())
}
