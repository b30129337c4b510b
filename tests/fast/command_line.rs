//! Tests help, completions, colours and errors of every command.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
};

use clap::CommandFactory;
use fab_session_injector::cli::Cli;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fab-session-injector");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_command_shows_its_exit_codes_and_examples() {
    let mut commands = 0;
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let output = run(&[name, "--help"]);
        assert!(output.status.success(), "{name}");
        let help = text(&output.stdout);
        let in_one_line = help.replace('\n', " ");
        assert!(in_one_line.contains("Exit codes: 0 "), "{name}: {help}");
        assert!(help.contains("\nExamples:\n  fab-session-injector "), "{name}: {help}");
        commands += 1;
    }
    assert!(commands >= 8, "{commands}");
}

#[test]
fn help_fits_a_terminal_of_100_columns() {
    let commands = Cli::command();
    let names = commands.get_subcommands().map(|command| command.get_name());
    for arguments in std::iter::once(vec!["--help"]).chain(names.map(|name| vec![name, "--help"])) {
        let output = run(&arguments);
        // clap does not wrap the line of the usage.
        for line in text(&output.stdout).lines().filter(|line| !line.starts_with("Usage: ")) {
            assert!(line.chars().count() <= 100, "{arguments:?}: {line}");
        }
    }
}

#[test]
fn help_lists_the_commands_of_containers_apart() {
    let output = run(&["--help"]);
    let help = text(&output.stdout);
    let (people, containers) = help.split_once("\nCommands in containers").unwrap();
    let (_, people) = people.split_once("\nCommands:\n").unwrap();
    let (containers, _) = containers.split_once("\nOptions:\n").unwrap();
    let names = |part: &str| -> Vec<String> {
        let lines = part.lines().filter_map(|line| line.strip_prefix("  "));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(people), ["check", "explain", "inject", "iam", "revoke", "completions"]);
    assert_eq!(names(containers), ["webhook", "certs", "issuer", "sidecar", "probe"]);
    assert!(people.contains("  check       Check the installation: webhook, guard"), "{people}");
}

/// The name that kubectl and krew give a plugin.
#[test]
fn the_plugin_of_kubectl_names_itself_in_its_usage() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = directory.path().join("kubectl-fab_session");
    symlink(env!("CARGO_BIN_EXE_fab-session-injector"), &plugin).unwrap();
    for (arguments, want) in [
        (&["--help"][..], "Usage: kubectl fab-session <COMMAND>"),
        (&["check", "--help"], "Usage: kubectl fab-session check [OPTIONS]"),
    ] {
        let output = Command::new(&plugin).args(arguments).output().unwrap();
        assert!(text(&output.stdout).contains(want), "{}", text(&output.stdout));
    }
    let output = Command::new(&plugin).args(["explain", "--nope"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("Usage: kubectl fab-session explain"), "{said}");
    let usual = run(&["check", "--help"]);
    assert!(text(&usual.stdout).contains("Usage: fab-session-injector check"));
}

#[test]
fn help_and_completions_name_the_values_of_a_flag() {
    let help = run(&["iam", "--help"]);
    let completions = run(&["completions", "bash"]);
    for value in ["session-role-trust", "webhook-policy", "pod-uid", "terraform"] {
        assert!(text(&help.stdout).contains(value), "{value}");
        assert!(text(&completions.stdout).contains(value), "{value}");
    }
    let flag = ["iam", "--only=nope", "--tenant=acme", "--cluster=c"];
    let output = run(&flag);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr)
            .contains("[possible values: oidc-provider, session-role, session-role-trust")
    );
}

#[test]
fn each_line_of_a_failure_has_the_same_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.yaml");
    fs::write(&config, "podSecurity: 7\nnope: 1\n").unwrap();
    let config = config.display().to_string();
    let output = run(&["inject", "-f", "-", "--roles", "r", "--config", &config]);
    let lines: Vec<&str> = text(&output.stderr).lines().collect();
    assert!(lines.len() > 1, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("error: ")), "{lines:?}");
    let of_flag = run(&["inject", "--nope"]);
    assert!(text(&of_flag.stderr).starts_with("error: "), "as for a flag");
}

#[test]
fn a_shell_completes_the_commands() {
    let directory = tempfile::tempdir().unwrap();
    for (shell, marks) in [
        ("bash", ["complete -F", "--roles"]),
        ("fish", ["complete -c fab-session-injector", "-l roles"]),
        ("zsh", ["#compdef fab-session-injector", "--roles="]),
    ] {
        let output = run(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        for mark in marks {
            assert!(text(&output.stdout).contains(mark), "{shell}: {mark}");
        }
        fs::write(directory.path().join(shell), &output.stdout).unwrap();
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
    // The other two shells are rarely installed.
    let completed = |words: &str, index: usize| {
        let script = format!(
            "source ./bash; COMP_WORDS=({words}); COMP_CWORD={index}; \
             function=$(complete -p fab-session-injector | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
             $function fab-session-injector \"${{COMP_WORDS[{index}]}}\" ''; echo \"${{COMPREPLY[@]}}\""
        );
        let output =
            Command::new("bash").args(["-c", &script]).current_dir(&directory).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    };
    assert_eq!(completed("fab-session-injector ex", 1), "explain");
    assert_eq!(completed("fab-session-injector explain --ro", 2), "--roles");
}

#[test]
fn an_error_names_flag_or_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pod = file(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: tenants-acme}\nspec: {serviceAccountName: tenant-runtime, containers: [{name: a, image: i}]}\n",
    );
    let broken = file("broken.yaml", "apiVersion: v1\nkind: [\n");
    let roles = file("roles.yaml", "roles: {acme: 'arn:aws:iam::111122223333:role/r'}\n");
    let no_roles = file("no-roles.yaml", "roles: {acme: none}\n");
    let config = file("config.yaml", "podSecurity: 7\n");
    for command in ["inject", "explain"] {
        let cases: [(&[&str], &[&str]); 7] = [
            (&["-f", &pod, "--roles", &no_roles], &[&no_roles, "roles.acme"]),
            (&["-f", &broken, "--roles", &roles], &[&broken, "line 2"]),
            (&["-f", "/nowhere.yaml", "--roles", &roles], &["/nowhere.yaml"]),
            (&["-f", &pod, "--roles", "/nowhere"], &["/nowhere"]),
            (&["-f", &pod, "--roles", &roles, "--config", &config], &[&config, "podSecurity"]),
            (&["-f", &pod, "--roles", &roles, "--region", "EU West"], &["--region", "eu-west-1"]),
            (&["-f", &pod, "--roles", &roles, "--tenant", "A"], &["--tenant", "DNS label"]),
        ];
        for (arguments, wanted) in cases {
            let output = run(&[&[command], arguments].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command} {arguments:?}: {said}");
            assert!(wanted.iter().all(|part| said.contains(part)), "{wanted:?}: {said}");
        }
    }
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("roles"), "roles: {}\n").unwrap();
    // A sparse file.
    fs::File::create(path("long")).unwrap().set_len(65 << 20).unwrap();
    let (long, roles) = (path("long"), path("roles"));
    for command in ["inject", "explain"] {
        let cases: [(&[&str], &str); 4] = [
            (&["-f", &long, "--roles", &roles], &long),
            (&["-f", "/dev/zero", "--roles", &roles], "/dev/zero"),
            (&["-f", "-", "--roles", &roles], "standard input"),
            (&["-f", &roles, "--roles", &long], &long),
        ];
        for (arguments, file) in cases {
            // 1 GiB of address space: the process aborts if it needs more.
            let limited = format!("ulimit -v {}; exec \"$0\" \"$@\" </dev/zero", 1 << 20);
            let output = Command::new("bash")
                .args(["-c", &limited, PROGRAM, command])
                .args(arguments)
                .output()
                .unwrap();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command} {arguments:?}: {said}");
            for part in [file, "more than 64 MiB", "split it into smaller files"] {
                assert!(said.contains(part), "{part:?}: {said}");
            }
        }
    }
}

#[test]
fn only_a_terminal_gets_colours_unless_disabled() {
    let directory = tempfile::tempdir().unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: tenants-acme}\nspec: {serviceAccountName: tenant-runtime, containers: [{name: a, image: i}]}\n";
    fs::write(directory.path().join("pod.yaml"), pod).unwrap();
    let roles = "roles: {acme: 'arn:aws:iam::111122223333:role/r'}\n";
    fs::write(directory.path().join("roles.yaml"), roles).unwrap();
    let diff = ["inject", "-f", "pod.yaml", "--roles", "roles.yaml", "--diff"];
    let explain = ["explain", "-f", "pod.yaml", "--roles", "roles.yaml"];
    let cases: [(&[&str], bool); 4] =
        [(&diff, true), (&explain, false), (&["--help"], true), (&["inject", "--nope"], true)];
    for (arguments, has_colour) in cases {
        let coloured = |output: &[u8]| text(output).contains('\u{1b}');
        let output =
            Command::new(PROGRAM).args(arguments).current_dir(&directory).output().unwrap();
        assert!(!coloured(&output.stdout) && !coloured(&output.stderr), "{arguments:?}");
        assert_eq!(coloured(&on_a_terminal(arguments, &[], directory.path())), has_colour);
        let plain = on_a_terminal(arguments, &[("NO_COLOR", "1")], directory.path());
        assert!(!coloured(&plain), "{arguments:?}: {}", text(&plain));
        assert!(!plain.is_empty(), "{arguments:?}");
    }
}

/// Returns the output of the program with a terminal as stdin, stdout and stderr.
fn on_a_terminal(arguments: &[&str], variables: &[(&str, &str)], directory: &Path) -> Vec<u8> {
    let output = Command::new("python3")
        .args(["-c", "import pty, sys; pty.spawn(sys.argv[1:])", PROGRAM])
        .args(arguments)
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied())
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output.stdout
}
