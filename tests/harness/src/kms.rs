//! A stand-in for KMS, for what moto lacks: signatures of digests, denials and faults. Each error is
//! one that AWS documents.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
};

use aws_lc_rs::{
    digest::{Digest, SHA256},
    encoding::AsDer,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{cloud::REGION, stand_in::StandIn};

/// A fault of all further calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KmsFault {
    /// IAM does not allow the call.
    Denied,
    /// No response.
    Hang,
    /// HTTP 500.
    Internal,
    /// The signature of another digest.
    OtherSignature,
    /// The error for too many calls.
    Throttled,
}

/// A running stand-in. Once dropped, it accepts no connections.
pub struct Kms {
    server: StandIn,
    keys: Arc<Mutex<Keys>>,
}

#[derive(Default)]
struct Keys {
    by_arn: HashMap<String, Key>,
    fault: Option<KmsFault>,
    /// Operation of each call.
    calls: Vec<String>,
}

struct Key {
    pair: EcdsaKeyPair,
    is_enabled: bool,
    spec: String,
    usage: String,
}

impl Kms {
    /// Starts without keys.
    pub fn start() -> Self {
        let keys: Arc<Mutex<Keys>> = Arc::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&keys));
        Self { server: StandIn::start(Ipv4Addr::LOCALHOST, router), keys }
    }

    /// Returns the endpoint for AWS clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Creates a key of P-256 for signatures; returns its ARN.
    pub fn create_key(&self) -> String {
        self.create_key_with("ECC_NIST_P256", "SIGN_VERIFY")
    }

    /// Creates a key that claims to have this spec and this usage; returns its ARN.
    pub fn create_key_with(&self, spec: &str, usage: &str) -> String {
        let mut keys = self.keys();
        let number = keys.by_arn.len() + 1;
        let arn =
            format!("arn:aws:kms:{REGION}:111122223333:key/00000000-0000-4000-8000-{number:012}");
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let (spec, usage) = (spec.to_owned(), usage.to_owned());
        keys.by_arn.insert(arn.clone(), Key { pair, is_enabled: true, spec, usage });
        arn
    }

    /// Returns the ARNs of all keys, in the order of their creation.
    pub fn arns(&self) -> Vec<String> {
        let mut arns: Vec<String> = self.keys().by_arn.keys().cloned().collect();
        arns.sort();
        arns
    }

    /// Disables a key.
    pub fn disable(&self, arn: &str) {
        self.keys().by_arn.get_mut(arn).unwrap().is_enabled = false;
    }

    /// Sets or ends a fault.
    pub fn fail(&self, fault: Option<KmsFault>) {
        self.keys().fault = fault;
    }

    /// Returns the operation of each call, such as `Sign`.
    pub fn calls(&self) -> Vec<String> {
        self.keys().calls.clone()
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap()
    }
}

async fn answer(State(keys): State<Arc<Mutex<Keys>>>, request: Request) -> Response {
    let target = request.headers().get("x-amz-target").and_then(|it| it.to_str().ok());
    let operation = target.and_then(|it| it.strip_prefix("TrentService."));
    let operation = operation.unwrap_or_default().to_owned();
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let fault = {
        let mut keys = keys.lock().unwrap();
        keys.calls.push(operation.clone());
        keys.fault
    };
    if fault == Some(KmsFault::Hang) {
        std::future::pending::<()>().await;
    }
    let (status, body) = keys.lock().unwrap().answer(&operation, &body);
    (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}

impl Keys {
    /// <https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html>
    fn answer(&self, operation: &str, body: &[u8]) -> (StatusCode, Bytes) {
        match self.fault {
            Some(KmsFault::Denied) => {
                return error(
                    "AccessDeniedException",
                    &format!(
                        "User: arn:aws:sts::111122223333:assumed-role/issuer/s is not authorized to perform: kms:{operation} on this resource because no resource-based policy allows the kms:{operation} action"
                    ),
                );
            }
            Some(KmsFault::Internal) => {
                let (_, body) = error("KMSInternalException", "An internal error occurred.");
                return (StatusCode::INTERNAL_SERVER_ERROR, body);
            }
            Some(KmsFault::Throttled) => {
                return error(
                    "ThrottlingException",
                    "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
                );
            }
            Some(KmsFault::Hang | KmsFault::OtherSignature) | None => {}
        }
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let arn = request["KeyId"].as_str().unwrap_or_default();
        let Some(Key { pair, is_enabled, spec, usage }) = self.by_arn.get(arn) else {
            return error("NotFoundException", &format!("Key '{arn}' does not exist"));
        };
        if !is_enabled {
            return error("DisabledException", &format!("{arn} is disabled."));
        }
        match operation {
            "GetPublicKey" => {
                let spki = pair.public_key().as_der().unwrap();
                ok(&json!({
                    "KeyId": arn,
                    "KeySpec": spec,
                    "KeyUsage": usage,
                    "PublicKey": STANDARD.encode(spki.as_ref()),
                    "SigningAlgorithms": ["ECDSA_SHA_256"],
                }))
            }
            "Sign" => self.sign(arn, pair, &request),
            _ => error("UnsupportedOperationException", operation),
        }
    }

    /// <https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html>
    fn sign(&self, arn: &str, pair: &EcdsaKeyPair, request: &Value) -> (StatusCode, Bytes) {
        let message = STANDARD.decode(request["Message"].as_str().unwrap_or_default());
        let message = message.unwrap_or_default();
        if request["SigningAlgorithm"] != "ECDSA_SHA_256" {
            return error(
                "InvalidKeyUsageException",
                "Algorithm is incompatible with key spec ECC_NIST_P256.",
            );
        }
        if request["MessageType"] != "DIGEST" || message.len() != 32 {
            return error(
                "ValidationException",
                "Digest is invalid length for algorithm ECDSA_SHA_256.",
            );
        }
        let mut message = message;
        if self.fault == Some(KmsFault::OtherSignature) {
            message[0] ^= 1;
        }
        let digest = Digest::import_less_safe(&message, &SHA256).unwrap();
        let signature = pair.sign_digest(&digest).unwrap();
        ok(&json!({
            "KeyId": arn,
            "Signature": STANDARD.encode(signature.as_ref()),
            "SigningAlgorithm": "ECDSA_SHA_256",
        }))
    }
}

fn ok(body: &Value) -> (StatusCode, Bytes) {
    (StatusCode::OK, body.to_string().into())
}

fn error(code: &str, message: &str) -> (StatusCode, Bytes) {
    (StatusCode::BAD_REQUEST, json!({"__type": code, "message": message}).to_string().into())
}
