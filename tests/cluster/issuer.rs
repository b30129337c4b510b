//! The JWTs of the session issuer, in the verifiers of others: PyJWT, jose, go-jose and an API
//! server. Keys in moto's KMS and in the stand-in.

mod kube_apiserver;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use fab_session_injector::issuer::{
    Claims, JwtId, PublicKey, Signature, SigningInput, jwks_document,
};
use harness::{
    kms::{Kms, KmsFault},
    moto::Moto,
    process::program,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::web_identity::issuer_process::IssuerProcess;

const ISSUER: &str = "https://issuer.example.com/prod";
const CLIENT_ID: &str = "fab-session/prod";
const VERIFIERS: [&str; 3] = ["client-jwt-go", "client-jwt-javascript", "client-jwt-python"];

/// A key in memory.
struct Signer {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl Signer {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = PublicKey::of_private_key(pair.to_pkcs8v1().unwrap().as_ref()).unwrap();
        Self { pair, public }
    }

    fn signature(&self, message: &[u8]) -> Signature {
        let signature = self.pair.sign(&SystemRandom::new(), message).unwrap();
        Signature::from_fixed(signature.as_ref()).unwrap()
    }

    fn jwt(&self, now: SystemTime) -> String {
        let input = input(&self.public, now);
        let signature = self.signature(input.as_bytes());
        input.signed_with(&signature).unwrap().expose().to_owned()
    }

    /// Signs any header and claims.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_bytes()))
    }

    fn jwks(&self) -> Value {
        jwks_document(std::slice::from_ref(&self.public))
    }
}

fn input(key: &PublicKey, now: SystemTime) -> SigningInput {
    Claims {
        issuer: &ISSUER.parse().unwrap(),
        client_id: &CLIENT_ID.parse().unwrap(),
        source_identity: &"agent.acme.fab-coder-x7k2p".parse().unwrap(),
        role: &"arn:aws:iam::111122223333:role/prod-acme-broker".parse().unwrap(),
        namespace: &"tenants-acme".parse().unwrap(),
        pod_uid: &"0e1c7c2b-8a52-4c4f-9d0e-6f2a3b4c5d6e".parse().unwrap(),
        on_behalf_of: None,
        id: JwtId::of_random([7; 16]),
    }
    .to_sign(key, now)
}

#[allow(clippy::disallowed_methods, reason = "the verifiers have their own clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

/// Returns a part of a JWT: 0 is the header, 1 the claims.
fn part(jwt: &str, index: usize) -> Value {
    let part = jwt.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// Verifies JWTs, each with its JWKS; returns claims or error.
fn verify(verifier: &str, cases: &[(&str, &Value)]) -> Vec<Result<Value, String>> {
    let program = program(verifier);
    assert!(program.exists(), "no {}: run `make test`, which builds it", program.display());
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut answers = Vec::new();
    for (token, jwks) in cases {
        let line = json!({"token": token, "jwks": jwks, "issuer": ISSUER, "audience": CLIENT_ID});
        writeln!(input, "{line}").unwrap();
        let line = lines.next().unwrap_or_else(|| panic!("{verifier} ended")).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        answers.push(match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["claims"].clone()),
        });
    }
    drop(input);
    assert!(child.wait().unwrap().success(), "{verifier}");
    answers
}

fn is_accepted(jwt: &str, jwks: &Value) {
    for verifier in VERIFIERS {
        let answer = verify(verifier, &[(jwt, jwks)]).swap_remove(0);
        assert_eq!(answer, Ok(part(jwt, 1)), "{verifier}");
    }
}

#[test]
fn other_verifiers_accept_only_the_untouched_jwt() {
    let (signer, other) = (Signer::new(), Signer::new());
    let jwt = signer.jwt(now());
    let (header, claims) = (part(&jwt, 0), part(&jwt, 1));
    let parts: Vec<&str> = jwt.split('.').collect();
    let both = jwks_document(&[other.public.clone(), signer.public.clone()]);
    let with = |part: &Value, key: &str, value: Value| {
        let mut changed = part.clone();
        changed[key] = value;
        changed
    };
    let without = |part: &Value, key: &str| {
        let mut changed = part.clone();
        changed.as_object_mut().unwrap().remove(key);
        changed
    };
    let foreign = with(&claims, "sub", "agent.acme.other".into());
    let none = with(&header, "alg", "none".into());
    let hs256 = with(&header, "alg", "HS256".into());
    // The public key as the shared secret.
    let secret = serde_json::to_vec(&signer.jwks()["keys"][0]).unwrap();
    let signed = format!("{}.{}", encoded(&hs256), encoded(&claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
    let zero = URL_SAFE_NO_PAD.encode([0; 64]);
    let no_kid = without(&header, "kid");
    let tampered = [
        ("payload", format!("{}.{}.{}", parts[0], encoded(&foreign), parts[2]), &both),
        (
            "role",
            format!(
                "{}.{}.{}",
                parts[0],
                encoded(&with(
                    &claims,
                    "https://aws.amazon.com/roles",
                    json!(["arn:aws:iam::111122223333:role/admin"])
                )),
                parts[2]
            ),
            &both,
        ),
        ("other key", other.sign(&header, &claims), &both),
        ("alg none", format!("{}.{}.", encoded(&none), parts[1]), &both),
        (
            "alg none with a signature",
            format!("{}.{}.{}", encoded(&none), parts[1], parts[2]),
            &both,
        ),
        ("alg HS256", format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)), &both),
        ("zero signature", format!("{}.{}.{zero}", parts[0], parts[1]), &both),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), &both),
        ("kid removed", format!("{}.{}.{}", encoded(&no_kid), parts[1], parts[2]), &both),
        ("unknown kid", signer.sign(&with(&header, "kid", "1".into()), &claims), &both),
        ("key not published", jwt.clone(), &other.jwks()),
        ("expired", signer.jwt(now() - Duration::from_secs(180)), &both),
        (
            "other issuer",
            signer.sign(&header, &with(&claims, "iss", "https://issuer.example.com".into())),
            &both,
        ),
        (
            "other audience",
            signer.sign(&header, &with(&claims, "aud", "sts.amazonaws.com".into())),
            &both,
        ),
    ];
    for verifier in VERIFIERS {
        let good = [(&*jwt, &both), (&*jwt, &signer.jwks())].map(|(jwt, jwks)| (jwt, jwks.clone()));
        let good: Vec<(&str, &Value)> = good.iter().map(|(jwt, jwks)| (*jwt, jwks)).collect();
        for answer in verify(verifier, &good) {
            assert_eq!(answer.as_ref(), Ok(&claims), "{verifier}");
        }
        let cases: Vec<(&str, &Value)> =
            tampered.iter().map(|(_, jwt, jwks)| (&**jwt, *jwks)).collect();
        for ((what, ..), answer) in tampered.iter().zip(verify(verifier, &cases)) {
            assert!(answer.is_err(), "{verifier} accepts {what}: {answer:?}");
        }
    }
}

/// A config with keys in KMS, and the environment in which the program finds them.
struct Export {
    directory: TempDir,
    endpoint: String,
}

impl Export {
    fn of(endpoint: &str, keys: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys: Vec<String> = keys
            .iter()
            .map(|(arn, state)| format!("    - {{kms: '{arn}', state: {state}}}\n"))
            .collect();
        let config = format!(
            "cluster: prod
roles: {{ssm: {{}}, allow: {{accounts: ['111122223333']}}}}
issuer:
  url: {ISSUER}
  endpoint: https://injector-issuer.fab-system.svc/v1/token
  caFile: ca.crt
  keys:
{}",
            keys.concat()
        );
        fs::write(directory.path().join("config.yaml"), config).unwrap();
        Self { directory, endpoint: endpoint.to_owned() }
    }

    fn run(&self) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fab-session-injector"))
            .args(["issuer", "export", "--config=config.yaml", "--out=published"])
            .current_dir(&self.directory)
            .env("AWS_ENDPOINT_URL_KMS", &self.endpoint)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            // The region is that of each key.
            .env("AWS_REGION", "us-east-1")
            .output()
            .unwrap()
    }

    fn jwks(&self) -> Value {
        let output = self.run();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = fs::read_to_string(self.directory.path().join("published/keys.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Runs it; returns what it says on failure.
    fn fails(&self) -> String {
        let output = self.run();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(!self.directory.path().join("published").exists(), "{said}");
        said
    }
}

fn create_key(moto: &Moto, spec: &str, usage: &str) -> String {
    let created = moto.kms("CreateKey", &json!({"KeySpec": spec, "KeyUsage": usage}));
    created["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

#[test]
fn other_verifiers_accept_the_jwt_of_a_running_issuer() {
    let kms = Kms::start();
    let issuer = IssuerProcess::start_with_key_in(&kms);
    let (status, answer) = issuer.ask_for(&issuer.pod("a", |_| {}));
    assert_eq!(status, 200, "{answer}");
    let published = fs::read(issuer.published().join("keys.json")).unwrap();
    is_accepted(answer["token"].as_str().unwrap(), &serde_json::from_slice(&published).unwrap());
}

/// moto signs the SHA-256 of a digest, so it gets the text. A test with the stand-in signs digests.
#[test]
fn a_jwt_that_moto_signs_is_accepted_with_the_exported_key() {
    let moto = Moto::start();
    let arns = [(); 2].map(|()| create_key(&moto, "ECC_NIST_P256", "SIGN_VERIFY"));
    let jwks = Export::of(&moto.endpoint(), &[(&arns[0], "next"), (&arns[1], "signing")]).jwks();
    let got = moto.kms("GetPublicKey", &json!({"KeyId": arns[1]}));
    let spki = STANDARD.decode(got["PublicKey"].as_str().unwrap()).unwrap();
    let key = PublicKey::from_spki(&spki).unwrap();
    assert_eq!(jwks["keys"][1]["kid"], key.id().as_str());
    let sign = |message: &[u8], kind: &str| {
        let signed = moto.kms(
            "Sign",
            &json!({
                "KeyId": arns[1],
                "Message": STANDARD.encode(message),
                "MessageType": kind,
                "SigningAlgorithm": "ECDSA_SHA_256",
            }),
        );
        let der = STANDARD.decode(signed["Signature"].as_str().unwrap()).unwrap();
        Signature::from_der(&der).unwrap()
    };
    for _ in 0..20 {
        let input = input(&key, now());
        let signature = sign(input.as_bytes(), "RAW");
        is_accepted(input.signed_with(&signature).unwrap().expose(), &jwks);
    }
    let input = input(&key, now());
    let of_digest = sign(&input.digest(), "DIGEST");
    assert!(input.signed_with(&of_digest).is_err(), "moto signs digests: sign them here");
}

#[test]
fn a_kms_key_of_another_kind_is_refused_with_its_reason() {
    let moto = Moto::start();
    let good = create_key(&moto, "ECC_NIST_P256", "SIGN_VERIFY");
    let create = "create one with the key spec ECC_NIST_P256 and the usage SIGN_VERIFY";
    // moto returns no key spec.
    let not_p_256 = "has a public key that is not of the curve P-256";
    let kms = Kms::start();
    let good_of_kms = kms.create_key();
    let of_moto = |spec, usage| (moto.endpoint(), &good, create_key(&moto, spec, usage));
    let of_kms = |spec, usage| (kms.endpoint(), &good_of_kms, kms.create_key_with(spec, usage));
    for ((endpoint, good, arn), wanted) in [
        (of_moto("RSA_2048", "SIGN_VERIFY"), not_p_256),
        (of_moto("ECC_NIST_P384", "SIGN_VERIFY"), not_p_256),
        (of_moto("ECC_SECG_P256K1", "SIGN_VERIFY"), not_p_256),
        (of_moto("RSA_2048", "ENCRYPT_DECRYPT"), "has the usage ENCRYPT_DECRYPT"),
        (of_kms("ECC_NIST_P521", "SIGN_VERIFY"), "has the key spec ECC_NIST_P521"),
        (of_kms("ECC_NIST_P256", "KEY_AGREEMENT"), "has the usage KEY_AGREEMENT"),
    ] {
        let said = Export::of(&endpoint, &[(good, "signing"), (&arn, "next")]).fails();
        for part in ["issuer.keys[1]", &arn, wanted, create] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let unknown = format!("{}00000000-0000-4000-8000-000000000000", &good[..good.len() - 36]);
    let said = Export::of(&moto.endpoint(), &[(&good, "signing"), (&unknown, "next")]).fails();
    for part in
        ["issuer.keys[1]", &unknown, "NotFoundException", "set the ARN of a key that exists"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_kms_that_does_not_give_a_key_is_named_with_the_remedy() {
    let kms = Kms::start();
    let (one, two) = (kms.create_key(), kms.create_key());
    let export = Export::of(&kms.endpoint(), &[(&one, "signing"), (&two, "old")]);
    for (fault, wanted) in [
        (KmsFault::Denied, ["AccessDeniedException", "grant kms:GetPublicKey and kms:Sign"]),
        (KmsFault::Hang, ["KMS did not answer", "set AWS credentials"]),
        (KmsFault::Internal, ["KMSInternalException", "try again"]),
        (KmsFault::Throttled, ["ThrottlingException", "try again"]),
    ] {
        kms.fail(Some(fault));
        let said = export.fails();
        assert!(wanted.iter().all(|part| said.contains(part)), "{wanted:?}: {said}");
        assert!(said.contains("issuer.keys[") && said.contains(":key/"), "{said}");
    }
    kms.fail(None);
    kms.disable(&two);
    let said = export.fails();
    for part in ["issuer.keys[1]", &two, "DisabledException", "enable the key, or remove it"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let jwks = Export::of(&kms.endpoint(), &[(&one, "signing")]).jwks();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
    assert!(kms.calls().iter().all(|call| call == "GetPublicKey"), "{:?}", kms.calls());
}
