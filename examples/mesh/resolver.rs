//! Whoever tells names: sockets for questions, by UDP and by TCP.
//!
//! Knows how questions come. What a name stands for, it is told; what a message says, [`dns`] knows.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::netns::Namespace;
use crate::{dns, message};

/// How long whoever asks through a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Knows the addresses of a name; none where there is no such name.
pub type Find = Arc<dyn Fn(&str) -> Vec<IpAddr> + Send + Sync>;

/// Opens both doors in a namespace. From another address than the one that was asked, an answer would not be recognised:
/// so it is one, and not any.
pub async fn open(within: &Namespace, address: Ipv4Addr, port: u16, find: Find) -> io::Result<()> {
    let datagrams = within.datagrams(address, port).await?;
    let streams = within.listen(address, port).await?;
    tokio::spawn(tell(datagrams, Arc::clone(&find)));
    tokio::spawn(message::accept(streams, move |stream, _| tell_at_length(stream, Arc::clone(&find))));
    Ok(())
}

async fn tell(socket: UdpSocket, find: Find) {
    let mut message = [0; dns::UDP];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut message).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if let Some(answer) = dns::answer(&message[..length], dns::UDP, |name| find(name)) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// Answers whoever asks through a connection, until they have no more to ask (RFC 7766).
async fn tell_at_length(mut stream: TcpStream, find: Find) {
    while let Ok(Some(())) = timeout(PATIENCE, tell_one(&mut stream, &find)).await {}
}

async fn tell_one(stream: &mut TcpStream, find: &Find) -> Option<()> {
    let mut message = vec![0; usize::from(stream.read_u16().await.ok()?)];
    stream.read_exact(&mut message).await.ok()?;
    let answer = dns::answer(&message, usize::from(u16::MAX), |name| find(name))?;
    let length = u16::try_from(answer.len()).ok()?;
    stream.write_all(&[&length.to_be_bytes(), &answer[..]].concat()).await.ok()
}
