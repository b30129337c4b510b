//! `tests/released`, by which `tests/setup` fetches programs. A server on loopback takes the place of
//! the releases' host.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Output},
    thread,
};

use harness::{process::own_directory, root};

#[test]
fn a_release_is_unpacked_only_with_its_checksum() {
    let directory = own_directory();
    let programs = directory.path().join("controller-tools/envtest");
    fs::create_dir_all(&programs).unwrap();
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        fs::write(programs.join(program), program).unwrap();
    }
    let name = format!("envtest-v1.37.0-linux-{}.tar.gz", architecture());
    let archive = directory.path().join(&name);
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--file"]).arg(&archive);
    tar.arg("--directory").arg(directory.path()).arg("controller-tools");
    assert!(tar.status().unwrap().success());
    let sum = Command::new("sha512sum").arg(&archive).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap().split(' ').next().unwrap().to_owned();
    let host = serve(fs::read(&archive).unwrap());

    let list = directory.path().join("envtest-releases.yaml");
    let release = |sum: &str| {
        let other = "0".repeat(128);
        format!(
            "releases:\n  v1.37.0:\n    envtest-v1.37.0-linux-other.tar.gz:\n      hash: {other}\n      \
             selfLink: https://github.com/other\n    {name}:\n      hash: {sum}\n      \
             selfLink: https://github.com/releases/{name}\n"
        )
    };
    let fetch = |version: &str, host: SocketAddr| {
        let new = directory.path().join("new");
        let _ = fs::remove_dir_all(&new);
        fs::create_dir(&new).unwrap();
        (released(&list, version, &new, host), new)
    };

    fs::write(&list, release(&sum)).unwrap();
    let (output, new) = fetch("v1.37.0", host);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(files(&new), ["etcd", "kube-apiserver", "kubectl"]);
    assert_eq!(fs::read_to_string(new.join("kubectl")).unwrap(), "kubectl");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (version, host) in [("v1.36.0", host), ("v1.37.0", closed)] {
        let (output, new) = fetch(version, host);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(files(&new), [""; 0]);
    }

    fs::write(&list, release(&sum.chars().rev().collect::<String>())).unwrap();
    let (output, new) = fetch("v1.37.0", host);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("wrong checksum"), "{output:?}");
    assert_eq!(files(&new), [""; 0]);
}

fn released(list: &Path, version: &str, directory: &Path, host: SocketAddr) -> Output {
    let mut command = Command::new(root().join("tests/released"));
    command.arg(list).arg(version).arg(directory);
    command.env("FAB_TEST_RELEASES", format!("http://{host}")).output().unwrap()
}

/// Returns the address of a server that responds with `body` to each request.
fn serve(body: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = connection.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    address
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
