//! What a session issuer needs in IAM: its OIDC provider, the trust of the session role in it, and
//! its own permissions.

use serde_json::{Value, json};

use super::{Account, Parameter, policy};
use crate::session::{
    ClientId, DISCOVERY_FILE, IssuerUrl, KEYS_FILE, OnBehalfOf, RoleArn, SourceIdentity,
};

/// The session issuer that a session role trusts.
#[derive(Clone, Debug)]
pub struct IssuerTrust {
    pub url: IssuerUrl,
    pub client_id: ClientId,
    /// The ARNs of its keys in KMS.
    pub keys: Vec<String>,
    /// Maximum lifetime of sessions, in seconds.
    pub session_seconds: u64,
    /// Whether its tokens may say on whose behalf a session runs.
    pub on_behalf_of: bool,
}

/// Returns the ARN of the issuer's provider in the account of the session role.
pub fn provider_arn(url: &IssuerUrl, role: &RoleArn) -> String {
    let name = url.host_and_path();
    format!("arn:{}:iam::{}:oidc-provider/{name}", role.partition(), role.account())
}

/// Returns the input of iam:CreateOpenIDConnectProvider.
pub(super) fn provider(issuer: &IssuerTrust) -> Value {
    json!({"Url": issuer.url.as_str(), "ClientIDList": [issuer.client_id.as_str()]})
}

/// The bucket that the issuer's URL names.
pub(super) struct FilesBucket<'u> {
    pub(super) name: &'u str,
    partition: &'static str,
    /// Path of the files in it, if they are not at its top.
    path: Option<&'u str>,
}

/// Returns the bucket if the host is that of one in S3.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html>
pub(super) fn bucket(issuer: &IssuerTrust) -> Option<FilesBucket<'_>> {
    let (host, path) = match issuer.url.host_and_path().split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (issuer.url.host_and_path(), None),
    };
    let (name, rest) = host.split_once(".s3.")?;
    let (region, domain) = rest.split_once('.')?;
    let partition = match domain {
        "amazonaws.com" if region.starts_with("us-gov-") => "aws-us-gov",
        "amazonaws.com" => "aws",
        "amazonaws.com.cn" => "aws-cn",
        _ => return None,
    };
    Some(FilesBucket { name, partition, path })
}

/// Reports whether the issuer's URL is that of a bucket in S3.
pub fn names_bucket(issuer: &IssuerTrust) -> bool {
    bucket(issuer).is_some()
}

/// Returns the policy of the bucket with the public files. None: the URL names no bucket.
pub(super) fn bucket_policy(issuer: &IssuerTrust) -> Option<Value> {
    let FilesBucket { name, partition, path } = bucket(issuer)?;
    let bucket = format!("arn:{partition}:s3:::{name}");
    let folder = path.map_or_else(|| bucket.clone(), |path| format!("{bucket}/{path}"));
    let files = [KEYS_FILE, DISCOVERY_FILE].map(|file| format!("{folder}/{file}"));
    Some(policy(&[
        json!({
            "Sid": "PublicFiles",
            "Effect": "Allow",
            "Principal": "*",
            "Action": "s3:GetObject",
            "Resource": files,
        }),
        // The creator of a bucket of the same name could sign for every role that trusts the issuer.
        json!({
            "Sid": "NoDeletion",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:DeleteBucket",
            "Resource": bucket,
        }),
    ]))
}

/// Returns the permissions of the issuer's own role. None: it needs none.
pub(super) fn permissions(issuer: &IssuerTrust, account: &Account) -> Option<Value> {
    let mut statements = Vec::new();
    if !issuer.keys.is_empty() {
        statements.push(json!({
            "Sid": "SignTokens",
            "Effect": "Allow",
            "Action": ["kms:GetPublicKey", "kms:Sign"],
            "Resource": issuer.keys,
        }));
    }
    statements
        .extend(account.parameter.as_ref().map(|parameter| read_parameters(parameter, account)));
    (!statements.is_empty()).then(|| policy(&statements))
}

/// Returns the statement with which webhook and issuer read the session roles of all tenants.
pub(super) fn read_parameters(parameter: &Parameter, account: &Account) -> Value {
    let Parameter { name: _, names, region } = parameter;
    json!({
        "Sid": "ReadSessionRoles",
        "Effect": "Allow",
        "Action": "ssm:GetParameters",
        "Resource": format!(
            "arn:{}:ssm:{region}:{}:parameter/{}",
            account.session_role.partition(),
            account.cluster_account.as_str(),
            names.trim_start_matches('/'),
        ),
    })
}

/// Returns the statements by which the session role trusts the issuer for the tenant.
///
/// STS checks each action by itself, with the condition keys that this action has. So each has a
/// statement. The call is not signed, so no policy of the caller limits it: the trust policy is all.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecuritytokenservice.html>
pub(super) fn trust(issuer: &IssuerTrust, account: &Account) -> [Value; 3] {
    let role = &account.session_role;
    let name = issuer.url.host_and_path();
    let principal = json!({"Federated": provider_arn(&issuer.url, role)});
    let audience = json!({format!("{name}:aud"): issuer.client_id.as_str()});
    let identities = SourceIdentity::text(&account.tenant, "*");
    let names = json!({format!("{name}:sub"): identities, "sts:SourceIdentity": identities});
    let statement = |sid: &str, action: &str, condition: Value| {
        json!({
            "Sid": sid,
            "Effect": "Allow",
            "Principal": principal,
            "Action": action,
            "Condition": condition,
        })
    };
    [
        statement(
            "IssuedSessionsOfTenant",
            "sts:AssumeRoleWithWebIdentity",
            json!({
                "StringEquals": audience,
                "StringLike": names,
                // The token must name this role.
                "Bool": {"sts:RoleAuthorizedByIdp": "true"},
            }),
        ),
        statement(
            "IssuedIdentitiesOfTenant",
            "sts:SetSourceIdentity",
            json!({"StringEquals": audience, "StringLike": names}),
        ),
        statement(
            "TagsOfIssuer",
            "sts:TagSession",
            json!({
                "StringEquals": audience,
                "ForAllValues:StringEquals": {"aws:TagKeys": token_tags(issuer.on_behalf_of)},
            }),
        ),
    ]
}

/// Returns the keys of the session tags in the issuer's tokens.
pub fn token_tags(on_behalf_of: bool) -> Vec<&'static str> {
    let mut tags = vec!["kubernetes-namespace", "kubernetes-pod-uid"];
    tags.extend(on_behalf_of.then_some(OnBehalfOf::TAG));
    tags
}
