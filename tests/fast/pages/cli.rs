//! Generates docs/cli.md from the command line as clap knows it.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory, Parser};
use fab_session_injector::cli::Cli;

/// Examples that no test of the pages runs, and why. An entry covers the examples that start with it.
const NOT_RUN: [(&str, &str); 13] = [
    ("certs", "manages a certificate in a cluster until it is stopped"),
    ("check", "needs a cluster with the chart; tests/cluster/check.rs runs it in one"),
    ("explain session-a", "needs a cluster with such a pod"),
    ("explain deploy/agents", "needs a cluster with such a Deployment"),
    ("issuer --config", "serves until it is stopped, and needs a cluster"),
    ("issuer export", "needs the keys of an issuer; tests/fast/issuer.rs runs it"),
    ("revoke --pod", REVOKE),
    ("revoke --tenant acme --older-than", REVOKE),
    ("revoke --tenant acme --list", REVOKE),
    ("revoke --tenant acme --prune", REVOKE),
    ("probe", "needs the sidecar of its own pod"),
    ("sidecar", "serves in a pod until it is stopped"),
    (
        "webhook",
        "serves until it is stopped; tests/server/webhook.rs and tests/cluster/injection.rs run it",
    ),
];

const REVOKE: &str = "needs a cluster and AWS; tests/cluster/revoke.rs runs it";

const HEAD: &str = "<!-- Generated from the code: UPDATE=1 cargo test --test fast pages -->
# Command line

`fab-session-injector COMMAND --help` prints the same text. Output is coloured only on a terminal, and only if
`NO_COLOR` is not set. Errors go to standard error and name the flag, or the file and the line.

| exit code | meaning |
| --- | --- |
| 0 | success: no errors |
| 1 | errors found (`check`), or a pod is refused or differs from current injection (`inject`, `explain`) |
| 2 | invalid input |
| 3 | internal error, or a required API is unreachable |
| 141 | stdout closed (SIGPIPE) |

The examples use these files:

```sh
cat > roles.yaml <<'YAML'
roles:
  acme: arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme-broker
YAML
cat > webhook.yaml <<'YAML'
cluster: prod
region: eu-west-1
roles: {ssm: {}}
YAML
cat > job.yaml <<'YAML'
apiVersion: batch/v1
kind: Job
metadata: {name: build}
spec:
  template:
    spec:
      serviceAccountName: tenant-runtime
      restartPolicy: Never
      containers: [{name: agent, image: registry.example/agent:1}]
YAML
```
";

pub(crate) fn page() -> String {
    let mut page = HEAD.to_owned();
    let mut cli = Cli::command();
    cli.build();
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        section(&mut page, command.get_name(), command);
        let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help");
        for inner in inner {
            section(&mut page, &format!("{} {}", command.get_name(), inner.get_name()), inner);
        }
    }
    page
}

/// Adds the section of a command. The examples of an inner one are those of its outer one.
fn section(page: &mut String, name: &str, command: &Command) {
    let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
    let about = about.lines().map(super::wrapped).collect::<Vec<String>>().join("\n");
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    write!(page, "\n## `{name}`\n\n{about}\n\n```text\n{usage}\n```\n").unwrap();
    let arguments: Vec<&Arg> =
        command.get_arguments().filter(|argument| argument.get_id() != "help").collect();
    if !arguments.is_empty() {
        page.push_str("\n| argument | default | |\n| --- | --- | --- |\n");
    }
    for argument in arguments {
        writeln!(page, "| {} | {} | {} |", flag(argument), default(argument), help(argument))
            .unwrap();
    }
    let Some(examples) = command.get_after_long_help() else {
        assert!(name.contains(' '), "{name} has no examples");
        return;
    };
    let examples = examples.to_string();
    let examples = examples.strip_prefix("Examples:\n  ").unwrap();
    assert!(examples.lines().all(|line| line.len() <= 96), "{name}: a line is cut");
    let mut last = None;
    for example in examples.replace("\n    ", "\n\t").split("\n  ") {
        let example = &example.replace("\n\t", "\n  ");
        parses(&example.replace("\\\n", " "));
        let said = example.strip_prefix("fab-session-injector ").unwrap();
        let reason = NOT_RUN.iter().find(|(start, _)| said.starts_with(start));
        if last == Some(reason) {
            page.truncate(page.len() - "```\n".len());
        } else {
            page.push('\n');
            if let Some((_, reason)) = reason {
                writeln!(page, "<!-- not run: {reason} -->").unwrap();
            }
            page.push_str("```sh\n");
        }
        write!(page, "{example}\n```\n").unwrap();
        last = Some(reason);
    }
}

/// Checks that the program accepts the example, also one that is not run.
fn parses(example: &str) {
    let words = example.split_whitespace().take_while(|word| !["<", ">"].contains(word));
    if let Err(error) = Cli::try_parse_from(words) {
        panic!("{example}: {error}");
    }
}

fn flag(argument: &Arg) -> String {
    let value = argument
        .get_value_names()
        .filter(|_| matches!(argument.get_action(), ArgAction::Set | ArgAction::Append))
        .map(|names| names.join(" ").replace('|', "\\|"))
        .unwrap_or_default();
    let names: Vec<String> = [
        argument.get_short().map(|short| format!("-{short}")),
        argument.get_long().map(|long| format!("--{long}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if names.is_empty() {
        return format!("`{value}`");
    }
    let flag = format!("{} {value}", names.join(", "));
    format!("`{}`", flag.trim_end())
}

fn default(argument: &Arg) -> String {
    let values = argument.get_default_values().iter();
    let mut values = values.filter(|_| argument.get_action().takes_values());
    if let Some(value) = values.find(|value| !value.is_empty()) {
        return format!("`{}`", value.to_string_lossy());
    }
    if argument.is_required_set() { "required".to_owned() } else { String::new() }
}

fn help(argument: &Arg) -> String {
    let help = argument.get_help().unwrap_or_else(|| panic!("{} has no help", argument.get_id()));
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|_| argument.get_action().takes_values())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    // Outside of code, Markdown would interpret <name> as HTML.
    let text: Vec<String> = help
        .to_string()
        .replace('|', "\\|")
        .split('`')
        .enumerate()
        .map(|(at, part)| if at % 2 == 0 { part.replace('<', "&lt;") } else { part.to_owned() })
        .collect();
    let text = text.join("`");
    if values.is_empty() { text } else { format!("{text}: {}", values.join(", ")) }
}
