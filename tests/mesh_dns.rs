//! Questions for names, as programs in the small mesh's pods ask them, byte by byte.

#[path = "../examples/mesh/dns.rs"]
mod dns;

use std::net::IpAddr;

use proptest::prelude::*;

const A: u16 = 1;
const AAAA: u16 = 28;

/// One question, as resolvers send it.
fn question(name: &str, r#type: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(r#type.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn find(name: &str) -> Vec<IpAddr> {
    match name {
        "nginx.default.svc.cluster.local" => vec!["10.96.1.2".parse().unwrap()],
        "six.example" => vec!["fd00::1".parse().unwrap()],
        "many.example" => (0..=255).map(|last| IpAddr::from([10, 0, 0, last])).collect(),
        _ => Vec::new(),
    }
}

fn ask(message: &[u8]) -> Vec<u8> {
    dns::answer(message, dns::UDP, find).unwrap()
}

/// RCODE (RFC 1035, section 4.1.1) and how many answers there are.
fn outcome(answer: &[u8]) -> (u8, u8) {
    (answer[3] & 0x0f, answer[7])
}

#[test]
fn a_name_is_told_in_whatever_letters_it_is_asked_for() {
    let asked = question("Nginx.default.SVC.cluster.local", A);
    let answer = ask(&asked);
    assert_eq!(answer[..2], asked[..2]);
    assert_eq!(answer[2] & 0x80, 0x80, "it is an answer");
    assert_eq!(outcome(&answer), (0, 1));
    // The question comes back as it was; the answer points to its name: A, IN, 30 s, four bytes.
    assert_eq!(answer[12..asked.len()], asked[12..]);
    assert_eq!(answer[asked.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 96, 1, 2]);
}

#[test]
fn what_there_is_none_of_is_told_apart_from_who_is_not_there() {
    // RFC 2308, section 2.2: a name that has addresses of the other kind only is no unknown name.
    assert_eq!(outcome(&ask(&question("nginx.default.svc.cluster.local", AAAA))), (0, 0));
    assert_eq!(outcome(&ask(&question("six.example", AAAA))), (0, 1));
    assert_eq!(outcome(&ask(&question("nobody.example", A))), (3, 0));
}

#[test]
fn more_than_fits_is_cut_and_says_so() {
    let asked = question("many.example", A);
    let short = ask(&asked);
    assert!(short.len() <= dns::UDP && short[2] & 0x02 != 0 && outcome(&short) == (0, 30), "{short:?}");
    let long = dns::answer(&asked, usize::from(u16::MAX), find).unwrap();
    assert!(long[2] & 0x02 == 0 && u16::from_be_bytes([long[6], long[7]]) == 256);
}

#[test]
fn nonsense_is_answered_or_not() {
    let mut answer = question("nginx", A);
    answer[2] |= 0x80;
    assert_eq!(dns::answer(&answer, dns::UDP, find), None, "an answer to an answer would go round for ever");
    let mut update = question("nginx", A);
    update[2] |= 0x28;
    assert_eq!(outcome(&ask(&update)), (4, 0));
    let mut two = question("nginx", A);
    two[5] = 2;
    assert_eq!(outcome(&ask(&two)), (1, 0));
    let mut pointer = question("nginx", A);
    pointer[12] = 0xc0;
    assert_eq!(outcome(&ask(&pointer)), (1, 0));
}

proptest! {
    #[test]
    fn whatever_comes_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let answer = dns::answer(&bytes, dns::UDP, |_| find("many.example"));
        prop_assert!(answer.is_none_or(|answer| answer.len() <= dns::UDP));
    }
}
