//! IAM OIDC providers: their URL and client IDs, the files that their issuers publish, and the keys
//! in them.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

use crate::caller::{
    ACCOUNT, CLIENT, FOREIGN, INVALID, ISSUER, NO_KEY, PROVIDER, REGION, SESSION, SUBJECT, aws,
    claims, federated, federation, now, show, sts, trust,
};
use strict_aws::{
    Aws, Cluster, NotAWorld, Outage, Provider, Role, World, config,
    tokens::{Algorithm, Issuer},
};

#[test]
fn a_token_of_a_provider_starts_a_session() {
    for algorithm in [Algorithm::Es256, Algorithm::Rs256] {
        let issuer = Issuer::with(ISSUER, algorithm).unwrap();
        let aws = federated(&issuer, trusted());
        let reply = show(&aws, &issuer.sign(&claims(&issuer, json!({}))), &[]);
        assert_eq!(reply.error(), None);
        assert_eq!(reply.element("SubjectFromWebIdentityToken"), Some(SUBJECT));
        assert_eq!(reply.element("Audience"), Some(CLIENT));
        assert_eq!(reply.element("Provider"), Some(PROVIDER));
        let who = sts(&aws, &reply.credentials(), now(), &[("Action", "GetCallerIdentity")]);
        let arn = "arn:aws:sts::111122223333:assumed-role/acme-session/session-0";
        assert_eq!(who.element("Arn"), Some(arn));
    }
}

#[test]
fn the_url_of_a_provider_has_neither_port_nor_query() {
    let cases = [
        ("https://issuer.test", true),
        ("https://issuer.test/a/b/", true),
        ("http://issuer.test", false),
        ("issuer.test", false),
        ("https://", false),
        ("https://issuer.test:443", false),
        ("https://issuer.test/a?b=c", false),
        ("https://issuer.test/a#b", false),
        ("https://user@issuer.test", false),
        // Tokens of AWS itself (GetWebIdentityToken).
        ("https://0a1b.tokens.sts.global.api.aws", false),
    ];
    for (url, valid) in cases {
        let world = World::new(ACCOUNT, REGION).provider(Provider::new(url, [CLIENT]));
        assert_eq!(Aws::new(world).is_ok(), valid, "{url}");
    }
}

#[test]
fn a_provider_has_client_ids_of_its_own() {
    let many = |count: usize| (0..count).map(|index| format!("client-{index}")).collect();
    let cases: [(Vec<String>, bool); 5] = [
        (many(1), true),
        (many(100), true),
        (many(0), false),
        (many(101), false),
        (vec![CLIENT.to_owned(), "sts.amazonaws.com".to_owned()], false),
    ];
    for (client_ids, valid) in cases {
        let world = World::new(ACCOUNT, REGION).provider(Provider::new(ISSUER, client_ids));
        assert_eq!(Aws::new(world).is_ok(), valid);
    }
}

#[test]
fn an_account_has_one_provider_of_an_issuer() {
    let provider = || Provider::new(ISSUER, [CLIENT]);
    let jwks = || Issuer::new(ISSUER).unwrap().jwks();
    let cases = [
        (World::new(ACCOUNT, REGION).provider(provider().account("444455556666")), true),
        (World::new(ACCOUNT, REGION).provider(provider()), false),
        (World::new(ACCOUNT, REGION).cluster(Cluster::new("dev", ISSUER, jwks())), false),
    ];
    for (world, valid) in cases {
        let made = Aws::new(world.provider(provider()));
        assert_eq!(made.is_ok(), valid);
        assert!(valid || matches!(made, Err(NotAWorld::ProviderTwice(_))));
    }
}

#[test]
fn the_issuer_is_the_url_to_the_slash() {
    let (_, aws) = federation();
    for (url, valid) in [
        (ISSUER, true),
        ("https://issuer.test/dev/", false),
        ("https://issuer.test/de", false),
        ("https://issuer.test/dev/more", false),
        ("https://Issuer.test/dev", false),
        ("issuer.test/dev", false),
    ] {
        let issuer = Issuer::new(ISSUER).unwrap();
        aws.publish(ISSUER, issuer.discovery(), issuer.jwks());
        let token = issuer.sign(&claims(&issuer, json!({"iss": url})));
        let want = format!(
            "InvalidIdentityToken: No OpenIDConnect provider found in your account for {url}"
        );
        assert_eq!(show(&aws, &token, &[]).error(), (!valid).then_some(want));
    }
}

#[test]
fn provider_and_role_are_in_one_account() {
    let issuer = Issuer::new(ISSUER).unwrap();
    let token = issuer.sign(&claims(&issuer, json!({})));
    let web = json!("sts:AssumeRoleWithWebIdentity");
    let foreign = "arn:aws:iam::444455556666:oidc-provider/issuer.test/dev";
    // The provider of this account, and one that another account has registered.
    for (trusted, registered, allowed) in
        [(PROVIDER, false, false), (PROVIDER, true, false), (foreign, true, true)]
    {
        let role = Role::new(FOREIGN).trust(trust(&json!({"Federated": trusted}), &web));
        let world = World::new(ACCOUNT, REGION).provider(Provider::new(ISSUER, [CLIENT]));
        let world = match registered {
            true => world.provider(Provider::new(ISSUER, [CLIENT]).account("444455556666")),
            false => world,
        };
        let aws = aws(world.role(role));
        aws.publish(ISSUER, issuer.discovery(), issuer.jwks());
        let error = show(&aws, &token, &[("RoleArn", FOREIGN)]).error();
        assert_eq!(error.is_none(), allowed, "{trusted} {registered}: {error:?}");
        if !registered {
            assert!(error.unwrap().contains("No OpenIDConnect provider found in your account"));
        }
    }
}

#[test]
fn the_discovery_document_has_all_fields() {
    let (issuer, aws) = federation();
    let token = issuer.sign(&claims(&issuer, json!({})));
    let cases = [
        ("response_types_supported", json!(["code", "id_token"]), true),
        ("jwks_uri", json!("https://keys.test/jwks"), true),
        ("issuer", json!("https://issuer.test/dev/"), false),
        ("issuer", json!("https://issuer.test"), false),
        ("issuer", Value::Null, false),
        ("jwks_uri", json!("http://issuer.test/dev/jwks"), false),
        ("jwks_uri", json!("/dev/jwks"), false),
        ("jwks_uri", Value::Null, false),
        ("response_types_supported", json!(["code"]), false),
        ("response_types_supported", Value::Null, false),
        ("subject_types_supported", json!(["pairwise"]), false),
        ("subject_types_supported", Value::Null, false),
        ("claims_supported", Value::Null, false),
        ("id_token_signing_alg_values_supported", Value::Null, false),
    ];
    for (field, value, valid) in cases {
        let mut discovery = issuer.discovery();
        discovery[field] = value;
        aws.publish(ISSUER, discovery.clone(), issuer.jwks());
        let error = show(&aws, &token, &[]).error();
        assert_eq!(error.as_deref(), (!valid).then_some(NO_KEY), "{field} {discovery}");
    }
    // An algorithm that the document does not announce.
    let mut discovery = issuer.discovery();
    discovery["id_token_signing_alg_values_supported"] = json!(["RS256"]);
    aws.publish(ISSUER, discovery, issuer.jwks());
    assert_eq!(show(&aws, &token, &[]).error().as_deref(), Some(INVALID));
}

#[test]
fn a_key_is_valid_as_long_as_it_is_published() {
    let (first, aws) = federation();
    let next = Issuer::new(ISSUER).unwrap();
    let publish = |keys: &[&Issuer]| {
        let keys: Vec<Value> = keys.iter().map(|issuer| key(issuer)).collect();
        aws.publish(ISSUER, first.discovery(), json!({"keys": keys}));
    };
    let ask = |issuer: &Issuer| show(&aws, &issuer.sign(&claims(issuer, json!({}))), &[]).error();
    for (published, valid) in [
        (vec![&first], [true, false]),
        (vec![&first, &next], [true, true]),
        (vec![&next], [false, true]),
        (vec![], [false, false]),
    ] {
        publish(&published);
        for (issuer, valid) in [&first, &next].into_iter().zip(valid) {
            assert_eq!(ask(issuer).as_deref(), (!valid).then_some(NO_KEY));
        }
    }
    assert!(!aws.publish("https://other.test", first.discovery(), first.jwks()));
}

#[test]
fn an_issuer_can_be_out_of_reach() {
    let (issuer, aws) = federation();
    let ask = || show(&aws, &issuer.sign(&claims(&issuer, json!({}))), &[]);
    assert!(aws.interrupt(ISSUER, Outage::Missing));
    assert_eq!(ask().error().as_deref(), Some(NO_KEY));
    assert!(aws.interrupt(ISSUER, Outage::Unreachable));
    let reply = ask();
    assert_eq!(reply.element("Code"), Some("IDPCommunicationError"));
    assert_eq!(reply.status, 400);
    aws.publish(ISSUER, issuer.discovery(), issuer.jwks());
    assert_eq!(ask().error(), None);
    assert!(!aws.interrupt("https://other.test", Outage::Missing));
}

#[test]
fn files_are_read_at_each_call() {
    let issuer = Issuer::new(ISSUER).unwrap();
    let files = Arc::new(Mutex::new(vec![
        (".well-known/openid-configuration".to_owned(), issuer.discovery()),
        (".well-known/jwks.json".to_owned(), issuer.jwks()),
    ]));
    let read = {
        let files = Arc::clone(&files);
        move |path: &str| {
            let files = files.lock().unwrap();
            let found = files.iter().find(|(name, _)| name == path).ok_or(Outage::Missing)?;
            Ok(found.1.to_string().into_bytes())
        }
    };
    let provider = Provider::new(ISSUER, [CLIENT]).files(read);
    let aws = aws(World::new(ACCOUNT, REGION).provider(provider).role(trusted()));
    let ask = || show(&aws, &issuer.sign(&claims(&issuer, json!({}))), &[]).error();
    assert_eq!(ask(), None);
    let change = |index: usize, change: &dyn Fn(&mut (String, Value))| {
        change(&mut files.lock().unwrap()[index]);
    };
    change(1, &|file| file.0 = "moved.json".to_owned());
    assert_eq!(ask().as_deref(), Some(NO_KEY));
    change(0, &|file| file.1["jwks_uri"] = "https://issuer.test/dev/moved.json".into());
    assert_eq!(ask(), None);
    // Files below the URL cannot be those of another host.
    change(0, &|file| file.1["jwks_uri"] = "https://issuer.test/moved.json".into());
    assert_eq!(ask().as_deref(), Some(NO_KEY));
}

#[test]
fn the_program_reads_the_files_of_a_directory() {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let directory = base.join("published");
    let _ = fs::remove_dir_all(&directory);
    let web = json!("sts:AssumeRoleWithWebIdentity");
    let trust = trust(&json!({"Federated": PROVIDER}), &web);
    let yaml = format!(
        "account: '{ACCOUNT}'\nregion: {REGION}\nproviders:\n- {{url: '{ISSUER}', clientIds: \
         ['{CLIENT}'], directory: published}}\nroles:\n- {{arn: '{SESSION}', trust: {trust}}}\n"
    );
    let aws = aws(config::parse(&yaml, base).unwrap());
    let issuer = Issuer::new(ISSUER).unwrap();
    let ask = || show(&aws, &issuer.sign(&claims(&issuer, json!({}))), &[]).error();
    assert!(ask().unwrap().starts_with("IDPCommunicationError"));
    fs::create_dir_all(directory.join(".well-known")).unwrap();
    assert_eq!(ask().as_deref(), Some(NO_KEY));
    let write = |name: &str, value: &Value| {
        fs::write(directory.join(".well-known").join(name), value.to_string()).unwrap();
    };
    write("openid-configuration", &issuer.discovery());
    assert_eq!(ask().as_deref(), Some(NO_KEY));
    write("jwks.json", &issuer.jwks());
    assert_eq!(ask(), None);
    write("jwks.json", &Issuer::new(ISSUER).unwrap().jwks());
    assert_eq!(ask().as_deref(), Some(NO_KEY));
}

#[test]
fn the_header_names_a_published_key() {
    let (issuer, aws) = federation();
    let cases = [
        (json!({}), None),
        (json!({"typ": "JWT"}), None),
        (json!({"kid": "unknown"}), Some(NO_KEY)),
        (json!({"kid": ""}), Some(NO_KEY)),
        (json!({"kid": null}), Some(NO_KEY)),
        (json!({"alg": "RS256"}), Some(INVALID)),
        (json!({"alg": "none"}), Some(INVALID)),
        (
            json!({"crit": ["custom"]}),
            Some(
                "InvalidIdentityToken: The ID Token provided is not a valid JWT. (You may see \
                 this error if you sent an Access Token)",
            ),
        ),
    ];
    for (more, want) in cases {
        let mut header = issuer.header();
        for (name, value) in more.as_object().unwrap() {
            header[name] = value.clone();
        }
        let token = issuer.sign_with(&header, &claims(&issuer, json!({})));
        assert_eq!(show(&aws, &token, &[]).error().as_deref(), want, "{header}");
    }
    let token = issuer.sign(&claims(&issuer, json!({})));
    let other = issuer.sign(&claims(&issuer, json!({"sub": "agent.evil.s"})));
    let (_, signature) = other.rsplit_once('.').unwrap();
    let (signed, _) = token.rsplit_once('.').unwrap();
    let error = show(&aws, &format!("{signed}.{signature}"), &[]).error();
    assert_eq!(error.as_deref(), Some(INVALID), "the signature of another token");
}

#[test]
fn a_key_has_neither_operations_nor_certificate() {
    let (issuer, aws) = federation();
    let cases = [
        (json!({}), None),
        (json!({"use": null, "alg": null}), None),
        (json!({"key_ops": ["verify"]}), Some(INVALID)),
        (json!({"x5c": ["MIIB"]}), Some(NO_KEY)),
        (json!({"use": "enc"}), Some(NO_KEY)),
        (json!({"kid": null}), Some(NO_KEY)),
    ];
    for (more, want) in cases {
        let mut key = key(&issuer);
        for (name, value) in more.as_object().unwrap() {
            match value {
                Value::Null => drop(key.as_object_mut().unwrap().remove(name)),
                value => key[name] = value.clone(),
            }
        }
        aws.publish(ISSUER, issuer.discovery(), json!({"keys": [key]}));
        let token = issuer.sign(&claims(&issuer, json!({})));
        assert_eq!(show(&aws, &token, &[]).error().as_deref(), want, "{more}");
    }
}

#[test]
fn there_are_at_most_100_keys_of_a_type() {
    let (ec, aws) = federation();
    let rsa = Issuer::with(ISSUER, Algorithm::Rs256).unwrap();
    let many = |issuer: &Issuer, count: usize| -> Vec<Value> {
        let numbered = |index: usize| {
            let mut key = key(issuer);
            if index > 0 {
                key["kid"] = format!("key-{index}").into();
            }
            key
        };
        (0..count).map(numbered).collect()
    };
    let mut discovery = ec.discovery();
    discovery["id_token_signing_alg_values_supported"] = json!(["ES256", "RS256"]);
    for (ecs, rsas, valid) in
        [(100, 100, [true, true]), (101, 100, [false, true]), (100, 101, [true, false])]
    {
        let keys: Vec<Value> = [many(&ec, ecs), many(&rsa, rsas)].concat();
        aws.publish(ISSUER, discovery.clone(), json!({"keys": keys}));
        for (issuer, valid) in [&ec, &rsa].into_iter().zip(valid) {
            let error = show(&aws, &issuer.sign(&claims(issuer, json!({}))), &[]).error();
            assert_eq!(error.as_deref(), (!valid).then_some(NO_KEY), "{ecs} {rsas}");
        }
    }
}

fn trusted() -> Role {
    let web = json!("sts:AssumeRoleWithWebIdentity");
    Role::new(SESSION).trust(trust(&json!({"Federated": PROVIDER}), &web))
}

/// Returns the public key of an issuer.
fn key(issuer: &Issuer) -> Value {
    issuer.jwks()["keys"][0].clone()
}
