//! The plan's four TLS modes as the driver's options.

use std::path::{Path, PathBuf};

use modshift_proto::plan::{Endpoint, TlsMode};
use mysql_async::{Error, IoError, SslOpts};
use rustls::CertificateError;

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

/// The plan's authority alone; else the system's; else those built into the driver.
fn trusting(ca: Option<&Path>) -> SslOpts {
    let system = || SYSTEM_ROOTS.into_iter().map(PathBuf::from).find(|path| path.exists());
    match ca.map(Path::to_path_buf).or_else(system) {
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
