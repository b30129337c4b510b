use std::{fmt, str::FromStr};

/// The startup gate: the condition for which the agent's containers wait before they start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StartGate {
    /// The sidecar has its first credentials.
    Credentials,
    /// The sidecar listens.
    Listening,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a valid startup gate: expected credentials or listening")]
pub struct NotAStartGate;

impl fmt::Display for StartGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "credentials",
            Self::Listening => "listening",
        })
    }
}

impl FromStr for StartGate {
    type Err = NotAStartGate;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Self::Credentials, Self::Listening]
            .into_iter()
            .find(|gate| gate.to_string() == s)
            .ok_or(NotAStartGate)
    }
}
