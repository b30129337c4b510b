//! A separate wall clock for the webhook, which can be set.

use std::{ffi::OsString, fs, process::Command};

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use harness::process::own_directory;

pub(crate) struct Clock(TempDir);

impl Clock {
    pub(crate) fn make() -> Self {
        let clock = Self(own_directory());
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(clock.0.path().join("clock.so"))
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/alone/holds/clock.c"))
            .status()
            .unwrap();
        assert!(made.success());
        clock.jump(0);
        clock
    }

    /// Returns the environment of a process that uses the clock.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 2] {
        let file = |name| self.0.path().join(name).into_os_string();
        [("LD_PRELOAD", file("clock.so")), ("FAB_TEST_CLOCK", file("seconds"))]
    }

    /// Sets the difference to the real time.
    pub(crate) fn jump(&self, seconds: i64) {
        let [now, next] = ["seconds", "next"].map(|name| self.0.path().join(name));
        fs::write(&next, seconds.to_string()).unwrap();
        fs::rename(next, now).unwrap();
    }
}

/// Returns the time of the last log line, in seconds from now.
pub(crate) fn said(log: &str) -> i64 {
    let mut lines = log.lines().rev();
    let last = lines.find_map(|line| serde_json::from_str::<Value>(line).ok()).unwrap();
    let at: Timestamp = last["timestamp"].as_str().unwrap().parse().unwrap();
    at.duration_since(Timestamp::now()).as_secs()
}
