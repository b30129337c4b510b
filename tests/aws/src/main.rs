//! `strict-aws --listen 127.0.0.1:0 --config world.yaml`

use std::{
    error::Error, io::Write, net::SocketAddr, net::TcpListener, path::PathBuf, process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use strict_aws::{Aws, Server, config};

/// AWS stand-in for tests; it rejects each call that AWS documents as rejected.
#[derive(Debug, Parser)]
struct Cli {
    /// Address to listen on; printed to standard error when the server is ready.
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// YAML file that describes the account.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let mut stderr = std::io::stderr();
    match start(&Cli::parse()) {
        Ok(server) => {
            let _ = writeln!(stderr, "listening on {}", server.endpoint());
            server.wait();
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut cause: Option<&dyn Error> = Some(error.as_ref());
            while let Some(error) = cause {
                let _ = writeln!(stderr, "{error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> Result<Server, Box<dyn Error>> {
    let aws = Aws::new(config::read(&cli.config)?)?;
    Ok(Server::on(TcpListener::bind(cli.listen)?, Arc::new(aws))?)
}
