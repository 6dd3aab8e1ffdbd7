//! A part's two bonds: to the parent that started it (standard input and output) and to discovery (a socket).
//!
//! Knows how they are kept up: a part ends with its parent, and looks for discovery for ever. Knows nothing of what a
//! snapshot says.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::wire::{self, Hello, MAX_LINE, Part, Push, Reply, Report, Whereabouts};

/// The pause before discovery is looked for again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Where discovery is, as far as the parent has said.
pub type Discovery = watch::Receiver<Option<SocketAddr>>;

/// Listens to the parent. The process ends when the parent does, however that came about: its end closes the pipe.
pub fn parent() -> Discovery {
    let (sender, receiver) = watch::channel(None);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(std::io::stdin()).lines().map_while(Result::ok);
        while let Some(Ok(said)) = lines.next().map(|line| serde_json::from_str::<Whereabouts>(&line)) {
            sender.send_replace(Some(said.discovery));
        }
        std::process::exit(0);
    });
    receiver
}

/// Tells the parent what is listened on.
pub fn report(listening: BTreeMap<String, u16>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &Report { listening })?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Subscribes, and subscribes again whenever the connection is lost. `accept` checks a snapshot and puts it in force;
/// where it refuses one, discovery is told why, and whatever was in force stays. `admin` is the port of the part's own
/// page; 0: it has none.
pub async fn subscribe<B: DeserializeOwned>(
    part: Part,
    admin: u16,
    mut discovery: Discovery,
    mut accept: impl FnMut(u64, B) -> Result<(), String>,
) {
    let mut pause = PAUSES.0;
    loop {
        let (address, since) = (*discovery.borrow_and_update(), Instant::now());
        if let Some(address) = address {
            // Whatever ended it, the remedy is the same: connect again.
            let _ = converse(&part, admin, address, &mut accept).await;
        }
        if since.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = PAUSES.1.min(pause * 2),
            changed = discovery.changed() => match changed {
                Ok(()) => pause = PAUSES.0,
                Err(_) => return,
            },
        }
    }
}

/// One connection, from hello to its end.
async fn converse<B: DeserializeOwned>(
    part: &Part,
    admin: u16,
    address: SocketAddr,
    accept: &mut impl FnMut(u64, B) -> Result<(), String>,
) -> std::io::Result<()> {
    let (read, mut write) = TcpStream::connect(address).await?.into_split();
    wire::send(&mut write, &Hello::of(part.clone(), admin)).await?;
    let mut pushes = wire::messages::<Push, _>(read, MAX_LINE);
    while let Some(push) = pushes.recv().await {
        let body = serde_json::from_value(push.body).map_err(|error| error.to_string());
        let error = body.and_then(|body| accept(push.version, body)).err();
        wire::send(&mut write, &Reply { nonce: push.nonce, error }).await?;
    }
    Ok(())
}
