//! The published public keys, as a JWK Set.

use serde_json::{Value, json, value::RawValue};

use super::{KeyId, PublicKey};
use crate::json::{Json, Unambiguous};

/// Returns the JWK Set of the keys.
///
/// STS refuses all JWTs of a key with `key_ops` or `x5c`.
/// <https://www.rfc-editor.org/rfc/rfc7517>
pub fn jwks_document(keys: &[PublicKey]) -> Value {
    let jwk = |key: &PublicKey| {
        let (x, y) = key.coordinates();
        json!({
            "kty": "EC",
            "crv": "P-256",
            "x": x,
            "y": y,
            "use": "sig",
            "alg": "ES256",
            "kid": key.id().as_str(),
        })
    };
    json!({"keys": keys.iter().map(jwk).collect::<Vec<_>>()})
}

/// The keys of a published JWK Set, some of which may be foreign.
#[derive(Clone, Debug)]
pub struct PublishedKeys(Vec<PublishedKey>);

#[derive(Clone, Debug)]
struct PublishedKey {
    id: Option<String>,
    /// None: it is not of P-256, or malformed.
    key: Option<PublicKey>,
    unusable: Option<UnusableKey>,
}

/// A published key that the issuer does not have. STS accepts what its owner signs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignKey {
    /// Its `kid`, which is foreign text. None: it has none.
    pub id: Option<String>,
}

/// Why STS does not accept a published key of the issuer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnusableKey {
    #[error("its alg is not ES256")]
    Algorithm,
    #[error("it has key_ops")]
    KeyOperations,
    #[error("its kid is not the thumbprint of RFC 7638")]
    KeyId,
    #[error("its use is not sig")]
    Use,
    #[error("it has x5c")]
    X509,
}

#[derive(Debug, thiserror::Error)]
pub enum NotAJwks {
    #[error("it is not a JSON object with a list of keys")]
    Json,
    #[error("an object in it has a member twice, or it is not ASCII: STS may read another one")]
    Ambiguous,
    #[error("it has more than {MOST_KEYS} keys, the limit of STS")]
    Keys,
    #[error("it has {0} bytes; at most {MOST_BYTES} are read")]
    Length(usize),
}

impl PublishedKeys {
    /// Reads a JWK Set. Its text is untrusted.
    pub fn parse(text: &[u8]) -> Result<Self, NotAJwks> {
        if text.len() > MOST_BYTES {
            return Err(NotAJwks::Length(text.len()));
        }
        // Its server may name another charset, in which other bytes end a string.
        if !text.is_ascii() {
            return Err(NotAJwks::Ambiguous);
        }
        let json: &RawValue = serde_json::from_slice(text).map_err(|_| NotAJwks::Json)?;
        let keys = Json::from(json).at("keys");
        if !keys.is_list() {
            return Err(NotAJwks::Json);
        }
        let Unambiguous = serde_json::from_slice(text).map_err(|_| NotAJwks::Ambiguous)?;
        if keys.items().nth(MOST_KEYS).is_some() {
            return Err(NotAJwks::Keys);
        }
        Ok(Self(keys.items().map(PublishedKey::of).collect()))
    }

    /// Returns whether STS finds this key. Err: why it does not accept it.
    pub fn has(&self, key: &PublicKey) -> Result<bool, UnusableKey> {
        let mut found = Ok(false);
        for published in self.0.iter().filter(|it| it.key.as_ref() == Some(key)) {
            match published.unusable {
                None => return Ok(true),
                Some(why) => found = Err(why),
            }
        }
        found
    }

    /// Returns the keys that are none of these.
    pub fn foreign(&self, keys: &[PublicKey]) -> Vec<ForeignKey> {
        let is_foreign =
            |it: &&PublishedKey| !it.key.as_ref().is_some_and(|key| keys.contains(key));
        let foreign = self.0.iter().filter(is_foreign);
        foreign.map(|it| ForeignKey { id: it.id.clone() }).collect()
    }

    /// Returns the ids of the P-256 keys, by their points.
    pub fn ids(&self) -> Vec<KeyId> {
        self.0.iter().filter_map(|it| it.key.as_ref().map(|key| key.id().clone())).collect()
    }
}

impl PublishedKey {
    /// Reads a JWK. One of another shape is a foreign key, too.
    fn of(jwk: Json<'_>) -> Self {
        let is = |member: &str, want: &str| jwk.at(member).string().is_some_and(|it| it == want);
        let is_absent = |member: &str| jwk.at(member).text() == "null";
        let key = match (jwk.at("x").string(), jwk.at("y").string()) {
            (Some(x), Some(y)) if is("kty", "EC") && is("crv", "P-256") => {
                PublicKey::from_coordinates(&x, &y).ok()
            }
            _ => None,
        };
        let has_its_id = key.as_ref().is_some_and(|key| is("kid", key.id().as_str()));
        let rules = [
            (has_its_id, UnusableKey::KeyId),
            (is_absent("key_ops"), UnusableKey::KeyOperations),
            (is_absent("x5c"), UnusableKey::X509),
            (is_absent("use") || is("use", "sig"), UnusableKey::Use),
            (is_absent("alg") || is("alg", "ES256"), UnusableKey::Algorithm),
        ];
        Self {
            id: jwk.at("kid").string().map(|id| id.chars().take(LONGEST_ID).collect()),
            key,
            unusable: rules.into_iter().find(|(is_kept, _)| !is_kept).map(|(_, why)| why),
        }
    }
}

/// Maximum number of keys that STS accepts in one JWK Set: 100 EC keys and 100 RSA keys.
const MOST_KEYS: usize = 200;
/// A JWK of the issuer has 204 bytes, one of RSA with 4096 bits 800: a hundred of each have 100 KiB.
const MOST_BYTES: usize = 256 * 1024;
/// Maximum number of characters of a foreign `kid` in a log; a thumbprint has 43.
const LONGEST_ID: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The key of RFC 7517, A.1, and that of RFC 7515, A.3.
    fn keys() -> [PublicKey; 2] {
        [
            (
                "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
            ),
            (
                "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            ),
        ]
        .map(|(x, y)| PublicKey::from_coordinates(x, y).unwrap())
    }

    fn parse(jwks: &Value) -> PublishedKeys {
        PublishedKeys::parse(jwks.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_published_key_has_only_members_that_sts_accepts() {
        let [one, _] = keys();
        let document = jwks_document(std::slice::from_ref(&one)).to_string();
        assert_eq!(
            document,
            concat!(
                r#"{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","#,
                r#""y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","alg":"ES256","#,
                r#""kid":"cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"}]}"#,
            )
        );
        assert_eq!(document.len() - r#"{"keys":[]}"#.len(), 204);
    }

    #[test]
    fn published_keys_are_compared_with_those_of_the_issuer() {
        let [one, two] = keys();
        let both = parse(&jwks_document(&[one.clone(), two.clone()]));
        assert_eq!(both.has(&one), Ok(true));
        assert_eq!(both.has(&two), Ok(true));
        assert_eq!(both.foreign(&[one.clone(), two.clone()]), []);
        assert_eq!(both.ids(), [one.id().clone(), two.id().clone()]);
        let foreign = ForeignKey { id: Some(two.id().to_string()) };
        assert_eq!(both.foreign(std::slice::from_ref(&one)), [foreign]);
        let first = parse(&jwks_document(std::slice::from_ref(&one)));
        assert_eq!(first.has(&two), Ok(false));
        assert_eq!(parse(&json!({"keys": [], "x": 1})).has(&one), Ok(false));
    }

    /// STS selects the key by its `kid`.
    #[test]
    fn a_foreign_key_with_an_id_of_the_issuer_is_found() {
        let [one, two] = keys();
        let mut jwks = jwks_document(&[one.clone(), two.clone()]);
        jwks["keys"][1]["kid"] = one.id().as_str().into();
        let published = parse(&jwks);
        assert_eq!(published.foreign(std::slice::from_ref(&one)).len(), 1);
        assert_eq!(published.has(&one), Ok(true));
        assert_eq!(published.has(&two), Err(UnusableKey::KeyId));
    }

    #[test]
    fn any_other_shape_is_a_foreign_key() {
        let [one, _] = keys();
        for other in [
            json!({}),
            json!(null),
            json!(7),
            json!([]),
            json!({"kid": 7, "kty": "EC", "crv": "P-256"}),
            json!({"kid": one.id().as_str(), "kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            json!({"kid": one.id().as_str(), "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
            json!({"kid": one.id().as_str(), "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        ] {
            let mut jwks = jwks_document(std::slice::from_ref(&one));
            jwks["keys"].as_array_mut().unwrap().insert(0, other.clone());
            let published = parse(&jwks);
            assert_eq!(published.foreign(std::slice::from_ref(&one)).len(), 1, "{other}");
            assert_eq!(published.has(&one), Ok(true), "{other}");
        }
        let long = format!(r#"{{"keys":[{{"kid":"{}"}}]}}"#, r"\u00e9".repeat(1000));
        let long = PublishedKeys::parse(long.as_bytes()).unwrap();
        assert_eq!(long.foreign(&[])[0].id.as_ref().unwrap().chars().count(), 64);
    }

    #[test]
    fn a_key_that_sts_refuses_is_named_with_the_reason() {
        let [one, _] = keys();
        for (member, value, want) in [
            ("kid", json!("1"), Err(UnusableKey::KeyId)),
            ("kid", json!(null), Err(UnusableKey::KeyId)),
            ("key_ops", json!(["verify"]), Err(UnusableKey::KeyOperations)),
            ("x5c", json!([]), Err(UnusableKey::X509)),
            ("use", json!("enc"), Err(UnusableKey::Use)),
            ("alg", json!("ES384"), Err(UnusableKey::Algorithm)),
            ("use", json!(null), Ok(true)),
            ("other", json!("x"), Ok(true)),
        ] {
            let mut jwks = jwks_document(std::slice::from_ref(&one));
            jwks["keys"][0][member] = value;
            let published = parse(&jwks);
            assert_eq!(published.has(&one), want, "{member}");
            assert_eq!(published.foreign(std::slice::from_ref(&one)), [], "{member}");
        }
    }

    #[test]
    fn only_a_short_jwk_set_is_read() {
        let read = |text: &str| PublishedKeys::parse(text.as_bytes()).map(drop);
        for text in [
            "",
            "[]",
            "{}",
            "null",
            r#"{"keys":{}}"#,
            r#"{"keys":null}"#,
            "<html>",
            "{\"keys\":[]}x",
        ] {
            assert!(matches!(read(text), Err(NotAJwks::Json)), "{text}");
        }
        let many = |count| json!({"keys": vec![json!({}); count]}).to_string();
        assert!(read(&many(200)).is_ok());
        assert!(matches!(read(&many(201)), Err(NotAJwks::Keys)));
        assert!(matches!(read(&" ".repeat(262_145)), Err(NotAJwks::Length(262_145))));
        // Readers differ in which one they take.
        for twice in [
            r#"{"keys":[],"keys":[{}]}"#,
            r#"{"keys":[{"x":"a","x":"b"}]}"#,
            r#"{"keys":[],"k\u0065ys":[]}"#,
            r#"{"keys":[],"Keys":[{}]}"#,
            r#"{"keys":[{"kid":"é"}]}"#,
            r#"{"keys":[{"n":{"a":null,"a":[1.5,-1,true]}}]}"#,
        ] {
            assert!(matches!(read(twice), Err(NotAJwks::Ambiguous)), "{twice}");
        }
        assert!(read(r#"{"keys":[{"x":"a"},{"x":"a","n":[{}, 1, -1, 1.5, true, null]}]}"#).is_ok());
    }

    proptest! {
        #[test]
        fn a_foreign_jwk_set_is_read_without_a_panic(text: String, bytes: Vec<u8>, x: String) {
            let _ = PublishedKeys::parse(text.as_bytes());
            let _ = PublishedKeys::parse(&bytes);
            let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": text, "kid": x});
            let jwks = json!({"keys": [jwk]}).to_string();
            match PublishedKeys::parse(jwks.as_bytes()) {
                Ok(published) => prop_assert_eq!(published.foreign(&keys()).len(), 1),
                Err(_) => prop_assert!(!jwks.is_ascii()),
            }
        }
    }
}
