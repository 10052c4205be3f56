//! Encryption on the way to the server, with the crates that HTTP uses.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use super::url::{Place, Verify};
use crate::store::{Error, Result};

/// What the verifier says of a certificate whose version knows no extensions: `openssl x509 -req` makes such ones of its own accord.
const OF_VERSION_1: &str = "UnsupportedCertVersion";
/// What it says of one that says of itself that it is an authority, once its dates are right: `openssl req -x509` makes such ones.
const OF_AN_AUTHORITY: &str = "CaUsedAsEndEntity";

/// Makes connections encrypted.
#[derive(Clone)]
pub(super) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// As `place` wants it.
    ///
    /// # Errors
    /// [`Error::Unreadable`] when the file of authorities cannot be used.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let failed = |error: rustls::Error| Error::Backend(format!("TLS cannot be set up: {error}").into());
        let (trusted, named) = match place.verify {
            Verify::Nothing => (None, Vec::new()),
            Verify::Authority | Verify::Full => {
                let named = named(place)?;
                (Some(trusted(&named, &provider)?), named)
            }
        };
        let looks = Looks { trusted, named, any_name: place.verify != Verify::Full, provider: provider.clone() };
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(looks)).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

/// The certificates that the URL says to trust; none: those of the system.
fn named(place: &Place) -> Result<Vec<CertificateDer<'static>>> {
    let Some(path) = &place.authorities else { return Ok(Vec::new()) };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    match read {
        Ok(none) if none.is_empty() => Err(unusable(&"it names no certificate")),
        read => read.map_err(|error| unusable(&error)),
    }
}

fn unusable(why: &dyn std::fmt::Display) -> Error {
    Error::Unreadable(format!("the authorities of the store's TLS: {why}"))
}

/// Who decides whether an authority is trusted: one of `named`, or of the system's.
fn trusted(named: &[CertificateDer<'static>], provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in named {
        roots.add(certificate.clone()).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        match rustls_platform_verifier::Verifier::new(provider.clone()) {
            Ok(of_the_system) => return Ok(Arc::new(of_the_system)),
            // A bare container has no certificates of its own.
            Err(_) => _ = roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned()),
        }
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    Ok(verifier.map_err(|error| unusable(&error))?)
}

/// How the server's certificate is looked at.
#[derive(Debug)]
struct Looks {
    /// `None`: any will do.
    trusted: Option<Arc<dyn ServerCertVerifier>>,
    /// Those that the URL says to trust: each of them may be the server's own.
    named: Vec<CertificateDer<'static>>,
    any_name: bool,
    provider: Arc<CryptoProvider>,
}

impl Looks {
    /// Whether a certificate that is trusted itself is for a server of this name. That the server has its key, the handshake shows.
    fn fits(
        &self,
        end_entity: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if !self.any_name {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }
}

impl ServerCertVerifier for Looks {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        match trusted.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: all else was right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            // As PostgreSQL's own clients do: signed by itself, and named, it needs no authority besides.
            Err(error) if says(&error, OF_AN_AUTHORITY) && self.named.contains(end_entity) => self.fits(end_entity, server_name),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        // Where anybody may answer it tells nothing, and the certificate may be one that cannot be read here.
        if self.trusted.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        // Where anybody may answer it tells nothing, and the certificate may be one that cannot be read here.
        if self.trusted.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Handshake> {
        // A socket of the file system has no name, and no need for encryption.
        Ok(Handshake { config: self.0.clone(), name: ServerName::try_from(domain.to_owned()).ok() })
    }
}

/// One connection that is about to be encrypted.
pub(super) struct Handshake {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = self.name.ok_or_else(|| io::Error::other("the server has no name that a certificate could be for"))?;
            tokio_rustls::TlsConnector::from(self.config).connect(name, stream).await.map(Encrypted).map_err(explained)
        })
    }
}

/// Whether `error` is this one of the verifier's, for which there is no other name.
fn says(error: &rustls::Error, what: &str) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(said))) if said.to_string() == what)
}

/// Says what to do about certificates that PostgreSQL's own clients take.
fn explained(error: io::Error) -> io::Error {
    let Some(said) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else { return error };
    let help = if says(said, OF_VERSION_1) {
        "it is of X.509 version 1, as `openssl x509 -req` makes it: with `-extfile` of a file that says `subjectAltName = DNS:<server>` it \
         becomes one that can be verified"
    } else if says(said, OF_AN_AUTHORITY) {
        "it is an authority's: either `sslrootcert` names this very certificate, or the authority signs another for the server"
    } else {
        return error;
    };
    io::Error::new(error.kind(), format!("{said}: {help}"))
}

/// A connection that is encrypted.
pub(super) struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
