//! A CA for one host, and the certificates that it signs.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::{
    RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use super::{
    BACKDATED, CERTIFICATE_LIFE, SecretData,
    validity::{self, Validity, ends, pem_blocks},
};

/// A CA with its key.
pub(super) struct Authority {
    /// The CA certificate, as PEM.
    pub(super) certificate: String,
    validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

/// A CA or a certificate could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot create a certificate for {host}")]
pub struct CannotSign {
    host: String,
    #[source]
    error: rcgen::Error,
}

impl Authority {
    /// Creates a CA for the host.
    pub(super) fn new(host: &str, life: Duration, now: SystemTime) -> Result<Self, CannotSign> {
        let cannot = |error| CannotSign { host: host.to_owned(), error };
        Self::of_key(KeyPair::generate().map_err(cannot)?, host, life, now)
    }

    /// Creates a CA with the stored key; without a usable one, with a new key. Clients that trust
    /// the previous CA of the key accept certificates of this one.
    pub(super) fn renewed(
        stored: &SecretData,
        host: &str,
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, CannotSign> {
        match KeyPair::from_pem(&stored.authority_key) {
            Ok(key) => Self::of_key(key, host, life, now),
            Err(_) => Self::new(host, life, now),
        }
    }

    fn of_key(
        key: KeyPair,
        host: &str,
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, CannotSign> {
        let cannot = |error| CannotSign { host: host.to_owned(), error };
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = distinguished_name();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Limits a stolen key to certificates for this host.
        parameters.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(host.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        parameters.not_before = (now - BACKDATED).into();
        parameters.not_after = (now + life).into();
        let certificate = parameters.self_signed(&key).map_err(cannot)?;
        Ok(Self {
            certificate: certificate.pem(),
            validity: Validity { begins: now - BACKDATED, ends: now + life },
            issuer: Issuer::new(parameters, key),
        })
    }

    /// Returns the first stored CA, if the CA and a certificate that it signs for the host are
    /// valid now.
    pub(super) fn read(stored: &SecretData, host: &str, now: SystemTime) -> Option<Self> {
        let certificate = pem_blocks(&stored.authorities).next()?;
        let key = KeyPair::from_pem(&stored.authority_key).ok()?;
        // A signature uses only the name and the key of the issuer.
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = distinguished_name();
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = Self {
            validity: validity::of_pem(&certificate)?,
            certificate,
            issuer: Issuer::new(parameters, key),
        };
        let (trial, key) = authority.sign(host, now).ok()?;
        (authority.validity.holds(now)
            && authority.expiry_if_valid(&trial, &key, host, now).is_some())
        .then_some(authority)
    }

    /// Returns when to replace the CA: after two thirds of its lifetime. The last third is time for
    /// repairs.
    pub(super) fn old_at(&self, life: Duration) -> SystemTime {
        self.validity.ends - life / 3
    }

    /// Returns the CA's key as PEM.
    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// Creates a certificate for the host. Returns it and its key, both PEM.
    pub(super) fn sign(
        &self,
        host: &str,
        now: SystemTime,
    ) -> Result<(String, Zeroizing<String>), CannotSign> {
        let cannot = |error| CannotSign { host: host.to_owned(), error };
        let key = KeyPair::generate().map_err(cannot)?;
        let mut parameters = CertificateParams::new(vec![host.to_owned()]).map_err(cannot)?;
        // Clients check only the subject alternative names.
        parameters.distinguished_name = DistinguishedName::new();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        parameters.not_before = self.validity.begins.into();
        parameters.not_after = (now + CERTIFICATE_LIFE).into();
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(cannot)?;
        Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
    }

    /// Returns the expiry of a certificate, if this CA signed it for the host and it is valid.
    pub(super) fn expiry_if_valid(
        &self,
        certificate: &str,
        key: &str,
        host: &str,
        now: SystemTime,
    ) -> Option<SystemTime> {
        expiry_if_valid(&self.certificate, certificate, key, host, now)
    }
}

/// Returns the expiry of a certificate, if it is valid for the host and for clients that trust the
/// CA, and if the key matches. None: otherwise.
pub(super) fn expiry_if_valid(
    authority: &str,
    certificate: &str,
    key: &str,
    host: &str,
    now: SystemTime,
) -> Option<SystemTime> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok()?;
    CertifiedKey::from_der(vec![certificate.clone()], key, &provider).ok()?;
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_slice(authority.as_bytes()).ok()?).ok()?;
    let parsed = ParsedCertificate::try_from(&certificate).ok()?;
    verify_server_cert_signed_by_trust_anchor(
        &parsed,
        &trusted,
        &[],
        UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).ok()?),
        provider.signature_verification_algorithms.all,
    )
    .ok()?;
    verify_server_name(&parsed, &ServerName::try_from(host).ok()?).ok()?;
    ends(&certificate)
}

/// Returns the subject of each CA. It is the same for all: clients find the issuer of a certificate
/// by its key identifier extension.
fn distinguished_name() -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "fab-session-injector");
    name
}
