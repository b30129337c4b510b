//! Prints the CA certificates of Mozilla's list as one PEM file. `Cargo.lock` pins the list by
//! its checksum; a distribution's package would differ from machine to machine.

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

/// Number of Base64 characters in a line (RFC 7468, section 2).
const LINE: usize = 64;
