//! The environment variables that the webhook writes and the sidecar reads.
//!
//! Only this module has their names. The webhook writes [`session_variables`], and
//! [`endpoint_variables`] and [`ca_variable`] for the sidecar only. The kubelet fills in fields of
//! the pod and expands `$(NAME)`. The sidecar reads the result with [`read`], [`read_serving`] and
//! [`read_ca`], which reject every value that the webhook cannot have written.

use std::path::PathBuf;

use super::{
    CaBundle, IssuerEndpoint, KnownSession, NotACaBundle, NotARoleArn, NotASessionDuration,
    NotASessionName, NotASourceIdentity, NotAStartGate, NotATenant, NotAnIssuerEndpoint,
    OnBehalfOf, Session, SessionId, SessionName, SidecarSession, SourceIdentity, StartGate,
    UnboundSession,
};

/// One environment variable of a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Variable {
    pub name: &'static str,
    pub value: Value,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// A field of the pod, from the downward API.
    Field(&'static str),
    /// Text. The kubelet expands a `$(NAME)` in it from variables earlier in the list.
    Text(String),
}

/// How a sidecar serves credentials, independent of its session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Serving {
    /// The port on the pod's loopback.
    pub port: u16,
    pub start_gate: StartGate,
    /// The file with the token that clients must send to the endpoint.
    pub token_file: PathBuf,
}

/// How a sidecar calls the session issuer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuerAccess {
    pub endpoint: IssuerEndpoint,
    /// The only CA certificates that it trusts for the endpoint.
    pub ca: CaBundle,
    /// The file with the token by which the pod proves itself.
    pub token_file: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum NoIssuerAccess {
    #[error("{ISSUER} is set, but {0} is not; set both")]
    Absent(&'static str),
    #[error("{ISSUER_CA} is malformed")]
    Ca(#[source] NotACaBundle),
    #[error("{ISSUER} is malformed")]
    Endpoint(#[source] NotAnIssuerEndpoint),
}

#[derive(Debug, thiserror::Error)]
pub enum NotServing {
    #[error("{0} is not set")]
    Absent(&'static str),
    #[error("{PORT} is not a port above 1023")]
    Port,
    #[error("{START_GATE} is malformed")]
    StartGate(#[source] NotAStartGate),
    #[error("{TOKEN_FILE} is not an absolute path")]
    TokenFile,
}

#[derive(Debug, thiserror::Error)]
pub enum NotASession {
    #[error("{0} is not set")]
    Absent(&'static str),
    #[error("{DURATION} is malformed")]
    Duration(#[source] NotASessionDuration),
    #[error("{IDENTITY} is malformed")]
    Identity(#[source] NotASourceIdentity),
    #[error("{IDENTITY} is {found}, but {TENANT} and {ID} make {computed}")]
    Mismatch { found: SourceIdentity, computed: SourceIdentity },
    #[error("{ROLE_ARN} is malformed")]
    RoleArn(#[source] NotARoleArn),
    #[error("{ID} is malformed")]
    SessionName(#[source] NotASessionName),
    #[error("{TENANT} is malformed")]
    Tenant(#[source] NotATenant),
}

/// Returns the variables of `session`, in an order in which the kubelet can expand them.
pub fn session_variables(session: &Session) -> [Variable; 5] {
    let Session { tenant, id, role, duration, on_behalf_of: _ } = session;
    let (id, identity) = match id {
        SessionId::Known(name) => {
            (Value::Text(name.as_str().to_owned()), SourceIdentity::of(tenant, name).to_string())
        }
        SessionId::PodName => (Value::Field("metadata.name"), format!("agent.{tenant}.$({ID})")),
        SessionId::PodUid => (Value::Field("metadata.uid"), format!("agent.{tenant}.$({ID})")),
        // No session's name: a sidecar or an issuer that does not know it refuses it.
        SessionId::SandboxClaim => (Value::Text(id.to_string()), format!("agent.{tenant}.$({ID})")),
    };
    [
        Variable { name: ROLE_ARN, value: Value::Text(role.to_string()) },
        Variable { name: ID, value: id },
        Variable { name: TENANT, value: Value::Text(tenant.to_string()) },
        Variable { name: IDENTITY, value: Value::Text(identity) },
        Variable { name: DURATION, value: Value::Text(duration.to_string()) },
    ]
}

/// Returns the variables of `session` for a container of the agent, and those that it must not have.
/// An unbound session has no name yet.
pub fn agent_variables(session: &Session) -> (Vec<Variable>, &'static [&'static str]) {
    let variables = session_variables(session);
    if session.id != SessionId::SandboxClaim {
        return (variables.to_vec(), &[]);
    }
    const UNKNOWN: &[&str] = &[ID, IDENTITY];
    (variables.into_iter().filter(|it| !UNKNOWN.contains(&it.name)).collect(), UNKNOWN)
}

/// Reads the session of this process from its environment.
pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<KnownSession, NotASession> {
    let UnboundSession { tenant, role, duration } = read_nameless(&variable)?;
    let required = |name| variable(name).ok_or(NotASession::Absent(name));
    let name: SessionName = required(ID)?.parse().map_err(NotASession::SessionName)?;
    let found: SourceIdentity = required(IDENTITY)?.parse().map_err(NotASession::Identity)?;
    let session = KnownSession { tenant, name, role, duration };
    let computed = session.source_identity();
    if found != computed {
        return Err(NotASession::Mismatch { found, computed });
    }
    Ok(session)
}

/// Reads the session of this process, which may have no name yet.
pub fn read_sidecar(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<SidecarSession, NotASession> {
    match read_unbound(&variable) {
        Some(unbound) => unbound.map(SidecarSession::unbound),
        None => read(variable).map(SidecarSession::known),
    }
}

/// Reads a session whose name the session issuer gives. `None`: it has a name.
pub fn read_unbound(
    variable: impl Fn(&str) -> Option<String>,
) -> Option<Result<UnboundSession, NotASession>> {
    let marker = SessionId::SandboxClaim.to_string();
    (variable(ID)? == marker).then(|| read_nameless(variable))
}

fn read_nameless(variable: impl Fn(&str) -> Option<String>) -> Result<UnboundSession, NotASession> {
    let required = |name| variable(name).ok_or(NotASession::Absent(name));
    Ok(UnboundSession {
        role: required(ROLE_ARN)?.parse().map_err(NotASession::RoleArn)?,
        tenant: required(TENANT)?.parse().map_err(NotASession::Tenant)?,
        duration: required(DURATION)?.parse().map_err(NotASession::Duration)?,
    })
}

/// Reads the session of a stored pod: the kubelet has not expanded its variables yet.
pub fn read_stored(variable: impl Fn(&str) -> Option<String>) -> Result<KnownSession, NotASession> {
    let id = variable(ID).unwrap_or_default();
    read(|name| Some(variable(name)?.replace(&format!("$({ID})"), &id)))
}

/// Returns the variables of `serving` for the sidecar's container.
pub fn endpoint_variables(serving: &Serving) -> [Variable; 3] {
    let Serving { port, start_gate, token_file } = serving;
    [
        Variable { name: PORT, value: Value::Text(port.to_string()) },
        Variable { name: START_GATE, value: Value::Text(start_gate.to_string()) },
        Variable { name: TOKEN_FILE, value: Value::Text(token_file.display().to_string()) },
    ]
}

/// Reads how this process serves from its environment.
pub fn read_serving(variable: impl Fn(&str) -> Option<String>) -> Result<Serving, NotServing> {
    let required = |name| variable(name).ok_or(NotServing::Absent(name));
    let port: u16 = required(PORT)?.parse().map_err(|_| NotServing::Port)?;
    if port < 1024 {
        return Err(NotServing::Port);
    }
    let start_gate = required(START_GATE)?.parse().map_err(NotServing::StartGate)?;
    let token_file = PathBuf::from(required(TOKEN_FILE)?);
    if !token_file.is_absolute() {
        return Err(NotServing::TokenFile);
    }
    Ok(Serving { port, start_gate, token_file })
}

/// Returns the variable with the CA certificates that the sidecar trusts for AWS.
pub fn ca_variable(bundle: &CaBundle) -> Variable {
    Variable { name: CA_BUNDLE, value: Value::Text(bundle.as_str().to_owned()) }
}

/// Reads the CA certificates that this process trusts for AWS.
pub fn read_ca(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<CaBundle>, NotACaBundle> {
    variable(CA_BUNDLE).map(|text| text.parse()).transpose()
}

/// Returns the variables of a sidecar that gets its tokens from the session issuer. `ca`: the CA
/// certificates of the issuer (PEM).
pub fn issuer_variables(endpoint: &IssuerEndpoint, ca: &str, token_file: &str) -> [Variable; 3] {
    let text = |name, value: String| Variable { name, value: Value::Text(value) };
    [
        text(ISSUER, endpoint.to_string()),
        text(ISSUER_CA, ca.to_owned()),
        text(ISSUER_TOKEN_FILE, token_file.to_owned()),
    ]
}

/// Returns the variable of the sidecar that only the session issuer reads, from the stored pod.
pub fn on_behalf_of_variable(value: &OnBehalfOf) -> Variable {
    Variable { name: ON_BEHALF_OF, value: Value::Text(value.to_string()) }
}

/// Reads how this process calls the session issuer. None: it has base credentials instead.
pub fn read_issuer(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<IssuerAccess>, NoIssuerAccess> {
    let Some(endpoint) = variable(ISSUER) else { return Ok(None) };
    let required = |name| variable(name).ok_or(NoIssuerAccess::Absent(name));
    let endpoint = endpoint.parse().map_err(NoIssuerAccess::Endpoint)?;
    let ca = required(ISSUER_CA)?.parse().map_err(NoIssuerAccess::Ca)?;
    let token_file = PathBuf::from(required(ISSUER_TOKEN_FILE)?);
    Ok(Some(IssuerAccess { endpoint, ca, token_file }))
}

/// Reports whether webhook and sidecar use the variable. The agent `fab` has variables of its own
/// that begin with `FAB_SESSION_`, such as `FAB_SESSION_IDLE_MS`.
pub fn is_reserved(name: &str) -> bool {
    let others = [
        CA_BUNDLE,
        ISSUER,
        ISSUER_CA,
        ISSUER_TOKEN_FILE,
        ON_BEHALF_OF,
        PORT,
        START_GATE,
        TOKEN_FILE,
    ];
    NAMES.contains(&name) || others.contains(&name)
}

/// The names of [`session_variables`].
pub const NAMES: [&str; 5] = [ROLE_ARN, ID, TENANT, IDENTITY, DURATION];

/// The path at which the sidecar serves credentials.
pub const CREDENTIALS_PATH: &str = "/v1/credentials";
/// The path at which the sidecar names its session.
pub const SESSION_PATH: &str = "/v1/session";

pub const CA_BUNDLE: &str = "FAB_SESSION_CA_BUNDLE";
const DURATION: &str = "FAB_SESSION_DURATION";
pub const ID: &str = "FAB_SESSION_ID";
const IDENTITY: &str = "FAB_SESSION_IDENTITY";
const PORT: &str = "FAB_SESSION_PORT";
pub const ISSUER: &str = "FAB_SESSION_ISSUER";
pub const ISSUER_CA: &str = "FAB_SESSION_ISSUER_CA";
const ISSUER_TOKEN_FILE: &str = "FAB_SESSION_ISSUER_TOKEN_FILE";
pub const ON_BEHALF_OF: &str = "FAB_SESSION_ON_BEHALF_OF";
pub const ROLE_ARN: &str = "FAB_SESSION_ROLE_ARN";
const START_GATE: &str = "FAB_SESSION_START_GATE";
const TENANT: &str = "FAB_SESSION_TENANT";
const TOKEN_FILE: &str = "FAB_SESSION_TOKEN_FILE";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn session(tenant: &str, id: SessionId) -> Session {
        Session {
            tenant: tenant.parse().unwrap(),
            id,
            role: "arn:aws:iam::111122223333:role/r".parse().unwrap(),
            duration: "900".parse().unwrap(),
            on_behalf_of: None,
        }
    }

    fn known(name: &str) -> SessionId {
        SessionId::Known(name.parse().unwrap())
    }

    /// Does what the kubelet does: fills in fields, and expands `$(NAME)` from earlier variables.
    fn kubelet(variables: &[Variable], name: &str, uid: &str) -> HashMap<String, String> {
        let mut environment = HashMap::<String, String>::new();
        for variable in variables {
            let value = match &variable.value {
                Value::Field("metadata.name") => name.to_owned(),
                Value::Field(_) => uid.to_owned(),
                Value::Text(text) => {
                    environment.iter().fold(text.clone(), |text, (name, value)| {
                        text.replace(&format!("$({name})"), value)
                    })
                }
            };
            environment.insert(variable.name.to_owned(), value);
        }
        environment
    }

    #[test]
    fn the_sidecar_reads_what_the_webhook_writes() {
        let uid = "0d2c2a52-7a3c-4a0e-9d6e-0c6f3c1b8a55";
        let long = "s".repeat(200);
        let cases = [
            (known("fab-coder-x7k2p"), "fab-coder-x7k2p"),
            (known(&long), &long),
            (SessionId::PodUid, uid),
            (SessionId::PodName, "session-a.b"),
        ];
        for (id, want) in cases {
            let written = session("acme", id);
            let variables = session_variables(&written);
            let environment = kubelet(&variables, "session-a.b", uid);
            let found = read(|name| environment.get(name).cloned()).unwrap();
            let stored = read_stored(|name| {
                let variable = variables.iter().find(|variable| variable.name == name)?;
                match &variable.value {
                    Value::Field(_) => environment.get(name).cloned(),
                    Value::Text(text) => Some(text.clone()),
                }
            });
            assert_eq!(stored.unwrap(), found);
            let Session { tenant, id, role, duration, on_behalf_of: _ } = written;
            let want = KnownSession { tenant, name: want.parse().unwrap(), role, duration };
            assert_eq!(found, want, "{id:?}");
        }
    }

    #[test]
    fn the_sidecar_refuses_what_the_webhook_cannot_have_written() {
        let good = kubelet(&session_variables(&session("acme", known("s"))), "", "");
        let cases = [
            (ID, "t", "FAB_SESSION_IDENTITY is agent.acme.s, but"),
            (IDENTITY, "agent.other.s", "FAB_SESSION_IDENTITY is agent.other.s, but"),
            (ID, "$(FAB_SESSION_ID)", "FAB_SESSION_ID is malformed"),
            (TENANT, "a.b", "FAB_SESSION_TENANT is malformed"),
            (ROLE_ARN, "r", "FAB_SESSION_ROLE_ARN is malformed"),
            (DURATION, "7200", "FAB_SESSION_DURATION is malformed"),
        ];
        for (name, value, want) in cases {
            let mut environment = good.clone();
            environment.insert(name.to_owned(), value.to_owned());
            let error = read(|name| environment.get(name).cloned()).unwrap_err().to_string();
            assert!(error.starts_with(want), "{name}={value}: {error}");
            environment.remove(name);
            let error = read(|name| environment.get(name).cloned()).unwrap_err().to_string();
            assert_eq!(error, format!("{name} is not set"));
        }
    }

    #[test]
    fn the_sidecar_reads_its_endpoint_settings() {
        let serving = Serving {
            port: 7413,
            start_gate: StartGate::Listening,
            token_file: "/var/run/fab-session/token".into(),
        };
        let good = kubelet(&endpoint_variables(&serving), "", "");
        assert_eq!(read_serving(|name| good.get(name).cloned()).unwrap(), serving);
        for (name, value) in
            [(PORT, "80"), (PORT, "x"), (START_GATE, "never"), (TOKEN_FILE, "token")]
        {
            let mut environment = good.clone();
            environment.insert(name.to_owned(), value.to_owned());
            let error =
                read_serving(|name| environment.get(name).cloned()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} is ")), "{name}={value}: {error}");
            environment.remove(name);
            let error =
                read_serving(|name| environment.get(name).cloned()).unwrap_err().to_string();
            assert_eq!(error, format!("{name} is not set"));
        }
    }
}
