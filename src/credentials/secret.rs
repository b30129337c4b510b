use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// A value that no log, error or response shows by accident. It has no `Display` and no
/// serialisation, and its memory is overwritten when the value is dropped.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    pub fn new(secret: T) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// Returns the value. There is no other way to read it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_secret() {
        let secret = Secret::new("wJalrXUtnFEMI".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(secret.clone())), "<secret> Some(<secret>)");
        assert_eq!(secret.expose(), "wJalrXUtnFEMI");
    }
}
