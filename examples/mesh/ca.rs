//! The mesh's certificate authority: signs who a workload is, for a short time.
//!
//! Knows roots and their keys. Whether a caller may have a name is not decided here: the caller's name comes from what
//! discovery has checked, never from the request that is signed, of which only the public key is taken. Workloads have names
//! of SPIFFE, and no others; a host's name is in discovery's own certificate alone.
//!
//! A root is replaced in three steps, so that no moment exists in which somebody's certificate is not trusted: the new one
//! is made and trusted beside the old; once everybody has heard of it, it signs; once no certificate of the old one can
//! still be valid, the old one goes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::spiffe::{Name, TRUST_DOMAIN};

/// How far clocks may be apart.
const SKEW: Duration = Duration::from_secs(60);
/// How long a root is good for: Istio's.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A root and its key, as it is kept across lives.
#[derive(Clone, Serialize, Deserialize)]
struct Root {
    certificate: Vec<u8>,
    key: Vec<u8>,
    /// When it was made, in seconds of the epoch.
    made: u64,
    /// When it began to sign; `None`: it has not yet.
    #[serde(default)]
    signs_since: Option<u64>,
}

/// What is next for the roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Rest,
    /// A new one is made, and trusted.
    Make,
    /// It signs.
    Switch,
    /// Those before it are trusted no more.
    Drop,
}

/// All roots, the newest last.
pub struct Authority {
    roots: Vec<Root>,
    /// Which of them signs.
    signing: usize,
    /// How long what it signs is good for.
    lifetime: Duration,
    /// After how long a new root is made.
    age: Option<Duration>,
    file: PathBuf,
}

impl Authority {
    /// The one of an earlier life, or a new one. `file` is where it keeps its roots; nobody else may read that. Where it is
    /// there and cannot be read, nothing begins: with a new root, nobody's certificate would be trusted any more.
    pub fn open(file: &Path, lifetime: Duration, age: Option<Duration>, now: u64) -> Result<Self, Failure> {
        let mut authority = Authority { roots: Vec::new(), signing: 0, lifetime, age, file: file.to_path_buf() };
        match kept(file)? {
            Some(roots) => authority.hold(roots),
            None => authority.adopt(vec![Root { signs_since: Some(now), ..Root::new(now)? }])?,
        }
        Ok(authority)
    }

    /// How long what it signs is good for.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// The certificates that are trusted.
    pub fn bundle(&self) -> Vec<Vec<u8>> {
        self.roots.iter().map(|root| root.certificate.clone()).collect()
    }

    /// Signs the public key of a request for somebody. Whatever else the request says is passed over.
    pub fn sign(&self, request: &[u8], name: &Name) -> Result<Vec<u8>, Failure> {
        let request = CertificateSigningRequestParams::from_der(&request.into())?;
        let uses = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let params = leaf(SanType::URI(name.to_string().try_into()?), &uses, self.lifetime);
        let signed = CertificateSigningRequestParams { params, public_key: request.public_key };
        Ok(signed.signed_by(&self.issuer()?)?.der().to_vec())
    }

    /// A certificate for a server of this name, and its key, which is made here: for discovery itself.
    pub fn issue(&self, host: &str) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let key = KeyPair::generate()?;
        let params = leaf(SanType::DnsName(host.try_into()?), &[ExtendedKeyUsagePurpose::ServerAuth], self.lifetime);
        Ok((params.signed_by(&key, &self.issuer()?)?.der().to_vec(), key.serialize_der()))
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Failure> {
        let root = self.roots.get(self.signing).ok_or("there is no root")?;
        Ok(Issuer::new(root_params(root.made), KeyPair::try_from(root.key.as_slice())?))
    }

    /// Goes on with the replacement of a root where it is time for it. `heard`: everybody has the present bundle. Says whether
    /// the bundle has changed. Where a step cannot be kept, it is not taken.
    pub fn turn(&mut self, heard: bool, now: u64) -> Result<bool, Failure> {
        let step = self.next(heard, now);
        let mut roots = self.roots.clone();
        match step {
            Step::Rest => return Ok(false),
            Step::Make => roots.push(Root::new(now)?),
            Step::Switch => roots.iter_mut().skip(self.signing + 1).for_each(|root| root.signs_since = Some(now)),
            Step::Drop => drop(roots.drain(..self.signing)),
        }
        self.adopt(roots)?;
        Ok(step != Step::Switch)
    }

    fn next(&self, heard: bool, now: u64) -> Step {
        let Some(signing) = self.roots.get(self.signing) else { return Step::Rest };
        let since = signing.signs_since.unwrap_or(signing.made);
        match self.roots.last() {
            // Names tell roots apart, and they are made of seconds.
            Some(newest) if self.signing + 1 < self.roots.len() => {
                if heard && now > newest.made {
                    Step::Switch
                } else {
                    Step::Rest
                }
            }
            _ if self.signing > 0 => {
                if now > since + self.last_valid() {
                    Step::Drop
                } else {
                    Step::Rest
                }
            }
            _ => match self.age {
                Some(age) if now >= signing.made + age.as_secs().max(1) => Step::Make,
                _ => Step::Rest,
            },
        }
    }

    /// After how many seconds nobody takes for valid any more what was signed. Who has certificates that live shorter than
    /// clocks may be apart, has clocks that are not.
    fn last_valid(&self) -> u64 {
        (self.lifetime + SKEW.min(self.lifetime)).as_secs()
    }

    /// Keeps roots, and only then goes by them.
    fn adopt(&mut self, roots: Vec<Root>) -> Result<(), Failure> {
        keep(&self.file, &roots)?;
        self.hold(roots);
        Ok(())
    }

    fn hold(&mut self, roots: Vec<Root>) {
        self.signing = roots.iter().rposition(|root| root.signs_since.is_some()).unwrap_or(0);
        self.roots = roots;
    }
}

impl Root {
    fn new(made: u64) -> Result<Self, Failure> {
        let key = KeyPair::generate()?;
        let certificate = root_params(made).self_signed(&key)?.der().to_vec();
        Ok(Root { certificate, key: key.serialize_der(), made, signs_since: None })
    }
}

/// The roots of an earlier life; `None`: there was none.
fn kept(file: &Path) -> Result<Option<Vec<Root>>, Failure> {
    let unreadable = |error: &dyn std::fmt::Display| {
        let file = file.display();
        format!(
            "the authority's roots in `{file}` cannot be read: {error}; put the file back as it was, or take it away: then a \
             new root is made, and no certificate that is in use is trusted any more"
        )
    };
    let text = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| unreadable(&error))?,
    };
    let roots = serde_json::from_slice::<Vec<Root>>(&text).map_err(|error| unreadable(&error))?;
    if roots.is_empty() {
        return Err(unreadable(&"there is none in it").into());
    }
    Ok(Some(roots))
}

/// Written beside and moved into place, for nobody else to read.
fn keep(file: &Path, roots: &[Root]) -> Result<(), Failure> {
    use std::io::Write as _;
    let beside = file.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut written = options.open(&beside)?;
    written.write_all(&serde_json::to_vec(roots)?)?;
    written.sync_all()?;
    Ok(std::fs::rename(beside, file)?)
}

/// Now, in seconds of the epoch.
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A root's certificate, by when it was made: names tell roots apart.
fn root_params(made: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, TRUST_DOMAIN);
    params.distinguished_name.push(DnType::CommonName, format!("root {made}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    between(&mut params, made, ROOT_LIFETIME);
    params
}

/// A certificate that signs nothing: its name is the only one in it.
fn leaf(name: SanType, uses: &[ExtendedKeyUsagePurpose], lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![name];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = uses.to_vec();
    params.use_authority_key_identifier_extension = true;
    between(&mut params, seconds(), lifetime);
    params
}

fn between(params: &mut CertificateParams, from: u64, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from.saturating_sub(SKEW.as_secs()));
    params.not_after = epoch + Duration::from_secs(from) + lifetime;
}
