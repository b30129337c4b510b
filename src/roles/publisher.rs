//! A service that publishes role ARNs, such as SSM Parameter Store.

use std::future::Future;

use super::Cause;

/// A service that publishes role ARNs.
pub trait Publisher: Send + Sync + 'static {
    /// Reads the values of `names` (at most [`BATCH`](super::schedule::BATCH)) with one call and
    /// without retries. Returns them in the order of `names`.
    fn ask(
        &self,
        names: Vec<String>,
    ) -> impl Future<Output = Result<Vec<Published>, ReadError>> + Send;
}

/// The value of one name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Published {
    /// The name does not exist.
    Absent,
    /// A type other than String and SecureString.
    OtherType,
    SecureString,
    /// A String.
    Text(String),
}

/// Why a call returned no values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReadError {
    /// One of the names is not a valid parameter name.
    Names,
    /// The publisher returned an error, or no response.
    Unreachable { cause: Cause, detail: String },
}
