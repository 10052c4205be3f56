//! `tls` of a destination: whose certificates are trusted. The file is read with the configuration, so that `check` finds one that
//! is missing or holds no certificate.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::config::{
    decode::{Context, Decode, Definitions, Field, Fields, Keys, Located, Schema, Shape},
    tree::Node,
};

/// Largest CA file, in bytes.
const CA_FILE_MAX: usize = 1024 * 1024;

/// How a destination's certificate is checked (`tls`). Destinations with the same profile share a client.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TlsProfile {
    verify: bool,
    /// Certificates in PEM that are trusted instead of the system's.
    ca: Option<Arc<[u8]>>,
}

impl std::fmt::Debug for TlsProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsProfile")
            .field("verify", &self.verify)
            .field("ca_bytes", &self.ca.as_ref().map(|ca| ca.len()))
            .finish()
    }
}

impl Default for TlsProfile {
    fn default() -> Self {
        Self { verify: true, ca: None }
    }
}

impl TlsProfile {
    /// The system's certificates are trusted, or (`false`) any.
    pub(super) fn verifying(verify: bool) -> Self {
        Self { verify, ca: None }
    }
}

const KEYS: Keys = Keys::of(&[
    Field::of::<bool>("verify", "Whether its certificate is checked. Without, anybody on the way can answer in its name.")
        .default("true"),
    Field::of::<String>("ca_file", "Certificates in PEM that are trusted instead of the system's.")
        .example("/etc/hookyard/ca.pem"),
]);

impl Shape for TlsProfile {
    fn schema(all: &mut Definitions) -> Schema {
        all.named("tls", |all| Schema::map(KEYS, all))
    }
}

impl Decode for TlsProfile {
    /// `{verify, ca_file}`; the file is read here, so that `check` finds one that is missing.
    fn decode(node: &Node, cx: &mut Context) -> Option<Self> {
        let mut fields = Fields::open(node, "`tls`", KEYS, cx)?;
        let verify = fields.or("verify", true, cx);
        let ca_file = fields.optional::<Located<String>>("ca_file", cx);
        if !verify {
            let place = fields.key_place("verify");
            cx.warning(
                "tls-unverified",
                place,
                "with `verify: false` anybody on the way can read and answer in the target's name",
            );
            if ca_file.is_some() {
                cx.error("bad-value", fields.key_place("ca_file"), "`ca_file` changes nothing with `verify: false`");
            }
        }
        fields.finish(cx);
        let ca = match ca_file {
            Some(file) => Some(read_ca(&file, cx)?),
            None => None,
        };
        Some(Self { verify, ca })
    }
}

impl TlsProfile {
    /// What a client that connects under this profile works with: HTTP/2 where the other side offers it, else HTTP/1.1. Fails when
    /// the certificates cannot be used.
    pub(super) fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let trusting = match &self.ca {
            Some(pem) => builder()?.with_root_certificates(roots(pem)?),
            None if !self.verify => builder()?.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)),
            None => match builder()?.with_platform_verifier() {
                Ok(trusting) => trusting,
                // A bare container has no certificates of its own: the platform's verifier fails there, and the bundled ones serve.
                Err(_) => builder()?.with_root_certificates(bundled()),
            },
        };
        let mut config = trusting.with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn read_ca(file: &Located<String>, cx: &mut Context) -> Option<Arc<[u8]>> {
    match load_ca(&cx.resolve_path(&file.value, file.place)) {
        Ok(pem) => Some(pem),
        Err(reason) => {
            cx.error("bad-ca-file", file.place, format!("`{}` cannot be used: {reason}", file.value));
            None
        }
    }
}

fn load_ca(path: &Path) -> Result<Arc<[u8]>, String> {
    use io::Read;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut pem = Vec::new();
    let limit = u64::try_from(CA_FILE_MAX).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut pem).map_err(|error| error.to_string())?;
    roots(&pem).map_err(|error| match error {
        rustls::Error::General(reason) => reason,
        other => format!("it holds a certificate that is none: {other}"),
    })?;
    Ok(pem.into())
}

/// The certificates of `pem`, of which there must be one.
fn roots(pem: &[u8]) -> Result<RootCertStore, rustls::Error> {
    let none = || rustls::Error::General("it holds no certificate in PEM".to_owned());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|_| none())?)?;
    }
    if roots.is_empty() { Err(none()) } else { Ok(roots) }
}

/// Mozilla's authorities, as they were when the relay was built.
fn bundled() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    roots
}

/// Takes any certificate, and whatever is signed with it (`verify: false`): also certificates so old that no verifier reads them.
#[derive(Debug)]
struct Anybody;

/// What [`Anybody`] lets the other side sign with: all there is.
const ANY_SCHEME: [SignatureScheme; 13] = [
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::ECDSA_SHA1_Legacy,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::ED448,
];

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ANY_SCHEME.to_vec()
    }
}
