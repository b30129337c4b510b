use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// Something that no log, error or answer may show unless it is meant to: there is no `Display`
/// and no serialisation, and the memory is overwritten when the value goes.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    pub fn new(secret: T) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// The only way out.
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
    fn shows_nothing_of_itself() {
        let secret = Secret::new("wJalrXUtnFEMI".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(secret.clone())), "<secret> Some(<secret>)");
        assert_eq!(secret.expose(), "wJalrXUtnFEMI");
    }
}
