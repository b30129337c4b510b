//! `strict-aws --listen 127.0.0.1:0 --config world.yaml`

use std::{
    error::Error, io::Write, net::SocketAddr, net::TcpListener, path::PathBuf, process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use strict_aws::{Aws, Server, config};

/// An AWS for tests that refuses what the real one documents that it refuses.
#[derive(Debug, Parser)]
struct Cli {
    /// Where to listen; it is said on standard error as soon as it answers.
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The world, in YAML.
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
