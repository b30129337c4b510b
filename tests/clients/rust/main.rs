//! The AWS SDK for Rust as agents use it: its default chain, its defaults, one client. For each
//! line of standard input it makes one signed call, and prints one line of JSON. The line `read`
//! reads a parameter of SSM; any other line is a call of STS.

#![allow(clippy::print_stdout, reason = "each line is an answer")]

use aws_config::BehaviorVersion;
use aws_sdk_sts::{Client, error::DisplayErrorContext};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let client = Client::new(&config);
    let ssm = aws_sdk_ssm::Client::new(&config);
    for line in std::io::stdin().lines() {
        let Ok(line) = line else { return };
        if line == "read" {
            let read = ssm.get_parameter().name("/own").send().await;
            let answer = match read {
                Ok(_) => json!({"arn": "read"}),
                Err(error) => json!({"error": DisplayErrorContext(error).to_string()}),
            };
            println!("{answer}");
            continue;
        }
        let answer = match client.get_caller_identity().send().await {
            Ok(identity) => json!({"arn": identity.arn()}),
            Err(error) => json!({"error": DisplayErrorContext(error).to_string()}),
        };
        println!("{answer}");
    }
}
