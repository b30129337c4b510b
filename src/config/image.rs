//! The sidecar's image, and the references to it that a policy engine may put in its place.

use std::{fmt, str::FromStr};

/// The image of the sidecar container.
///
/// A policy engine may pin it: it replaces the tag with a digest, or adds the digest behind the tag.
/// A runtime that gets both pulls the digest, so only listed digests count as this image. If any
/// digest counted, a tenant could run every image of the repository, including old ones.
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    pinned: Vec<String>,
}

/// A digest of an image, as the [OCI image specification][1] writes it with SHA-256.
///
/// [1]: https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#digests
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImageDigest(String);

#[derive(Debug)]
pub struct NotAnImageDigest;

impl Image {
    /// Combines a reference with the digests to which it may be pinned.
    pub(super) fn new(reference: String, digests: &[ImageDigest]) -> Self {
        let (tagged, own) = match reference.split_once('@') {
            Some((tagged, digest)) => (tagged, Some(digest)),
            None => (&*reference, None),
        };
        let repository = repository(tagged);
        let digests = digests.iter().map(|ImageDigest(digest)| &**digest).chain(own);
        let pinned = digests
            .flat_map(|digest| [tagged, repository].map(|name| format!("{name}@{digest}")))
            .collect();
        Self { reference, pinned }
    }

    pub fn as_str(&self) -> &str {
        &self.reference
    }

    /// Returns whether the image has a digest to which it is or may be pinned.
    pub fn has_digest(&self) -> bool {
        !self.pinned.is_empty()
    }

    /// Returns whether a reference is this image, or this image pinned to one of its digests.
    pub fn is(&self, reference: &str) -> bool {
        reference == self.reference || self.pinned.iter().any(|pinned| pinned == reference)
    }
}

/// Returns a reference without its tag. The port of a registry is no tag.
fn repository(tagged: &str) -> &str {
    match tagged.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => tagged,
    }
}

impl FromStr for ImageDigest {
    type Err = NotAnImageDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.chars().all(is_digit) => Ok(Self(text.to_owned())),
            _ => Err(NotAnImageDigest),
        }
    }
}

impl std::error::Error for NotAnImageDigest {}

impl fmt::Display for NotAnImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected sha256: and 64 lower-case hexadecimal digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_pinned_to_its_digests_only() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let listed: ImageDigest = digest("a").parse().unwrap();
        let (ours, other) = (digest("a"), digest("b"));
        for (image, found, is) in [
            ("r.test:5000/i:1", "r.test:5000/i:1".to_owned(), true),
            ("r.test:5000/i:1", format!("r.test:5000/i:1@{ours}"), true),
            ("r.test:5000/i:1", format!("r.test:5000/i@{ours}"), true),
            ("r.test:5000/i:1", format!("r.test:5000/i:1@{other}"), false),
            ("r.test:5000/i:1", format!("r.test:5000/i:0@{ours}"), false),
            ("r.test:5000/i:1", format!("r.test:5000/j@{ours}"), false),
            ("r.test:5000/i:1", format!("mirror.test/i:1@{ours}"), false),
            ("r.test:5000/i:1", "r.test:5000/i".to_owned(), false),
            ("r.test:5000/i:1", format!("r.test:5000/i:1@{ours}@{ours}"), false),
            ("r.test:5000/i", format!("r.test:5000/i@{ours}"), true),
            (&format!("i:1@{other}"), format!("i@{other}"), true),
            (&format!("i:1@{other}"), format!("i:1@{ours}"), true),
            (&format!("i:1@{other}"), "i:1".to_owned(), false),
        ] {
            let image = Image::new(image.to_owned(), std::slice::from_ref(&listed));
            assert_eq!(image.is(&found), is, "{image:?} {found}");
        }
    }

    #[test]
    fn a_digest_has_one_form() {
        let hex = "a".repeat(64);
        let cases = [
            (format!("sha256:{hex}"), true),
            (format!("sha256:{}", hex.to_uppercase()), false),
            (format!("sha256:{hex}0"), false),
            (format!("sha512:{hex}"), false),
            (hex, false),
        ];
        for (text, is) in cases {
            assert_eq!(text.parse::<ImageDigest>().is_ok(), is, "{text}");
        }
    }
}
