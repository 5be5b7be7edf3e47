//! The plan's four TLS modes: as the driver's options, and for a connection without it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use modshift_proto::plan::{Endpoint, TlsMode};
use mysql_async::{Error, IoError, SslOpts};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connect::label;
use crate::error::ServerError;

/// Where systems keep the authorities they trust: Debian and Alpine, Red Hat, SUSE.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// `None`: no TLS. With any other mode a server without TLS is refused, never spoken to in clear.
pub(crate) fn options(endpoint: &Endpoint) -> Option<SslOpts> {
    match endpoint.tls {
        TlsMode::Off => None,
        TlsMode::Required => Some(
            SslOpts::default()
                .with_danger_accept_invalid_certs(true)
                .with_danger_skip_domain_validation(true),
        ),
        TlsMode::VerifyCa => {
            Some(trusting(endpoint.tls_ca.as_deref()).with_danger_skip_domain_validation(true))
        }
        TlsMode::VerifyIdentity => Some(trusting(endpoint.tls_ca.as_deref())),
    }
}

/// The file that the plan names, where one is used.
pub(crate) fn readable(endpoint: &Endpoint) -> Result<(), ServerError> {
    let used = matches!(endpoint.tls, TlsMode::VerifyCa | TlsMode::VerifyIdentity);
    let Some(file) = endpoint.tls_ca.as_deref().filter(|_| used) else { return Ok(()) };
    std::fs::File::open(file).map(drop).map_err(|error| ServerError::Tls {
        at: label(endpoint),
        detail: format!("tls_ca of the plan, {}, cannot be read: {error}", file.display()),
    })
}

/// The plan's authority alone; else the system's; else those built in.
fn authorities(ca: Option<&Path>) -> Option<PathBuf> {
    let system = || SYSTEM_ROOTS.into_iter().map(PathBuf::from).find(|path| path.exists());
    ca.map(Path::to_path_buf).or_else(system)
}

fn trusting(ca: Option<&Path>) -> SslOpts {
    match authorities(ca) {
        Some(path) => {
            SslOpts::default().with_disable_built_in_roots(true).with_root_certs(vec![path.into()])
        }
        None => SslOpts::default(),
    }
}

/// A name of the certificate, where its name was all that was wrong with it: rustls looks at names
/// only once the chain has passed. (The driver's own way to let names pass looks for words that
/// rustls no longer uses.)
pub(crate) fn presented_name(error: &Error) -> Option<String> {
    let tls = match error {
        Error::Io(IoError::Io(error)) => error.get_ref()?.downcast_ref::<rustls::Error>()?,
        Error::Io(IoError::Tls(mysql_async::TlsError::Tls(error))) => error,
        _ => return None,
    };
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        }) => presented.iter().find_map(|name| plain_name(name)),
        _ => None,
    }
}

/// `DnsName("db.example")` and `IpAddress(10.0.0.1)`, as rustls prints names; any name will do for
/// a wildcard.
fn plain_name(shown: &str) -> Option<String> {
    let (kind, rest) = shown.split_once('(')?;
    let name = rest.strip_suffix(')')?.trim_matches('"');
    match kind {
        "DnsName" => Some(name.replacen('*', "any", 1)),
        "IpAddress" => Some(name.to_owned()),
        _ => None,
    }
}

/// What encrypts a connection that has no driver.
pub(crate) struct Client {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// `None`: no TLS.
pub(crate) fn client(endpoint: &Endpoint) -> Result<Option<Client>, ServerError> {
    let wrong = |detail: String| ServerError::Tls { at: label(endpoint), detail };
    let provider = Arc::new(ring::default_provider());
    let verifier = match endpoint.tls {
        TlsMode::Off => return Ok(None),
        TlsMode::Required => None,
        TlsMode::VerifyCa | TlsMode::VerifyIdentity => {
            let roots = Arc::new(roots(endpoint.tls_ca.as_deref()).map_err(wrong)?);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            Some(verifier.map_err(|error| wrong(error.to_string()))?)
        }
    };
    let any_name = endpoint.tls != TlsMode::VerifyIdentity;
    let trust = Trust { verifier, any_name, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| wrong(format!("{} is no name that a certificate can have", endpoint.host)))?;
    Ok(Some(Client { connector: TlsConnector::from(Arc::new(config)), name }))
}

impl Client {
    pub async fn connect(self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name, stream).await
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = authorities(ca) else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let certificates = CertificateDer::pem_file_iter(&path).map_err(|error| unreadable(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(unreadable(&"no certificate in PEM form"));
    }
    Ok(roots)
}

/// Whom to take a server for the right one by.
#[derive(Debug)]
struct Trust {
    /// `None`: anyone.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    /// Whoever has a certificate of the authority, whatever its name.
    any_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(verifier) = &self.verifier else { return Ok(ServerCertVerified::assertion()) };
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // rustls looks at names only once the chain has passed.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.any_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_rustls_shows_them() {
        assert_eq!(plain_name("DnsName(\"*.db.example\")").as_deref(), Some("any.db.example"));
        assert_eq!(plain_name("IpAddress(10.0.0.1)").as_deref(), Some("10.0.0.1"));
        assert_eq!(plain_name("DirectoryName"), None);
    }
}
