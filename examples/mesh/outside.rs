//! TLS to hosts outside, as a DestinationRule asks for it (`SIMPLE`, `MUTUAL`).
//!
//! Knows files and TLS. Files are looked at again and again; what cannot be used leaves in force what was there before, and
//! where nothing was, no connection is made. What a server has to show stands in [`stranger`](crate::stranger).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use meshroute::Plan;
use meshroute::model::destination_rule::{ClientTlsMode, ClientTlsSettings};
use meshroute::plan::Cluster;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::interval;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Failure;
use crate::access_log;
use crate::config::Config;
use crate::identity::provider;
use crate::pool::Tongue;
use crate::stranger::Stranger;
use crate::wire::Outside;

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Where systems keep the authorities that they trust; the first that is there counts, as with Istio.
const SYSTEMS: [&str; 8] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-certificates",
];
/// Envoy's words where a file could not be used.
const NO_SECRET: &str = "TLS error: Secret is not supplied by SDS";

/// How the servers of one cluster are spoken to.
#[derive(Debug)]
pub struct Origin {
    wanted: Outside,
    /// Stands for the contents of its files; 0: nothing has been seen yet.
    seen: AtomicU64,
    /// What was last good.
    loaded: ArcSwapOption<Loaded>,
}

/// What came of the files.
#[derive(Debug)]
struct Loaded {
    roots: Arc<RootCertStore>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// What a plan asks for, by cluster. A file is looked for in the folder; a secret is a folder `secrets/NAME` in there, with
/// Kubernetes' names for its files.
pub fn wanted(plan: &Plan, folder: &Path) -> BTreeMap<String, Outside> {
    let asked = |tls: &&ClientTlsSettings| matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    let asked =
        |cluster: &'_ Arc<Cluster>| cluster.policy.tls.as_ref().filter(asked).map(|tls| origination(tls, folder));
    plan.clusters.iter().filter_map(|cluster| Some((cluster.name.to_string(), asked(cluster)?))).collect()
}

fn origination(tls: &ClientTlsSettings, folder: &Path) -> Outside {
    let [certificate, key, authorities] = match tls.credential_name.as_str() {
        "" => [&tls.client_certificate, &tls.private_key, &tls.ca_certificates].map(|file| folder.join(file)),
        secret => ["tls.crt", "tls.key", "ca.crt"].map(|file| folder.join("secrets").join(secret).join(file)),
    };
    let systems = tls.credential_name.is_empty() && tls.ca_certificates.is_empty();
    Outside {
        authorities: (!systems).then_some(authorities),
        own: (tls.mode == ClientTlsMode::Mutual).then_some((certificate, key)),
        names: tls.subject_alt_names.clone(),
        sni: tls.sni.clone(),
        unchecked: tls.insecure_skip_verify == Some(true),
        revocable: !tls.ca_crl.is_empty(),
    }
}

/// All that a snapshot asks for, by cluster. What was known before keeps what it has read.
pub fn adopt(wanted: BTreeMap<String, Outside>, before: Option<&Config>) -> BTreeMap<String, Arc<Origin>> {
    let known = |cluster: &str, wanted: &Outside| {
        before?.outside.get(cluster).filter(|origin| origin.wanted == *wanted).map(Arc::clone)
    };
    let adopt = |(cluster, wanted): (String, Outside)| {
        let origin = known(&cluster, &wanted).unwrap_or_else(|| Arc::new(Origin::new(wanted)));
        origin.renew(&cluster);
        (cluster, origin)
    };
    wanted.into_iter().map(adopt).collect()
}

/// Looks at the files of the snapshot in force again and again.
pub async fn follow(config: watch::Receiver<Option<Arc<Config>>>) {
    let mut pace = interval(LOOK);
    loop {
        pace.tick().await;
        let config = config.borrow().clone();
        let origins = config.iter().flat_map(|config| &config.outside);
        origins.for_each(|(cluster, origin)| origin.renew(cluster));
    }
}

impl Origin {
    fn new(wanted: Outside) -> Self {
        Origin { wanted, seen: AtomicU64::new(0), loaded: ArcSwapOption::empty() }
    }

    /// What its files say now, where that can be used.
    fn renew(&self, cluster: &str) {
        let seen = self.fingerprint();
        if self.seen.swap(seen, Ordering::Relaxed) == seen {
            return;
        }
        match Loaded::read(&self.wanted) {
            Ok(loaded) => self.loaded.store(Some(Arc::new(loaded))),
            Err(error) => access_log::write(format!("TLS to {cluster}: its files cannot be used: {error}")),
        }
    }

    /// The system's own file is none of them: it is large, and read once.
    fn fingerprint(&self) -> u64 {
        let own = self.wanted.own.iter().flat_map(|(certificate, key)| [certificate, key]);
        let mut hasher = DefaultHasher::new();
        self.wanted.authorities.iter().chain(own).for_each(|file| std::fs::read(file).ok().hash(&mut hasher));
        hasher.finish().max(1)
    }

    /// Whether the request's host matters: for the name that is sent.
    pub fn is_automatic(&self) -> bool {
        self.wanted.sni.is_empty()
    }

    /// Secures a connection to one of the servers, or says why not, as Envoy would.
    pub async fn secure(
        &self,
        stream: TcpStream,
        host: Option<&str>,
        tongue: Option<Tongue>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let loaded = self.loaded.load_full().ok_or(NO_SECRET)?;
        let client = self.client(&loaded, host, tongue).map_err(|error| format!("TLS_error:|{error}"))?;
        let sent = if self.is_automatic() { host } else { Some(&*self.wanted.sni) };
        let server = sent.map_or_else(|| Ok(nobody()), |name| ServerName::try_from(name.to_string()));
        let server = server.map_err(|error| format!("TLS_error:|{error}"))?;
        let connected = TlsConnector::from(Arc::new(client)).connect(server, stream).await;
        connected.map_err(|error| format!("TLS_error:|{error}"))
    }

    fn client(
        &self,
        loaded: &Loaded,
        host: Option<&str>,
        tongue: Option<Tongue>,
    ) -> Result<ClientConfig, rustls::Error> {
        let server = match (self.wanted.unchecked, &*self.wanted.names) {
            (true, _) => Stranger::Anybody,
            (false, []) => {
                // Where a rule says the `sni`, Istio has no name checked unless it says `subjectAltNames` too.
                let names = host.filter(|_| self.is_automatic()).map(str::to_string);
                Stranger::Vouched { roots: Arc::clone(&loaded.roots), names: names.into_iter().collect() }
            }
            (false, names) => Stranger::Vouched { roots: Arc::clone(&loaded.roots), names: names.to_vec() },
        };
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(server));
        let mut client = match &loaded.own {
            Some((chain, key)) => client.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => client.with_no_client_auth(),
        };
        client.alpn_protocols = match tongue {
            Some(Tongue::One) => vec![b"http/1.1".to_vec()],
            Some(Tongue::Two) => vec![b"h2".to_vec()],
            None => Vec::new(),
        };
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}

impl Loaded {
    fn read(wanted: &Outside) -> Result<Self, Failure> {
        if wanted.revocable {
            return Err("caCrl is not read; take it out".into());
        }
        let mut roots = RootCertStore::empty();
        match &wanted.authorities {
            _ if wanted.unchecked => {}
            Some(file) => authorities(file, &mut roots)?,
            None => system(&mut roots)?,
        }
        let own = wanted.own.as_ref().map(|(certificate, key)| own(certificate, key)).transpose()?;
        Ok(Loaded { roots: Arc::new(roots), own })
    }
}

fn own(certificate: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| format!("clientCertificate {}: {error}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("privateKey {}: {error}", key.display()))?;
    // Whether the two belong together.
    let pair = rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider());
    pair.map_err(|error| format!("clientCertificate {}: {error}", certificate.display()))?;
    Ok((chain, key))
}

fn authorities(file: &Path, roots: &mut RootCertStore) -> Result<(), Failure> {
    let named = |error: String| format!("caCertificates {}: {error}", file.display());
    for root in CertificateDer::pem_file_iter(file).map_err(|error| named(error.to_string()))? {
        let root = root.map_err(|error| named(error.to_string()))?;
        roots.add(root).map_err(|error| named(error.to_string()))?;
    }
    if roots.is_empty() { Err(named("there is no certificate in it".into()).into()) } else { Ok(()) }
}

/// What this system trusts, as far as it can be understood.
fn system(roots: &mut RootCertStore) -> Result<(), Failure> {
    let file = SYSTEMS.iter().find(|file| Path::new(file).exists());
    let file = file.ok_or("this system keeps no authorities where they are looked for; set caCertificates")?;
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_file_iter(file)?.filter_map(Result::ok));
    if added == 0 {
        Err(format!("{file}: no certificate in it can be used; set caCertificates").into())
    } else {
        Ok(())
    }
}

/// For an address no name is sent.
fn nobody() -> ServerName<'static> {
    ServerName::from(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
}
