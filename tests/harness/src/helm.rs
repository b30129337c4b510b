//! Calls of the real Helm for the chart.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    process::{own_directory, program},
    root, scratch,
};

/// Returns the directory of the chart.
pub fn chart() -> PathBuf {
    root().join("charts/fab-session-injector")
}

/// Returns a chart whose only dependency is the chart. `dependency` has further keys of the
/// dependency, which take precedence over the usual ones.
pub fn umbrella(dependency: &Value) -> TempDir {
    let directory = own_directory();
    let own: Value =
        serde_saphyr::from_str(&fs::read_to_string(chart().join("Chart.yaml")).unwrap()).unwrap();
    let mut entry = json!({
        "name": own["name"],
        "version": own["version"],
        "repository": "file://../fab-session-injector",
        "condition": "fab-session-injector.enabled",
        "tags": ["security"],
    });
    for (key, value) in dependency.as_object().unwrap() {
        entry[key] = value.clone();
    }
    let parent = json!({"apiVersion": "v2", "name": "platform", "version": "0.1.0", "dependencies": [entry]});
    fs::write(directory.path().join("Chart.yaml"), parent.to_string()).unwrap();
    let dependencies = directory.path().join("charts");
    fs::create_dir(&dependencies).unwrap();
    let copied = Command::new("cp").arg("-r").arg(chart()).arg(&dependencies).status().unwrap();
    assert!(copied.success());
    directory
}

/// Returns the manifests of a release, or Helm's error about its values. `values` are set with
/// `--set` and take precedence over those of the file.
pub fn render(
    chart: &Path,
    release: &str,
    namespace: &str,
    values: &[(&str, &str)],
    values_file: Option<&Path>,
) -> Result<String, String> {
    let mut command = helm("template", namespace, values);
    command.arg(release).arg(chart);
    if let Some(file) = values_file {
        command.arg("--values").arg(file);
    }
    run(command)
}

/// Returns the manifests for a cluster of this version, with values of any type.
pub fn render_for(chart: &Path, version: &str, values: &[(&str, &str)]) -> Result<String, String> {
    let mut command = helm("template", "injector", values);
    command.arg("injector").arg(chart).args(["--kube-version", version]);
    run(command)
}

/// Installs a release.
pub fn install(
    chart: &Path,
    release: &str,
    namespace: &str,
    kubeconfig: &Path,
    values: &[(&str, &str)],
) -> Result<String, String> {
    let mut command = helm("install", namespace, values);
    command.arg(release).arg(chart).arg("--kubeconfig").arg(kubeconfig);
    run(command)
}

/// Returns the notes of an installation, without installing. Lookups use the cluster, if any.
pub fn notes(chart: &Path, values: &[(&str, &str)], kubeconfig: Option<&Path>) -> String {
    let mut command = helm("install", "injector", values);
    command.arg("noted").arg(chart);
    match kubeconfig {
        Some(kubeconfig) => command.arg("--dry-run=server").arg("--kubeconfig").arg(kubeconfig),
        None => command.arg("--dry-run=client"),
    };
    let said = run(command).unwrap();
    said.split_once("\nNOTES:\n").unwrap().1.to_owned()
}

/// Returns the notes of an installation with a values file.
pub fn notes_with(chart: &Path, values_file: &Path) -> String {
    let mut command = helm("install", "injector", &[]);
    command.arg("noted").arg(chart).arg("--dry-run=client").arg("--values").arg(values_file);
    let said = run(command).unwrap();
    said.split_once("\nNOTES:\n").unwrap().1.to_owned()
}

/// Upgrades to this chart and these values, without the previous values.
pub fn upgrade(
    chart: &Path,
    release: &str,
    namespace: &str,
    kubeconfig: &Path,
    values: &[(&str, &str)],
    flags: &[&str],
) -> Result<String, String> {
    let mut command = helm("upgrade", namespace, values);
    command.arg(release).arg(chart).arg("--kubeconfig").arg(kubeconfig).args(flags);
    run(command)
}

/// Rolls a release back to a revision.
pub fn rollback(
    release: &str,
    namespace: &str,
    kubeconfig: &Path,
    revision: u32,
) -> Result<String, String> {
    let mut command = helm("rollback", namespace, &[]);
    command.arg(release).arg(revision.to_string()).arg("--kubeconfig").arg(kubeconfig);
    run(command)
}

/// Uninstalls a release.
pub fn uninstall(release: &str, namespace: &str, kubeconfig: &Path) -> Result<String, String> {
    let mut command = helm("uninstall", namespace, &[]);
    command.arg(release).arg("--kubeconfig").arg(kubeconfig);
    run(command)
}

fn helm(verb: &str, namespace: &str, values: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program("helm"));
    command.args([verb, "--namespace", namespace]);
    for (key, value) in values {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command
}

fn run(mut command: Command) -> Result<String, String> {
    // Not the plugins and repositories of the user who runs the tests.
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, scratch().join("helm"));
    }
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
