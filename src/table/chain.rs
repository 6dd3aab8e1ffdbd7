//! Which chain of a listener takes a connection.
//!
//! Narrows as Envoy does and never goes back a step: the longest range of addresses, then the best server name, then plain or
//! encrypted, then whether HTTP was recognised. Each step but the last two is a look-up, however many chains there are.

use std::net::IpAddr;

use super::{FastMap, HostIndex};
use crate::name::HostPattern;
use crate::plan::{Chain, Cidr, Transport};
use crate::request::Connection;

/// The chains of one listener, by what they ask of a connection.
#[derive(Debug, Default)]
pub(crate) struct ChainIndex {
    /// By network and length.
    subnets: FastMap<(IpAddr, u8), Names>,
    /// The lengths that occur, longest first. Those of one family are no network of the other.
    lengths: Box<[u8]>,
    /// Those that ask for no address.
    anywhere: Option<Names>,
}

/// Chains for one range of addresses, by server name.
#[derive(Debug, Default)]
struct Names {
    index: HostIndex,
    named: Box<[Leaf]>,
    /// Those that ask for no name.
    unnamed: Option<Leaf>,
}

/// Chains that differ in nothing but what they ask for last. Of those that do not differ at all the first counts.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    /// For whatever connection.
    plain: Ends,
    /// For encrypted ones alone, which are better served here.
    encrypted: Ends,
}

/// Positions of chains; [`NONE`] where there is none.
#[derive(Clone, Copy, Debug)]
struct Ends {
    any: u32,
    /// For what was recognised as plain HTTP alone.
    http: u32,
}

const NONE: u32 = u32::MAX;

impl ChainIndex {
    /// Files chains by their position.
    pub(crate) fn build(chains: &[Chain]) -> Self {
        let mut anywhere = Filed::default();
        let mut subnets: FastMap<(IpAddr, u8), Filed> = FastMap::default();
        for (at, chain) in (0..).zip(chains) {
            if chain.subnets.is_empty() {
                anywhere.add(at, chain);
            }
            for subnet in &chain.subnets {
                subnets.entry((subnet.network(), subnet.bits())).or_default().add(at, chain);
            }
        }
        let mut lengths: Vec<u8> = subnets.keys().map(|(_, bits)| *bits).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        if cfg!(meshroute_fault = "chain") {
            lengths.reverse(); // planted: the shortest range counts
        }
        let subnets = subnets.into_iter().map(|(network, filed)| (network, filed.into_names())).collect();
        let anywhere = anywhere.into_names();
        let anywhere = (anywhere.unnamed.is_some() || !anywhere.named.is_empty()).then_some(anywhere);
        ChainIndex { subnets, lengths: lengths.into(), anywhere }
    }

    /// The position of the chain that takes a connection. Allocates for a server name of more than 64 bytes with capitals.
    // Most listeners have one chain for all, and do not come here.
    #[inline(never)]
    pub(crate) fn find(&self, connection: &Connection<'_>, http: bool) -> Option<usize> {
        let names = self.within(connection.address).or(self.anywhere.as_ref())?;
        let sni = connection.tls.and_then(|hello| hello.sni).unwrap_or_default();
        let at = names.find(sni)?.find(connection.tls.is_some(), http)?;
        Some(at as usize)
    }

    /// The chains of the longest range that an address lies in.
    fn within(&self, address: Option<IpAddr>) -> Option<&Names> {
        let address = address.filter(|_| !self.lengths.is_empty())?;
        let networks = self.lengths.iter().filter_map(|&bits| Some((Cidr::around(address, bits)?.network(), bits)));
        networks.into_iter().find_map(|network| self.subnets.get(&network))
    }
}

impl Names {
    #[inline]
    fn find(&self, sni: &str) -> Option<Leaf> {
        let named = if sni.is_empty() { None } else { self.index.find_name(sni) };
        named.map(|at| self.named[at as usize]).or(self.unnamed)
    }
}

impl Leaf {
    const EMPTY: Leaf = Leaf { plain: Ends { any: NONE, http: NONE }, encrypted: Ends { any: NONE, http: NONE } };

    fn add(&mut self, at: u32, chain: &Chain) {
        let ends = if chain.transport == Transport::Any { &mut self.plain } else { &mut self.encrypted };
        let end = if chain.http_only { &mut ends.http } else { &mut ends.any };
        *end = (*end).min(at);
    }

    #[inline]
    fn find(&self, encrypted: bool, http: bool) -> Option<u32> {
        if encrypted && (self.encrypted.any, self.encrypted.http) != (NONE, NONE) {
            // What is encrypted is not recognised.
            return self.encrypted.any();
        }
        if http && !encrypted && self.plain.http != NONE { Some(self.plain.http) } else { self.plain.any() }
    }
}

impl Ends {
    fn any(self) -> Option<u32> {
        (self.any != NONE).then_some(self.any)
    }
}

/// Chains for one range of addresses, on their way.
#[derive(Default)]
struct Filed {
    places: FastMap<HostPattern, u32>,
    named: Vec<(HostPattern, Leaf)>,
    unnamed: Option<Leaf>,
}

impl Filed {
    fn add(&mut self, at: u32, chain: &Chain) {
        if chain.server_names.is_empty() {
            self.unnamed.get_or_insert(Leaf::EMPTY).add(at, chain);
        }
        for name in &chain.server_names {
            let name = name.to_lowercase();
            let place = *self.places.entry(name.clone()).or_insert(self.named.len() as u32) as usize;
            if place == self.named.len() {
                self.named.push((name, Leaf::EMPTY));
            }
            self.named[place].1.add(at, chain);
        }
    }

    fn into_names(self) -> Names {
        let index = HostIndex::build(self.named.iter().map(|(name, _)| name).zip(0..));
        Names { index, named: self.named.into_iter().map(|(_, leaf)| leaf).collect(), unnamed: self.unnamed }
    }
}
