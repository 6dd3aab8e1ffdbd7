//! What of the small mesh's parts is pure, with time handed in: when roots are replaced, what is counted and kept.

#[path = "../examples/mesh/ca.rs"]
#[allow(dead_code)] // The example uses the rest.
mod ca;
#[path = "../examples/mesh/spiffe.rs"]
#[allow(dead_code)]
mod spiffe;

use std::path::PathBuf;
use std::time::Duration;

use ca::Authority;
use rcgen::{CertificateParams, KeyPair};
use spiffe::Name;

/// What the example calls so.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where an authority keeps its roots, in a folder that goes with it.
struct Kept(PathBuf);

impl Kept {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("meshroute-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Kept(folder.join("roots"))
    }

    /// An authority whose certificates are good for 100 seconds and whose root is replaced after 1000.
    fn open(&self, now: u64) -> Result<Authority, Failure> {
        Authority::open(&self.0, Duration::from_secs(100), Some(Duration::from_secs(1000)), now)
    }

    /// Nothing can be written any more, as on a full disk; or it can again.
    fn fill(&self, full: bool) {
        let beside = self.0.with_extension("new");
        let _ = std::fs::remove_file(&beside);
        if full { std::fs::create_dir(beside).unwrap() } else { std::fs::remove_dir(beside).unwrap() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// Whether it signs with the root that was made then.
fn signs_with(authority: &Authority, made: u64) -> bool {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let signed = authority.sign(request.der(), &Name::new("default", "client")).unwrap();
    let name = format!("root {made}");
    signed.windows(name.len()).any(|window| window == name.as_bytes())
}

/// When it all begins.
const START: u64 = 1_800_000_000;

#[test]
fn an_old_root_is_trusted_until_the_last_that_it_signed_is_over() {
    let kept = Kept::new("root-goes");
    let mut authority = kept.open(START).unwrap();
    assert!(!authority.turn(true, START + 999).unwrap());
    assert!(authority.turn(true, START + 1000).unwrap(), "the second root is there");
    let second = START + 1000;
    // Somebody has not heard of it, for much longer than a certificate is good for.
    for late in [1, 200, 5000] {
        assert!(!authority.turn(false, second + late).unwrap());
        assert!(signs_with(&authority, START) && authority.bundle().len() == 2);
    }
    let switched = second + 6000;
    assert!(!authority.turn(true, switched).unwrap(), "the bundle is what it was");
    assert!(signs_with(&authority, second));
    for after in [0, 1, 100, 160] {
        assert!(!authority.turn(true, switched + after).unwrap());
        assert_eq!(authority.bundle().len(), 2, "{after} s after the last that the old root signed");
    }
    assert!(authority.turn(true, switched + 161).unwrap());
    assert!(authority.bundle().len() == 1 && signs_with(&authority, second));
    // And so it goes on, counted from when the second was made.
    assert!(authority.turn(true, switched + 162).unwrap() && authority.bundle().len() == 2);
}

#[test]
fn who_signs_and_since_when_outlives_a_restart() {
    let kept = Kept::new("root-stays");
    let mut authority = kept.open(START).unwrap();
    authority.turn(true, START + 1000).unwrap();
    let mut authority = kept.open(START + 1001).unwrap();
    assert!(signs_with(&authority, START), "not everybody has heard of the second");
    authority.turn(true, START + 1010).unwrap();
    let mut authority = kept.open(START + 1100).unwrap();
    assert!(signs_with(&authority, START + 1000), "the second has begun to sign");
    assert!(!authority.turn(true, START + 1170).unwrap());
    assert!(authority.turn(true, START + 1171).unwrap() && authority.bundle().len() == 1);
    assert!(signs_with(&kept.open(START + 1172).unwrap(), START + 1000));
}

#[test]
fn a_root_that_cannot_be_kept_is_none() {
    let kept = Kept::new("root-full");
    let mut authority = kept.open(START).unwrap();
    kept.fill(true);
    for later in [1000, 1001, 1002] {
        assert!(authority.turn(true, START + later).is_err());
        assert!(authority.bundle().len() == 1 && signs_with(&authority, START));
    }
    kept.fill(false);
    assert!(authority.turn(true, START + 1003).unwrap());
    kept.fill(true);
    assert!(authority.turn(true, START + 1004).is_err());
    assert!(signs_with(&authority, START), "that the second signs is not kept, so it does not");
    kept.fill(false);
    authority.turn(true, START + 1005).unwrap();
    assert!(signs_with(&authority, START + 1003));
}

#[test]
fn roots_that_cannot_be_read_are_not_replaced_in_silence() {
    let kept = Kept::new("root-broken");
    kept.open(START).unwrap();
    for broken in ["", "[", "[]", "{}"] {
        std::fs::write(&kept.0, broken).unwrap();
        let error = kept.open(START).err().expect("there was a root").to_string();
        assert!(error.contains("roots` cannot be read: ") && error.contains("put the file back"), "{error}");
        assert_eq!(std::fs::read_to_string(&kept.0).unwrap(), broken);
    }
    std::fs::remove_file(&kept.0).unwrap();
    assert!(kept.open(START).is_ok());
}
