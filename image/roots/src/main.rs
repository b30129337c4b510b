//! The authorities of Mozilla's list as one PEM file, on standard output. Which list it is
//! says Cargo.lock, with its checksum: a distribution's package would be another one on
//! each machine.

use std::io::{Write, stdout};

use base64::{Engine, engine::general_purpose::STANDARD};
use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

fn main() -> std::io::Result<()> {
    let mut output = stdout().lock();
    for certificate in TLS_SERVER_ROOT_CERTS {
        writeln!(output, "-----BEGIN CERTIFICATE-----")?;
        for line in STANDARD.encode(certificate).as_bytes().chunks(LINE) {
            output.write_all(line)?;
            writeln!(output)?;
        }
        writeln!(output, "-----END CERTIFICATE-----")?;
    }
    output.flush()
}

/// What RFC 7468 has generators write.
const LINE: usize = 64;
