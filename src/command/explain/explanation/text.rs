//! Prints the report as text.

use std::fmt;

use super::{Explanation, Identity, NamedIn, RequestingUser, Said, ShownComponent, ShownDrift};
use crate::{
    admission::{Decision, DriftStatus, Gives, Passed},
    namespaces::Mode,
    terminal::harmless,
};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object,
            namespace,
            mode,
            tenant,
            requesting_user,
            decision: _,
            becomes,
            unchanged: _,
            refusals,
            component,
            possible_components,
            session,
            issuer,
            warnings,
            drift,
        } = self;
        writeln!(f, "{} in {}: {becomes}", harmless(object), harmless(namespace))?;
        let mut say = |what: &str, text: &str| writeln!(f, "  {what:<10} {}", harmless(text));
        let mode = mode.map_or("not opted in", Mode::as_str);
        let tenant =
            tenant.as_ref().map_or("no tenant".to_owned(), |name| format!("tenant {name}"));
        say("namespace", &format!("{mode}, {tenant}"))?;
        match requesting_user {
            RequestingUser::Given(name) => say("user", name)?,
            RequestingUser::Assumed(name) => say(
                "user",
                &format!(
                    "not recorded on pods; assuming {name}, because the pod matches what is injected for it"
                ),
            )?,
            RequestingUser::Unknown => {
                say("user", "unknown; assumed not to be a trusted creator (set --as)")?;
            }
        }
        if let Some(ShownComponent { name, matcher, matched }) = component {
            say("component", &format!("{name}, by {} {matched}", matcher.replace('-', " ")))?;
        }
        for ShownComponent { name, matcher: _, matched } in possible_components {
            say("", &format!("or {name}, if {matched} creates the pod (set --as)"))?;
        }
        if let Some(session) = session {
            let Identity {
                id,
                named_by,
                named_in,
                source_identity,
                role_arn,
                source,
                transport,
                base_role_arn,
                on_behalf_of,
            } = session;
            let origin = match (*named_by, named_in) {
                // On a pod of the cluster it may have been a label: the webhook copies the name
                // into the annotation.
                (_, Some(NamedIn { kind: "annotation", key })) if drift.is_some() => {
                    format!("named by the trusted creator, stored in the annotation {key}")
                }
                (_, Some(NamedIn { kind, key })) => {
                    format!("named by the trusted creator in the {kind} {key}")
                }
                ("config", None) => "set by the config".to_owned(),
                ("none", None) => "because the trusted creator names none".to_owned(),
                (_, None) => "because the requesting user is not a trusted creator".to_owned(),
            };
            say("session", &format!("{id}, {origin}"))?;
            say("identity", source_identity)?;
            say("role", role_arn)?;
            say("source", source)?;
            if transport.as_deref() == Some("web-identity") {
                say("transport", WEB_IDENTITY)?;
            }
            if let Some(base) = base_role_arn {
                say("base role", base)?;
            }
            if let Some(on_behalf_of) = on_behalf_of {
                say("tag", &format!("on-behalf-of: {on_behalf_of}, said by the trusted creator"))?;
            }
        }
        if let Some(issuer) = issuer {
            say("issuer", &issuer.text())?;
        }
        for Said { code, message, remedy, transient: _, is_unread: _ } in refusals {
            say("refusal", &format!("{message} [{code}]: {remedy}"))?;
        }
        for warning in warnings {
            say("warning", warning)?;
        }
        match drift {
            Some(drift) => say("drift", &drift.to_string()),
            None => Ok(()),
        }
    }
}

/// The text after "drift".
impl fmt::Display for ShownDrift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, possible_exemptions } = self;
        let (what, remedy) = match status {
            DriftStatus::UpToDate => ("none: the pod matches current injection", ""),
            DriftStatus::Changed(_) => ("differs from current injection at ", "; replace the pod"),
            DriftStatus::Ended => ("not compared: the pod has completed or is being deleted", ""),
            DriftStatus::Orphaned => (
                "orphaned: the pod has a sidecar that a new pod would not get",
                "; replace the pod to remove the sidecar",
            ),
            DriftStatus::NotInjected => (
                "not injected: the pod was created before the namespace opted in, or without a call to the webhook",
                "; replace the pod",
            ),
            DriftStatus::WouldBeRefused(_) => (
                "would be refused if created now",
                "; follow the remedy in the refusal, then replace the pod",
            ),
        };
        f.write_str(what)?;
        if let DriftStatus::Changed(paths) = status {
            f.write_str(&paths.join(", "))?;
        }
        if possible_exemptions.is_empty() {
            return f.write_str(remedy);
        }
        write!(
            f,
            "; unknown whether this is an error: the pod may have been created by {}, which is exempt (set --as)",
            possible_exemptions.join(", ")
        )
    }
}

/// Describes a decision in words.
pub(super) fn becomes(decision: &Decision, is_unread: bool, mode: Option<Mode>) -> String {
    let words = match decision {
        Decision::Inject(injection) => match injection.gives {
            Gives::Env(_) => "env: role and identity as variables; base credentials stay",
            Gives::Keep => "keep: nothing is given, for FAB_OPERATOR; base credentials stay",
            Gives::Nothing => "withhold: base credentials are removed, no others are given",
            Gives::Sidecar(..) => "inject: session credentials from the sidecar",
        },
        Decision::Pass(Passed::Exempt) => return "pass: its component is exempt".to_owned(),
        Decision::Pass(Passed::NotAnAgent) => return "pass: no component matches it".to_owned(),
        Decision::Pass(Passed::NotOptedIn) => {
            return "pass: its namespace has not opted in".to_owned();
        }
        Decision::Refuse(_) if is_unread => "unknown: this shell cannot read the tenant's role",
        Decision::Refuse(refusal) if refusal.is_transient() => {
            "refuse (HTTP 503, transient: clients retry)"
        }
        Decision::Refuse(_) => "refuse (HTTP 403, permanent until fixed)",
    };
    match mode {
        Some(Mode::Audit) => format!("left unchanged (audit); if enabled: {words}"),
        Some(Mode::Enabled) | None => words.to_owned(),
    }
}

const WEB_IDENTITY: &str =
    "web-identity: the sidecar gets a token of the session issuer, and has no base credentials";
