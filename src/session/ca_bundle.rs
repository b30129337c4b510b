//! CA certificates that are trusted for AWS, in addition to those of the system.

use std::str::FromStr;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// CA certificates as PEM. Each of them can be used to verify a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaBundle(String);

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotACaBundle {
    #[error("it has no certificate; expected PEM that begins with -----BEGIN CERTIFICATE-----")]
    Absent,
    #[error("certificate {0} in it is not a valid CA certificate")]
    Certificate(usize),
    #[error("it has the character $, which the kubelet would expand; remove the comment")]
    Dollar,
    #[error("it has {0} bytes; at most {MOST_BYTES} are allowed, since each pod contains it")]
    Length(usize),
    #[error("it contains a private key; set only CA certificates")]
    PrivateKey,
}

impl CaBundle {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reports whether it has each certificate of the other bundle.
    pub fn contains(&self, other: &Self) -> bool {
        let certificates = |Self(pem): &Self| {
            CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect::<Vec<_>>()
        };
        let own = certificates(self);
        certificates(other).iter().all(|certificate| own.contains(certificate))
    }
}

impl FromStr for CaBundle {
    type Err = NotACaBundle;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.len() > MOST_BYTES {
            return Err(NotACaBundle::Length(s.len()));
        }
        if s.contains('$') {
            return Err(NotACaBundle::Dollar);
        }
        check_ca_certificates(s)?;
        Ok(Self(s.to_owned()))
    }
}

/// Checks that the text has CA certificates as PEM, each of which can verify a server, and no key.
/// The SDK's client panics if it cannot use a certificate.
pub fn check_ca_certificates(text: &str) -> Result<(), NotACaBundle> {
    if text.contains("PRIVATE KEY") {
        return Err(NotACaBundle::PrivateKey);
    }
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
        let invalid = || NotACaBundle::Certificate(index + 1);
        roots.add(certificate.map_err(|_| invalid())?).map_err(|_| invalid())?;
    }
    if roots.is_empty() { Err(NotACaBundle::Absent) } else { Ok(()) }
}

/// Maximum size, in bytes: about ten certificates. Each injected pod contains the bundle.
const MOST_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBlDCCATugAwIBAgIUQ/nFlHj+7EZ5mbVE+J6swVJsWsMwCgYIKoZIzj0EAwIw
HzEdMBsGA1UEAwwURXhhbXBsZSBjb3Jwb3JhdGUgQ0EwIBcNMjYxMTMwMDQ1MDI3
WhgPMjEyNjExMDYwNDUwMjdaMB8xHTAbBgNVBAMMFEV4YW1wbGUgY29ycG9yYXRl
IENBMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEcO3tLE2h7pQdpNIF1wtF/tYh
4x8n/gx0Q36+/gtbD+Elb17ij52kMDzDXPFIEDglL1cgKizZB4dRr7LKgqzG5qNT
MFEwHQYDVR0OBBYEFBVwQAJLpSgrO40Zy4RtNxIUGMHYMB8GA1UdIwQYMBaAFBVw
QAJLpSgrO40Zy4RtNxIUGMHYMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwID
RwAwRAIgWhd3K2LXW9bBx7Lv0TNfvGCDIpATCQT/8dKBJlMbgBYCIAHk2SPsApBz
eb+TpCoEusdWMTjxuNbRaB+cew7yk0fr
-----END CERTIFICATE-----
";

    #[test]
    fn a_bundle_contains_another_whatever_its_comments() {
        let bundle = |text: &str| text.parse::<CaBundle>().unwrap();
        let one = bundle(CERTIFICATE);
        let same = bundle(&format!("# CA\n{CERTIFICATE}"));
        assert!(one.contains(&same) && same.contains(&one));
    }

    #[test]
    fn a_bundle_has_only_certificates() {
        let one = CERTIFICATE;
        for text in [one.to_owned(), format!("# Corporate CAs\r\n{one}\n{one}")] {
            assert_eq!(text.parse::<CaBundle>().unwrap().as_str(), text);
        }
        let malformed = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let cases = [
            (String::new(), NotACaBundle::Absent),
            ("ca.crt".to_owned(), NotACaBundle::Absent),
            (format!("{one}{malformed}"), NotACaBundle::Certificate(2)),
            (format!("{one}{key}"), NotACaBundle::PrivateKey),
            (format!("# $(HOME)\n{one}"), NotACaBundle::Dollar),
            (one.repeat(100), NotACaBundle::Length(one.len() * 100)),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<CaBundle>(), Err(want), "{text}");
        }
    }
}
