//! SSM with a certificate of a private CA, as behind a proxy that inspects TLS.

use std::{fs, path::PathBuf, time::Duration};

use harness::{
    parameter_store::ParameterStore,
    process::{get, own_directory, wait_until},
    tls::Tls,
    webhook::server::{Server, make_certificate},
};
use serde_json::json;

/// Who says which CA the webhook trusts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Trust {
    Config,
    File,
    /// A file with another CA.
    OtherFile,
    Nobody,
}

#[test]
fn ssm_is_trusted_by_the_ca_of_the_config_or_a_file() {
    for trust in [Trust::Config, Trust::File, Trust::OtherFile, Trust::Nobody] {
        let store = ParameterStore::start(40.0);
        let tls = Tls::before(store.address);
        let other = Tls::before(store.address);
        let directory = own_directory();
        let serving = directory.path().join("tls");
        make_certificate(&serving, &[]);
        let mut config = json!({
            "cluster": "prod",
            "roles": {"ssm": {"endpoint": tls.endpoint(), "region": "eu-west-1", "negativeSeconds": 1}},
        });
        let file: Option<PathBuf> = match trust {
            Trust::Config => {
                config["awsCaBundle"] = json!(fs::read_to_string(tls.authority()).unwrap());
                None
            }
            Trust::File => Some(tls.authority()),
            Trust::OtherFile => Some(other.authority()),
            Trust::Nobody => None,
        };
        let path = directory.path().join("config.yaml");
        fs::write(&path, config.to_string()).unwrap();
        let file = file.map(|file| format!("--aws-ca-bundle={}", file.display()));
        let mut arguments = vec!["--shutdown-delay=0", "--config", path.to_str().unwrap()];
        arguments.extend(file.as_deref());
        let server = Server::start_with(directory, &serving, &arguments);
        let counted = |outcome: &str| {
            let line = format!("fab_session_injector_role_calls_total{{outcome=\"{outcome}\"}} ");
            let metrics = get(server.health, "/metrics");
            let count = metrics.lines().find_map(|it| it.strip_prefix(&line)).unwrap();
            count.parse::<u64>().unwrap()
        };
        let reached = wait_until("SSM is called", Duration::from_secs(60), || {
            match (store.calls().len(), counted("no-answer")) {
                (0, 0) => None,
                (calls, _) => Some(calls > 0),
            }
        });
        assert_eq!(reached, matches!(trust, Trust::Config | Trust::File), "{trust:?}");
    }
}
