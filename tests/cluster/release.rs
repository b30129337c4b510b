//! `release/assets`, with small images: the files of a release agree with each other.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

use harness::{
    helm,
    process::{own_directory, program},
    root,
};
use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn the_files_of_a_release_name_each_other() {
    let images = own_directory();
    let missing = assets(images.path(), &images.path().join("none"));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && said.contains("run image/build amd64 arm64"), "{said}");

    for architecture in ["amd64", "arm64"] {
        let file = images.path().join(architecture);
        fs::write(&file, format!("#!/bin/sh\necho the program for {architecture}\n")).unwrap();
        let archive = format!("fab-session-injector-{VERSION}-{architecture}.tar");
        let packed = Command::new(root().join("image/pack"))
            .args(["image", "--entrypoint=/fab-session-injector", "--name=example/fab:1"])
            .args(["--arch", architecture, "--output"])
            .arg(images.path().join(archive))
            .arg(format!("{}:/fab-session-injector:755", file.display()))
            .output()
            .unwrap();
        assert!(packed.status.success(), "{packed:?}");
    }
    let out = own_directory();
    let made = assets(images.path(), out.path());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let digest = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let checked = Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(out.path())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let sums = fs::read_to_string(out.path().join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 5, "{sums}");

    // The image of the chart is the index, and the index has both images.
    let archive = out.path().join(format!("fab-session-injector-{VERSION}.tar"));
    let index: Value = serde_json::from_slice(&member(&archive, "index.json")).unwrap();
    assert_eq!(index["manifests"][0]["digest"], *digest);
    let blob = member(&archive, &format!("blobs/{}", digest.replace(':', "/")));
    let list: Value = serde_json::from_slice(&blob).unwrap();
    let architectures = [0, 1].map(|at| &list["manifests"][at]["platform"]["architecture"]);
    assert_eq!(architectures, ["amd64", "arm64"]);
    let chart = out.path().join(format!("fab-session-injector-{VERSION}.tgz"));
    let rendered = helm::render(&chart, "injector", "fab-system", &[], None).unwrap();
    let image = format!("ghcr.io/nanohype/fab-session-injector:{VERSION}@{digest}");
    assert!(rendered.contains(&image), "{image}");
    let notes = helm::notes(&chart, &[], None);
    assert!(!notes.contains("NOT RELEASED"), "{notes}");
    assert!(notes.contains("is installed"), "{notes}");

    // krew fetches an archive, checks its sum and links its program.
    let manifest = fs::read_to_string(out.path().join("fab-session.yaml")).unwrap();
    let manifest: Value = serde_saphyr::from_str(&manifest).unwrap();
    assert_eq!(manifest["spec"]["version"], format!("v{VERSION}"));
    let platforms = manifest["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), 2);
    for platform in platforms {
        let architecture = platform["selector"]["matchLabels"]["arch"].as_str().unwrap();
        let uri = platform["uri"].as_str().unwrap();
        let (base, name) = uri.rsplit_once('/').unwrap();
        let repository = env!("CARGO_PKG_REPOSITORY");
        assert_eq!(base, format!("{repository}/releases/download/v{VERSION}"));
        let line = format!("{}  {name}", platform["sha256"].as_str().unwrap());
        assert!(sums.lines().any(|sum| sum == line), "{line}\n{sums}");
        let from = platform["files"][0]["from"].as_str().unwrap().strip_suffix('*').unwrap();
        let bin = platform["bin"].as_str().unwrap();
        let program = member(&out.path().join(name), &format!("{from}{bin}"));
        let program = String::from_utf8(program).unwrap();
        assert!(program.contains(&format!("the program for {architecture}\n")), "{program}");
        member(&out.path().join(name), &format!("{from}LICENSE"));
    }
}

fn assets(images: &Path, out: &Path) -> Output {
    let helm = program("helm");
    let path = format!("{}:{}", helm.parent().unwrap().display(), path());
    let mut command = Command::new(root().join("release/assets"));
    command.arg(out).env("FAB_IMAGES", images).env("PATH", path).output().unwrap()
}

#[allow(clippy::disallowed_methods, reason = "where the programs of the system are")]
fn path() -> String {
    env::var("PATH").unwrap()
}

/// Returns a file of an archive, compressed or not.
fn member(archive: &Path, name: &str) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--to-stdout", "--file"]).arg(archive).arg(name);
    let output = tar.output().unwrap();
    assert!(output.status.success(), "{}: {name}", archive.display());
    output.stdout
}
