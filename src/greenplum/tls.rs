//! How a connection is encrypted, and whose certificates are believed.

use std::{error::Error, fs, io, path::PathBuf, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// How far a server is believed; the words and their meaning are libpq's `sslmode`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Tls {
    /// Not encrypted.
    #[default]
    Disable,
    /// Encrypted; the certificate is not looked at.
    Require,
    /// Encrypted; an authority that is trusted has signed the certificate for the very name that was asked for.
    VerifyFull(Ca),
}

/// The authorities that are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ca {
    /// A file of PEM certificates, read anew for each connection: a mounted secret changes under us.
    File(PathBuf),
    /// PEM certificates that were just read, and where: `key ca.crt of Secret demo-ca`.
    Pem { pem: Arc<str>, from: String },
}

impl std::fmt::Display for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Pem { from, .. } => f.write_str(from),
        }
    }
}

/// Why there is no encrypted connection; each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    #[error("the authorities to trust cannot be read: {why}; tls.caSecretRef and GPHEAL_CA have to lead to their certificates")]
    CaMissing { why: String },
    #[error("{from} holds no usable certificates ({why}); put the authorities' certificates there, in PEM")]
    CaInvalid { from: String, why: String },
    #[error("the server offers no TLS; set ssl = on there, or the TLS mode of gpheal to disable")]
    NotOffered,
    #[error("no authority in {from} has signed the server's certificate; add the one that did")]
    Untrusted { from: String },
    #[error("the server's certificate is not for {asked} ({why}); give it this name as a subjectAltName")]
    NameMismatch { asked: String, why: String },
    #[error("the server's certificate is out of its time ({why}); renew it, and look at the clocks")]
    Expired { why: String },
    #[error("the TLS handshake failed: {why}")]
    Handshake { why: String },
}

impl TlsFault {
    /// Stable word for conditions.
    pub fn code(&self) -> &'static str {
        match self {
            Self::CaMissing { .. } => "CaMissing",
            Self::CaInvalid { .. } => "CaInvalid",
            Self::NotOffered => "TlsNotOffered",
            Self::Untrusted { .. } => "CertificateUntrusted",
            Self::NameMismatch { .. } => "CertificateNameMismatch",
            Self::Expired { .. } => "CertificateExpired",
            Self::Handshake { .. } => "TlsHandshakeFailed",
        }
    }
}

impl Tls {
    /// From the words of `sslmode`; a mode that verifies needs to be told whom to trust.
    pub fn of(mode: TlsMode, ca: impl FnOnce() -> Ca) -> Self {
        match mode {
            TlsMode::Disable => Self::Disable,
            TlsMode::Require => Self::Require,
            TlsMode::VerifyFull => Self::VerifyFull(ca()),
        }
    }

    pub(super) fn ssl_mode(&self) -> SslMode {
        if *self == Self::Disable { SslMode::Disable } else { SslMode::Require }
    }

    /// What encrypts a connection of the client library.
    ///
    /// # Errors
    /// [`TlsFault::CaMissing`], [`TlsFault::CaInvalid`]
    pub fn connector(&self) -> Result<MakeRustlsConnect, TlsFault> {
        let provider = Arc::new(ring::default_provider());
        let failed = |e: rustls::Error| TlsFault::Handshake { why: e.to_string() };
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(failed)?;
        let config = match self {
            Self::VerifyFull(ca) => builder.with_root_certificates(ca.roots()?),
            Self::Disable | Self::Require => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody::new(&provider))),
        };
        let mut config = config.with_no_client_auth();
        config.resumption = Resumption::disabled(); // a connector is for one connection: room for 256 sessions would be in vain
        Ok(MakeRustlsConnect::new(config))
    }

    fn words(&self) -> (&'static str, Option<&Ca>) {
        match self {
            Self::Disable => ("disable", None),
            Self::Require => ("require", None),
            Self::VerifyFull(ca) => ("verify-full", Some(ca)),
        }
    }

    /// The same for libpq, by the environment: for the image's own tools.
    pub fn libpq_environment(&self) -> Vec<(&'static str, String)> {
        let (mode, ca) = self.words();
        let ca = ca.map(|ca| ("PGSSLROOTCERT", ca.to_string()));
        [("PGSSLMODE", mode.to_owned())].into_iter().chain(ca).collect()
    }

    /// The same for libpq, as words of a connection string.
    pub fn conninfo(&self) -> String {
        let (mode, ca) = self.words();
        let quoted = |ca: &Ca| ca.to_string().replace('\\', r"\\").replace('\'', r"\'");
        ca.map_or_else(|| format!("sslmode={mode}"), |ca| format!("sslmode={mode} sslrootcert='{}'", quoted(ca)))
    }

    /// The fault behind an error of the client library, when it is one of TLS.
    pub(super) fn fault(&self, error: &tokio_postgres::Error, asked: &str) -> Option<TlsFault> {
        let source = error.source()?;
        // The client library has no code for it; these are its words.
        if source.to_string() == "server does not support TLS" {
            return Some(TlsFault::NotOffered);
        }
        let outer = source.downcast_ref::<io::Error>()?;
        let why = outer.to_string();
        let Some(inner) = outer.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            let unasked = outer.kind() == io::ErrorKind::InvalidInput; // no name that a certificate could have
            return unasked.then(|| TlsFault::NameMismatch { asked: asked.to_owned(), why });
        };
        Some(self.explained(inner, asked, why))
    }

    fn explained(&self, error: &rustls::Error, asked: &str, why: String) -> TlsFault {
        use CertificateError as Certificate;
        let rustls::Error::InvalidCertificate(certificate) = error else { return TlsFault::Handshake { why } };
        match certificate {
            Certificate::UnknownIssuer | Certificate::BadSignature => match self {
                Self::VerifyFull(ca) => TlsFault::Untrusted { from: ca.to_string() },
                Self::Disable | Self::Require => TlsFault::Handshake { why },
            },
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                TlsFault::NameMismatch { asked: asked.to_owned(), why }
            }
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. } => TlsFault::Expired { why },
            _ => TlsFault::Handshake { why },
        }
    }
}

/// The words of `sslmode` that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum TlsMode {
    #[default]
    Disable,
    Require,
    VerifyFull,
}

impl Ca {
    fn read(&self) -> Result<Arc<str>, TlsFault> {
        match self {
            Self::Pem { pem, .. } => Ok(pem.clone()),
            Self::File(path) => {
                // What stands between certificates is for people, in any encoding.
                let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into());
                text.map_err(|e| TlsFault::CaMissing { why: format!("{}: {e}", path.display()) })
            }
        }
    }

    fn roots(&self) -> Result<RootCertStore, TlsFault> {
        let invalid = |why: String| TlsFault::CaInvalid { from: self.to_string(), why };
        let pem = self.read()?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|e| invalid(e.to_string()))?;
            roots.add(certificate).map_err(|e| invalid(e.to_string()))?;
        }
        if roots.is_empty() { Err(invalid("there is none".into())) } else { Ok(roots) }
    }
}

/// Believes every certificate whose key the server has: what `require` means.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl Anybody {
    fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }
}

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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(ca: Ca) -> TlsFault {
        Tls::VerifyFull(ca).connector().err().unwrap()
    }

    #[test]
    fn authorities_that_are_not_there_or_none_are_told_apart() {
        let missing = fault(Ca::File("/nowhere/ca.crt".into()));
        assert!(matches!(&missing, TlsFault::CaMissing { why } if why.contains("/nowhere/ca.crt")), "{missing}");
        let from = "key ca.crt of Secret demo-ca";
        let given = |pem: &str| fault(Ca::Pem { pem: pem.into(), from: from.to_owned() });
        for pem in ["", "no certificate\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let invalid = given(pem);
            assert!(matches!(&invalid, TlsFault::CaInvalid { from: told, .. } if told == from), "{pem}: {invalid}");
        }
        assert_eq!(given("-----BEGIN CERTIFICATE-----\nMIIB").code(), "CaInvalid", "cut off");
    }

    #[test]
    fn libpq_is_told_the_same() {
        let file = Tls::of(TlsMode::VerifyFull, || Ca::File("/etc/ca.crt".into()));
        assert_eq!(file.libpq_environment(), [("PGSSLMODE", "verify-full".into()), ("PGSSLROOTCERT", "/etc/ca.crt".into())]);
        assert_eq!(file.conninfo(), "sslmode=verify-full sslrootcert='/etc/ca.crt'");
        assert_eq!(Tls::Disable.libpq_environment(), [("PGSSLMODE", "disable".to_owned())], "not the library's own prefer");
    }
}
