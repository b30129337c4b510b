//! The file with the pod's own token, which the kubelet renews.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::session::PodUid;

/// The token file, and the pod that its first token named.
///
/// A process that is restored from a checkpoint finds the token of another pod. It must not act in
/// the session of the pod in which it was saved.
#[derive(Debug)]
pub(super) struct PodToken {
    file: PathBuf,
    first: OnceLock<PodUid>,
    is_foreign: AtomicBool,
}

/// The token of a pod, of which this process does not verify the signature: the uid is compared
/// only with that of an earlier token of the same file.
#[derive(Deserialize)]
struct PodClaims {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Deserialize)]
struct Bound {
    pod: BoundPod,
}

#[derive(Deserialize)]
struct BoundPod {
    uid: String,
}

impl PodToken {
    /// Remembers the pod of the token that is in the file now.
    pub(super) fn new(file: PathBuf) -> Self {
        let token = Self { file, first: OnceLock::new(), is_foreign: AtomicBool::new(false) };
        // Without a file the first token that is read later counts.
        let _ = token.read();
        token
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the token. None: it is of another pod than an earlier one.
    pub(super) fn read(&self) -> io::Result<Option<Zeroizing<String>>> {
        if self.is_foreign.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let token = std::fs::read_to_string(&self.file).map(Zeroizing::new)?;
        if let Some(uid) = pod_uid(&token)
            && *self.first.get_or_init(|| uid.clone()) != uid
        {
            self.is_foreign.store(true, Ordering::Relaxed);
        }
        Ok(Some(token).filter(|_| !self.is_foreign.load(Ordering::Relaxed)))
    }

    /// Returns whether no token of another pod was ever seen. A file that cannot be read says
    /// nothing about the pod.
    pub(super) fn is_of_same_pod(&self) -> bool {
        let _ = self.read();
        !self.is_foreign.load(Ordering::Relaxed)
    }
}

fn pod_uid(token: &str) -> Option<PodUid> {
    let claims = token.trim_end().split('.').nth(1)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: PodClaims = serde_json::from_slice(&claims).ok()?;
    claims.kubernetes.pod.uid.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    const UID: &str = "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e";
    const OTHER: &str = "0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6f";

    fn token(uid: &str, id: &str) -> String {
        let claims = json!({"jti": id, "kubernetes.io": {"namespace": "n", "pod": {"uid": uid}}});
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn a_token_of_another_pod_counts_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let first = token(UID, "1");
        fs::write(&file, format!("{first}\n")).unwrap();
        let pod = PodToken::new(file.clone());
        // Renewed; away; not a token; without a pod; with a uid that is none.
        fs::write(&file, token(UID, "2")).unwrap();
        assert_eq!(**pod.read().unwrap().unwrap(), token(UID, "2"));
        fs::remove_file(&file).unwrap();
        assert!(pod.is_of_same_pod() && pod.read().is_err());
        let no_pod = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"));
        for text in ["", "the.projected.token", "e30.e30.e30", &no_pod, &token("b", "3")] {
            fs::write(&file, text).unwrap();
            assert!(pod.is_of_same_pod(), "{text}");
        }
        fs::write(&file, token(OTHER, "4")).unwrap();
        assert!(!pod.is_of_same_pod() && pod.read().unwrap().is_none());
        fs::write(&file, first).unwrap();
        assert!(!pod.is_of_same_pod());
        assert!(pod.read().unwrap().is_none());
    }

    #[test]
    fn without_a_file_at_the_start_the_first_token_counts() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let pod = PodToken::new(file.clone());
        assert!(pod.is_of_same_pod());
        fs::write(&file, token(UID, "1")).unwrap();
        assert!(pod.is_of_same_pod());
        fs::write(&file, token(OTHER, "2")).unwrap();
        assert!(!pod.is_of_same_pod());
    }
}
