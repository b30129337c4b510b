//! The chart as the real Helm renders it.

use std::path::Path;
use std::process::Command;

use super::process::program;

/// The manifests of a release, or what Helm has against its values. `values`
/// are given as `--set` and win over those of the file.
pub(crate) fn render(
    chart: &Path,
    release: &str,
    namespace: &str,
    values: &[(&str, &str)],
    values_file: Option<&Path>,
) -> Result<String, String> {
    let mut command = Command::new(program("helm"));
    command.arg("template").arg(release).arg(chart).args(["--namespace", namespace]);
    if let Some(file) = values_file {
        command.arg("--values").arg(file);
    }
    for (key, value) in values {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    // Not the plugins and repositories of whoever runs the tests.
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, concat!(env!("CARGO_TARGET_TMPDIR"), "/helm"));
    }
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
