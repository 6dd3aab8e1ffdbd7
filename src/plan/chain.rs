//! What a listener does with a connection, before anything of HTTP is known.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Destination, HttpTable, Origin};
use crate::name::HostPattern;

/// One way to treat a connection (Envoy's filter chain), and the connections that it fits.
///
/// Envoy's order of choice: the longest destination prefix, then the server name (exact, then the longest wildcard),
/// then the transport, then whether HTTP was recognised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Chain {
    /// Addresses that were dialled; none: any.
    pub subnets: Vec<Cidr>,
    /// Server names of the TLS hello, in lower case; none: any.
    pub server_names: Vec<HostPattern>,
    /// Plain or encrypted.
    pub transport: Transport,
    /// Whether it takes only what was recognised as plain HTTP.
    pub http_only: bool,
    /// What is done with it.
    pub target: Target,
}

impl Chain {
    /// A chain that takes every connection.
    pub fn new(target: Target) -> Self {
        Chain { subnets: Vec::new(), server_names: Vec::new(), transport: Transport::Any, http_only: false, target }
    }

    /// Whether there is no connection that it does not fit.
    pub(crate) fn takes_all(&self) -> bool {
        self.subnets.is_empty() && self.server_names.is_empty() && self.transport == Transport::Any && !self.http_only
    }
}

/// Which connections a chain takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Transport {
    /// Plain or encrypted; what is encrypted stays so.
    Any,
    /// Encrypted, and it stays so.
    Tls,
    /// Encrypted, and decrypted here.
    Terminated,
}

/// What is done with a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// Its requests are routed one by one.
    Http(Arc<HttpTable>),
    /// It goes on to a cluster as a whole.
    Tcp {
        /// As a route's: at least one; of several, each has a weight above zero.
        destinations: Vec<Destination>,
        /// Where it was written; `None` for a service's default.
        origin: Option<Origin>,
    },
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    /// One address alone.
    pub fn host(address: IpAddr) -> Self {
        Cidr { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Reads `10.0.0.0/8` or `10.0.0.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((address, bits)) = text.split_once('/') else { return text.parse().ok().map(Cidr::host) };
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        (bits <= Cidr::host(address).bits).then_some(Cidr { address, bits })
    }

    /// The range of so many bits that an address lies in; `None`: it has not so many.
    pub(crate) fn around(address: IpAddr, bits: u8) -> Option<Self> {
        (bits <= Cidr::host(address).bits).then_some(Cidr { address, bits })
    }

    /// Its first address.
    pub(crate) fn network(&self) -> IpAddr {
        let bits = u32::from(self.bits);
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        }
    }

    /// How many leading bits count.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Cidr::parse(&text).ok_or_else(|| format!("`{text}` is no range of addresses"))
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        format!("{}/{}", cidr.address, cidr.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_what_shares_its_leading_bits() {
        let range = Cidr::parse("10.1.0.0/16").unwrap();
        assert!(range.contains("10.1.2.3".parse().unwrap()));
        assert!(!range.contains("10.2.2.3".parse().unwrap()));
        assert!(!range.contains("::1".parse().unwrap()));
        assert!(Cidr::parse("0.0.0.0/0").unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!(Cidr::parse("::/0").unwrap().contains("::1".parse().unwrap()));
        assert_eq!(Cidr::parse("10.0.0.0/33"), None);
    }

    #[test]
    fn a_range_is_known_by_its_first_address() {
        let network = |text: &str| Cidr::parse(text).unwrap().network().to_string();
        assert_eq!(network("10.1.2.3/16"), "10.1.0.0");
        assert_eq!(["10.1.2.3", "9.9.9.9/0", "fe80::1/10", "::9/0"].map(network), ["10.1.2.3", "0.0.0.0", "fe80::", "::"]);
        assert_eq!(Cidr::around("10.1.2.3".parse().unwrap(), 33), None);
    }
}
