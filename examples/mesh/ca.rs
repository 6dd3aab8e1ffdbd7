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
}

/// All roots, the newest last.
pub struct Authority {
    roots: Vec<Root>,
    /// Which of them signs.
    signing: usize,
    /// Since when, in seconds of the epoch, where there is an older one.
    since: u64,
    /// How long what it signs is good for.
    lifetime: Duration,
    /// After how long a new root is made.
    age: Option<Duration>,
    file: PathBuf,
}

impl Authority {
    /// The one of an earlier life, or a new one. `file` is where it keeps its roots; nobody else may read that.
    pub fn open(file: &Path, lifetime: Duration, age: Option<Duration>) -> Result<Self, Failure> {
        let kept = std::fs::read(file).ok().and_then(|text| serde_json::from_slice::<Vec<Root>>(&text).ok());
        let roots = kept.filter(|roots| !roots.is_empty());
        let mut authority =
            Authority { roots: Vec::new(), signing: 0, since: 0, lifetime, age, file: file.to_path_buf() };
        match roots {
            Some(roots) => authority.roots = roots,
            None => authority.add_root()?,
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
    /// the bundle has changed.
    pub fn turn(&mut self, heard: bool) -> Result<bool, Failure> {
        let (Some(age), Some(newest)) = (self.age, self.roots.last()) else { return Ok(false) };
        let (now, made) = (seconds(), newest.made);
        if self.signing + 1 == self.roots.len() {
            // What an older root signed until then is no longer valid after a lifetime.
            if self.roots.len() > 1 && now > self.since + self.lifetime.as_secs() + 1 {
                self.keep(self.roots.iter().skip(self.signing).cloned().collect())?;
                self.signing = 0;
                return Ok(true);
            }
            if now < made + age.as_secs() || self.roots.len() > 1 {
                return Ok(false);
            }
            self.add_root()?;
            return Ok(true);
        }
        if heard && now > made {
            (self.signing, self.since) = (self.roots.len() - 1, now);
        }
        Ok(false)
    }

    fn add_root(&mut self) -> Result<(), Failure> {
        let (key, made) = (KeyPair::generate()?, seconds());
        let certificate = root_params(made).self_signed(&key)?.der().to_vec();
        let new = Root { certificate, key: key.serialize_der(), made };
        self.keep(self.roots.iter().cloned().chain([new]).collect())
    }

    /// Has these roots from now on, once they are written: beside and moved into place, for nobody else to read. A root that
    /// could not be kept is none: it would sign, and nobody would have been told of it.
    fn keep(&mut self, roots: Vec<Root>) -> Result<(), Failure> {
        use std::io::Write as _;
        let beside = self.file.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&beside)?.write_all(&serde_json::to_vec(&roots)?)?;
        std::fs::rename(beside, &self.file)?;
        self.roots = roots;
        Ok(())
    }
}

fn seconds() -> u64 {
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
