//! Evaluation of the trust policy of a session role.

use serde_json::{Value, json};

use crate::caller::{
    ACCOUNT, BASE, REGION, SESSION, assume, aws, base, permit, policy, trust, trust_if,
};
use strict_aws::{Association, Aws, Cluster, NotAWorld, Role, World, tokens::Issuer};

#[test]
fn the_condition_restricts_source_identities() {
    let like = json!({"StringLike": {"sts:SourceIdentity": "agent.acme.*"}});
    let equals = json!({"StringEquals": {"sts:SourceIdentity": ["agent.acme.*", "alice"]}});
    let both = json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
    let cases = [
        (&like, Some("agent.acme.s"), None),
        (&like, Some("agent.acme2.s"), Some("sts:AssumeRole")),
        (&like, None, Some("sts:AssumeRole")),
        (&equals, Some("alice"), None),
        (&equals, Some("agent.acme.s"), Some("sts:AssumeRole")),
    ];
    for (condition, identity, denied) in cases {
        let error = ask(trust_if(&json!({"AWS": BASE}), &both, condition), identity);
        assert_denies(error.as_deref(), denied, condition);
    }
}

#[test]
fn a_key_is_absent_for_actions_that_do_not_have_it() {
    let principal = json!({"AWS": BASE});
    let named = json!({"StringEquals": {"sts:RoleSessionName": "session-0"}});
    let both = json!(["sts:AssumeRole", "sts:SetSourceIdentity"]);
    // One statement for both actions: SetSourceIdentity lacks the key RoleSessionName.
    let one = trust_if(&principal, &both, &named);
    assert_denies(ask(one.clone(), None).as_deref(), None, &named);
    assert_denies(ask(one, Some("alice")).as_deref(), Some("sts:SetSourceIdentity"), &named);
    // Two statements, each with the keys of its action.
    let two = policy(json!([
        {
            "Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole",
            "Condition": named,
        },
        {
            "Effect": "Allow", "Principal": principal, "Action": "sts:SetSourceIdentity",
            "Condition": {"StringEquals": {"sts:SourceIdentity": "alice"}},
        },
    ]));
    assert_denies(ask(two.clone(), Some("alice")).as_deref(), None, &named);
    assert_denies(ask(two, Some("bob")).as_deref(), Some("sts:SetSourceIdentity"), &named);
}

#[test]
fn an_explicit_deny_takes_precedence() {
    let deny = |identity: &str| {
        policy(json!([
            {
                "Effect": "Allow", "Principal": {"AWS": BASE},
                "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
            },
            {
                "Effect": "Deny", "Principal": "*", "Action": "sts:SetSourceIdentity",
                "Condition": {"StringEquals": {"sts:SourceIdentity": identity}},
            },
        ]))
    };
    assert_eq!(ask(deny("bob"), Some("alice")), None);
    let error = ask(deny("alice"), Some("alice")).unwrap();
    assert!(error.ends_with("with an explicit deny in the role trust policy"), "{error}");
}

#[test]
fn the_external_id_is_compared() {
    let condition = json!({"StringEquals": {"sts:ExternalId": "shared"}});
    let document = trust_if(&json!({"AWS": BASE}), &json!("sts:AssumeRole"), &condition);
    let aws = aws(world(document));
    let ask = |more: &[(&str, &str)]| assume(&aws, &base(&aws), SESSION, more).status;
    assert_eq!(ask(&[("ExternalId", "shared")]), 200);
    assert_eq!(ask(&[("ExternalId", "other")]), 403);
    assert_eq!(ask(&[]), 403);
}

#[test]
fn role_tags_are_principal_tags() {
    let condition = json!({"StringEquals": {"aws:PrincipalTag/Team": "acme"}});
    let document = trust_if(&json!({"AWS": BASE}), &json!("sts:AssumeRole"), &condition);
    for (tags, want) in [(vec![("team", "acme")], 200), (vec![("team", "x")], 403), (vec![], 403)] {
        let mut caller = Role::new(BASE).trust(trust(&json!("*"), &json!("sts:AssumeRole")));
        for (key, value) in tags {
            caller = caller.tag(key, value);
        }
        let session = Role::new(SESSION).trust(document.clone());
        let aws = aws(World::new(ACCOUNT, REGION).role(caller).role(session));
        assert_eq!(assume(&aws, &base(&aws), SESSION, &[]).status, want);
    }
}

#[test]
fn an_invalid_world_is_an_error() {
    let session = |document| Role::new(SESSION).trust(document);
    let good = || trust(&json!({"AWS": BASE}), &json!("sts:AssumeRole"));
    let unknown = json!({"StringEquals": {"aws:NoSuchKey": "x"}});
    let typo = trust_if(&json!({"AWS": BASE}), &json!("sts:AssumeRole"), &unknown);
    let stranger = trust(&json!({"AWS": format!("{BASE}2")}), &json!("sts:AssumeRole"));
    let start = || World::new(ACCOUNT, REGION).role(Role::new(BASE).trust(good()));
    let issuer = Issuer::new("https://oidc.test/id").unwrap();
    let cluster = || Cluster::new("dev", "https://oidc.test/id", issuer.jwks());
    let cases = [
        (start().role(session(good())), true),
        (start().role(session(typo)), false),
        (start().role(session(stranger)), false),
        (start().role(Role::new(SESSION)), false),
        (start().role(session(good()).max_session_duration(43_201)), false),
        (start().role(session(good()).policy(json!({}))), false),
        (start().role(session(good()).boundary(json!({}))), false),
        (start().role(Role::new(BASE).trust(good())), false),
        (start().cluster(cluster()).association(Association::new("ns", "sa", BASE)), true),
        (start().association(Association::new("ns", "sa", BASE)), false),
        (start().cluster(cluster()).association(Association::new("ns", "sa", SESSION)), false),
        (start().cluster(Cluster::new("dev", "https://oidc.test/id", json!({}))), false),
    ];
    for (index, (world, stands)) in cases.into_iter().enumerate() {
        let found: Result<Aws, NotAWorld> = Aws::new(world);
        assert_eq!(found.is_ok(), stands, "case {index}: {found:?}");
    }
}

/// Returns the error of the base role's AssumeRole call for a role with this trust policy.
fn ask(document: Value, identity: Option<&str>) -> Option<String> {
    let aws = aws(world(document));
    let more: Vec<(&str, &str)> =
        identity.map(|identity| ("SourceIdentity", identity)).into_iter().collect();
    assume(&aws, &base(&aws), SESSION, &more).error()
}

fn world(document: Value) -> World {
    let caller = Role::new(BASE)
        .trust(trust(&json!("*"), &json!("sts:AssumeRole")))
        .policy(permit("Allow", &json!("sts:*")));
    World::new(ACCOUNT, REGION).role(caller).role(Role::new(SESSION).trust(document))
}

fn assert_denies(error: Option<&str>, action: Option<&str>, condition: &Value) {
    match action {
        None => assert_eq!(error, None, "{condition}"),
        Some(action) => {
            let want = format!("because no role trust policy allows the {action} action");
            assert!(error.is_some_and(|error| error.ends_with(&want)), "{condition}: {error:?}");
        }
    }
}
