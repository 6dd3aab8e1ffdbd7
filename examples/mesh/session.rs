//! A part's two bonds: to the parent that started it (standard input and output) and to discovery (TLS, [`trust`]).
//!
//! What the parent hands out on standard input, and nobody else can read, is what a part knows discovery by, and what it proves
//! itself to it with.
//!
//! Knows how they are kept up: a part ends with its parent, and looks for discovery for ever. Knows nothing of what is
//! pushed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::ads::{Holding, Push, Sets};
use crate::serve::stop_asked;
use crate::wire::{self, Hello, MAX_LINE, Opened, Part, Report, Roster, Whereabouts};
use crate::{lines, trust};

/// The pause before discovery is looked for again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What the parent has said so far.
#[derive(Clone)]
pub struct Bond(watch::Receiver<Option<Whereabouts>>);

impl Bond {
    /// Where discovery is, if that is known yet.
    pub fn discovery(&self) -> Option<Whereabouts> {
        self.0.borrow().clone()
    }
}

impl From<watch::Receiver<Option<Whereabouts>>> for Bond {
    fn from(said: watch::Receiver<Option<Whereabouts>>) -> Self {
        Bond(said)
    }
}

/// Listens to the parent. The process ends when the parent does, however that came about: its end closes the pipe. So it
/// does when it is asked to.
pub fn parent() -> Bond {
    let (sender, receiver) = watch::channel(None);
    listen(move |said| drop(sender.send_replace(Some(said))));
    tokio::spawn(async {
        if stop_asked().await.is_ok() {
            leave();
        }
    });
    Bond(receiver)
}

/// The same for discovery, which is told who may be what.
pub fn roster() -> watch::Receiver<Roster> {
    let (sender, receiver) = watch::channel(Roster::new());
    listen(move |said| drop(sender.send_replace(said)));
    receiver
}

fn listen<T: DeserializeOwned>(mut take: impl FnMut(T) + Send + 'static) {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(std::io::stdin()).lines().map_while(Result::ok);
        while let Some(Ok(said)) = lines.next().map(|line| serde_json::from_str::<T>(&line)) {
            take(said);
        }
        leave();
    });
}

/// Ends this process, once what it had to say is written.
fn leave() -> ! {
    lines::end();
    std::process::exit(0)
}

/// Tells the parent what is listened on.
pub fn report(listening: BTreeMap<String, u16>) -> std::io::Result<()> {
    tell(&Report { listening, roots: Vec::new() })
}

/// Tells the parent all that there is to be told.
pub fn tell(report: &Report) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Subscribes, and subscribes again whenever the connection is lost, each time from nothing. `accept` is shown what there is
/// with each push, checks it and puts it in force; where it refuses one, discovery is told why, and whatever was in force
/// stays. `admin` is the port of the part's own page; 0: it has none.
pub async fn subscribe(part: Part, admin: u16, mut bond: Bond, mut accept: impl FnMut(&Sets) -> Result<(), String>) {
    let mut pause = PAUSES.0;
    loop {
        let (said, since) = (bond.0.borrow_and_update().clone(), Instant::now());
        if let Some(said) = said {
            // Whatever ended it, the remedy is the same: connect again.
            let _ = converse(&part, admin, said, &mut accept).await;
        }
        if since.elapsed() > PAUSES.1 {
            pause = PAUSES.0;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = PAUSES.1.min(pause * 2),
            changed = bond.0.changed() => match changed {
                Ok(()) => pause = PAUSES.0,
                Err(_) => return,
            },
        }
    }
}

/// One connection, from hello to its end.
async fn converse(
    part: &Part,
    admin: u16,
    said: Whereabouts,
    accept: &mut impl FnMut(&Sets) -> Result<(), String>,
) -> std::io::Result<()> {
    let (read, mut write) = tokio::io::split(trust::reach(&said.discovery).await?);
    wire::send(&mut write, &Opened::Hello(Hello::of(part.clone(), admin, said.token))).await?;
    let mut pushes = wire::messages::<Push, _>(read, MAX_LINE);
    let mut holding = Holding::default();
    while let Some(push) = pushes.recv().await {
        wire::send(&mut write, &holding.take(push, &mut *accept)).await?;
    }
    Ok(())
}
