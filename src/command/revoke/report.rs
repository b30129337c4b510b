//! The output of `revoke`.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::{
    revocation::{Inline, LIMIT, POLICY_NAME, Revoked},
    session::RoleArn,
};

/// Returns what is revoked, for `--list`.
pub(super) fn list(role: &RoleArn, inline: &Inline) -> String {
    let mut text = heading(role);
    let Revoked { sessions, issued_before } = &inline.revoked;
    for (identity, gone) in sessions {
        let gone = gone.map(|gone| format!("  no pod since {gone}")).unwrap_or_default();
        line(&mut text, &format!("revoked  {identity}{gone}"));
    }
    if let Some(time) = issued_before {
        line(&mut text, &format!("revoked  all credentials issued before {time}"));
    }
    if sessions.is_empty() && issued_before.is_none() {
        line(&mut text, "no session is revoked");
    }
    text + &size(inline)
}

/// Returns the same as JSON.
pub(super) fn json(role: &RoleArn, inline: &Inline) -> Value {
    let Revoked { sessions, issued_before } = &inline.revoked;
    let sessions: Vec<Value> = sessions
        .iter()
        .map(|(identity, gone)| {
            json!({
                "sourceIdentity": identity.as_str(),
                "withoutPodSince": gone.map(|gone| gone.to_string()),
            })
        })
        .collect();
    json!({
        "role": role.as_str(),
        "policy": POLICY_NAME,
        "sessions": sessions,
        "issuedBefore": issued_before.map(|time| time.to_string()),
        "characters": {"used": inline.used(), "limit": LIMIT},
        "remainingSessions": inline.remaining_sessions(),
    })
}

/// Returns what a revocation did.
pub(super) fn revoked(
    role: &RoleArn,
    revoked: &Revoked,
    before: &Revoked,
    after: &Inline,
) -> String {
    let mut text = heading(role);
    for identity in revoked.sessions.keys() {
        let again = if before.sessions.contains_key(identity) { ", as before" } else { "" };
        line(&mut text, &format!("revoked  {identity}{again}"));
    }
    if let Some(time) = after.revoked.issued_before.filter(|_| revoked.issued_before.is_some()) {
        let again = if before.issued_before == Some(time) { ", as before" } else { "" };
        line(&mut text, &format!("revoked  all credentials issued before {time}{again}"));
    }
    text + &size(after)
}

/// Returns what `--prune` did.
pub(super) fn pruned(role: &RoleArn, before: &Revoked, after: &Inline) -> String {
    let mut text = heading(role);
    for identity in before.sessions.keys() {
        let (state, why) = match after.revoked.sessions.get(identity) {
            None => {
                ("removed ", "no pod has it, and its longest credentials have expired".to_owned())
            }
            Some(None) => ("kept    ", "a pod of the cluster has it".to_owned()),
            Some(Some(gone)) => {
                let why = format!(
                    "no pod since {gone}; run revoke --prune again when its longest credentials have expired"
                );
                ("marked  ", why)
            }
        };
        line(&mut text, &format!("{state} {identity}  {why}"));
    }
    if let Some(time) = before.issued_before {
        let state = if after.revoked.issued_before.is_none() { "removed " } else { "kept    " };
        line(&mut text, &format!("{state} all credentials issued before {time}"));
    }
    text + &size(after)
}

fn heading(role: &RoleArn) -> String {
    format!("role {role}, inline policy {POLICY_NAME}\n")
}

fn size(inline: &Inline) -> String {
    format!(
        "{} of {LIMIT} characters of inline policies are used; {} more sessions fit\n",
        inline.used(),
        inline.remaining_sessions()
    )
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}
