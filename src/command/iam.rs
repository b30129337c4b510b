//! `iam`: prints the IAM policies and the SSM parameter of one tenant.

use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};

use super::{CommandError, files, print, say};
use crate::{
    cli::{Iam, IamFormat, IamTransport},
    config::{BaseCredentials, Config, KeySource, Region, SessionSource},
    policies::{
        self, Account, BaseRoleTrust, Contradiction, IssuerTrust, Name, Parameter, RestrictTo,
    },
    session::{RoleArn, SessionId, TenantName},
};

pub(super) fn run(arguments: Iam) -> Result<ExitCode, CommandError> {
    let Iam {
        tenant,
        base_roles,
        transport,
        session_role,
        cluster,
        namespace,
        region,
        restrict_to,
        cluster_account,
        oidc_issuer,
        service_accounts,
        tags,
        permissions_boundary,
        models,
        suspended_tag,
        config,
        only,
        output,
        deny_without_source_identity,
    } = arguments;
    if let (Some(only), Some(format)) = (only, not_json(output)) {
        return Err(CommandError::Input(anyhow!(
            "--only {only} prints one document as JSON: leave out -o {format}"
        )));
    }
    if only == Some(Name::DenyWithoutSourceIdentity) && !deny_without_source_identity {
        return Err(CommandError::Input(anyhow!(
            "--only deny-without-source-identity needs the flag --deny-without-source-identity: {STOPS} \
             {LAST_STEP}"
        )));
    }
    if only == Some(Name::BaseRoleTrust) && oidc_issuer.is_none() {
        return Err(CommandError::Input(anyhow!(
            "--only base-role-trust needs --oidc-issuer and --service-account"
        )));
    }
    let config = match &cluster {
        Some(cluster) => {
            Config::parse(&json!({"cluster": cluster, "roles": {"ssm": {}}}).to_string())
                .context("--cluster")
        }
        None => files::config(config.as_deref()),
    };
    let config = config.map_err(CommandError::Input)?;
    let issuer = issuer_of(transport, &base_roles, &config).map_err(CommandError::Input)?;
    if transport == IamTransport::WebIdentity {
        let restricts = restrict_to != RestrictTo::Tenant;
        let flags = [
            ("--deny-without-source-identity", deny_without_source_identity),
            ("--oidc-issuer", oidc_issuer.is_some()),
            ("--restrict-to", restricts),
            ("--suspended-tag", suspended_tag.is_some()),
        ];
        let flag = flags.into_iter().find(|(_, is_set)| *is_set).map(|(flag, _)| flag.to_owned());
        let of_base_roles = [Name::BaseRolePolicy, Name::BaseRoleTrust, Name::BoundaryStatement];
        let document = only.filter(|only| of_base_roles.contains(only));
        if let Some(what) = flag.or_else(|| document.map(|only| format!("--only {only}"))) {
            return Err(CommandError::Input(anyhow!(
                "{what} is about base roles, and --transport web-identity has none; leave it out"
            )));
        }
    }
    if transport == IamTransport::Both
        && (suspended_tag.is_some() || restrict_to != RestrictTo::Tenant)
    {
        say(
            "--suspended-tag and --restrict-to limit only sessions with base roles, not those of the session issuer.",
        );
    }
    if let (Some(_), IamFormat::Terraform) = (&issuer, output) {
        return Err(CommandError::Input(anyhow!(
            "-o terraform has no module for the session issuer: leave it out, and use the printed documents"
        )));
    }
    let of_issuer = [Name::BucketPolicy, Name::IssuerPolicy, Name::OidcProvider];
    if let (None, Some(only)) = (&issuer, only.filter(|only| of_issuer.contains(only))) {
        return Err(CommandError::Input(anyhow!(
            "--only {only} needs --transport web-identity or both"
        )));
    }
    if only == Some(Name::BucketPolicy)
        && issuer.as_ref().is_some_and(|issuer| !policies::names_bucket(issuer))
    {
        return Err(CommandError::Input(anyhow!(
            "--only bucket-policy: the URL of the session issuer is not that of an S3 bucket (https://BUCKET.s3.REGION.amazonaws.com/PATH); write the policy of the place with its files yourself"
        )));
    }
    let of_parameter = [Name::Parameter, Name::WebhookPolicy];
    let ssm = config.roles.ssm.as_ref();
    if let (None, Some(only)) = (ssm, only.filter(|only| of_parameter.contains(only))) {
        return Err(CommandError::Input(anyhow!("--only {only}: {STATIC_ROLES}")));
    }
    if let Some(list) = config.roles.allowed.refuses(&session_role) {
        return Err(CommandError::Input(anyhow!(
            "the webhook would not accept --session-role: the config's roles.allow.{list} does not allow it"
        )));
    }
    if matches!(config.base_credentials, BaseCredentials::Irsa(_))
        && restrict_to != RestrictTo::Tenant
    {
        return Err(CommandError::Input(Contradiction::NoSessionTags(restrict_to).into()));
    }
    if cluster.is_none() && contradict(restrict_to, &config) {
        return Err(CommandError::Input(anyhow!(
            "--restrict-to {restrict_to} makes STS deny all pods of a component with another session, and \
             the config has one: set session: {restrict_to} for each component with credentials: sidecar"
        )));
    }
    if let Some((role, roles)) = other_base_role(&base_roles, &tenant, &config) {
        return Err(CommandError::Input(anyhow!(
            "--base-role {role} is not a base role of the config, whose baseCredentials.roleArn gives {roles}; \
             set one of these"
        )));
    }
    if let Some(longest) = too_long(&tenant, &config) {
        return Err(CommandError::Input(anyhow!(
            "--tenant {tenant} has {} characters, but beside the session a SourceIdentity has at most {longest} for \
             it; give the tenant a shorter name",
            tenant.as_str().len()
        )));
    }
    let of_base_roles = || policies::account_of(&base_roles)?.parse().ok();
    // Without base roles, the account of the issuer's key, else that of the session role.
    let of_issuer = || {
        let key = issuer.as_ref()?.keys.first().and_then(|arn| arn.split(':').nth(4));
        let account = key.unwrap_or(session_role.account());
        base_roles.is_empty().then(|| account.parse().ok()).flatten()
    };
    let known = cluster_account.or_else(of_base_roles).or_else(of_issuer);
    let cluster_account = known.ok_or_else(|| {
        CommandError::Input(anyhow!(
            "the base roles are of several accounts; set --cluster-account to the account of the cluster"
        ))
    })?;
    let cluster_region = region.clone().or(config.region.clone());
    let account = Account {
        cluster: config.cluster.clone(),
        cluster_account,
        parameter: ssm.map(|ssm| Parameter {
            name: ssm.parameter.of(&tenant),
            names: ssm.parameter.of_all(),
            region: region
                .or_else(|| ssm.region.clone())
                .or(config.region.clone())
                .map_or_else(|| "*".to_owned(), |region| region.as_str().to_owned()),
        }),
        namespace: namespace.map_or_else(
            || format!("{}{tenant}", config.tenant.namespace_prefix),
            |namespace| namespace.as_str().to_owned(),
        ),
        tenant,
        base_roles,
        issuer,
        base_role_trust: oidc_issuer.map(|issuer| BaseRoleTrust { issuer, service_accounts }),
        session_role,
        restrict_to,
        tags,
        permissions_boundary,
        models,
        suspended_tag,
        deny_without_source_identity,
    };
    if let Some(contradiction) = policies::contradiction(&account) {
        return Err(CommandError::Input(contradiction.into()));
    }
    let documents = policies::documents(&account);
    let text = if let IamFormat::Terraform = output {
        policies::terraform(&account, &cluster_arn(&account, cluster_region)?)
    } else if let IamFormat::AwsCli = output {
        if account.parameter.as_ref().is_some_and(|parameter| parameter.region == "*") {
            return Err(CommandError::Input(anyhow!(
                "-o aws-cli needs the region of the parameters; set --region"
            )));
        }
        policies::aws_cli(&account)
    } else if let Some(only) = only {
        let found = documents.iter().find(|document| document.name == only);
        found.map(|document| format!("{:#}\n", document.body)).unwrap_or_default()
    } else {
        let documents: Vec<Value> = documents
            .iter()
            .map(|document| {
                json!({
                    "name": document.name.as_str(),
                    "accounts": document.accounts,
                    "remark": account.remark(document.name),
                    "document": document.body,
                })
            })
            .collect();
        format!("{:#}\n", Value::from(documents))
    };
    let has = |name: Name| only.is_none_or(|only| only == name);
    if account.models.is_empty() && has(Name::SessionRolePolicy) {
        say(&format!("{}: {}", Name::SessionRolePolicy, Account::ALL_MODELS));
    }
    if deny_without_source_identity && has(Name::DenyWithoutSourceIdentity) {
        say(STOPS);
        say(LAST_STEP);
    }
    if account.parameter.is_none() && only.is_none() {
        say(&format!("parameter and webhook-policy are left out: {STATIC_ROLES}"));
    }
    print(&text)
}

/// Returns what the session role trusts besides base roles.
fn issuer_of(
    transport: IamTransport,
    base_roles: &[RoleArn],
    config: &Config,
) -> anyhow::Result<Option<IssuerTrust>> {
    match (transport, base_roles) {
        (IamTransport::WebIdentity, [_, ..]) => {
            bail!(
                "--base-role is of the transport role-chain; leave it out, or set --transport both for a migration"
            )
        }
        (IamTransport::RoleChain | IamTransport::Both, []) => {
            bail!("--base-role is required; with --transport web-identity there is none")
        }
        (IamTransport::RoleChain, _) => return Ok(None),
        (IamTransport::WebIdentity | IamTransport::Both, _) => {}
    }
    let issuer = config
        .issuer
        .as_ref()
        .context("--transport needs the section issuer of the config; set --config")?;
    let keys = issuer.keys.iter().filter_map(|key| match &key.source {
        KeySource::Kms(arn) => Some(arn.to_string()),
        KeySource::File(_) => None,
    });
    Ok(Some(IssuerTrust {
        url: issuer.url.clone(),
        client_id: issuer.client_id.clone(),
        keys: keys.collect(),
        session_seconds: issuer.duration.as_secs(),
        on_behalf_of: issuer.on_behalf_of,
    }))
}

/// Returns the name of a format other than JSON.
fn not_json(format: IamFormat) -> Option<&'static str> {
    match format {
        IamFormat::AwsCli => Some("aws-cli"),
        IamFormat::Json => None,
        IamFormat::Terraform => Some("terraform"),
    }
}

/// Returns the ARN of the cluster in EKS, which the Terraform modules take.
fn cluster_arn(account: &Account, region: Option<Region>) -> Result<String, CommandError> {
    let name = account.cluster.as_deref().ok_or_else(|| {
        CommandError::Input(anyhow!(
            "-o terraform needs the name of the cluster; set cluster in the config"
        ))
    })?;
    let region = region.ok_or_else(|| {
        CommandError::Input(anyhow!("-o terraform needs the region of the cluster; set --region"))
    })?;
    Ok(format!(
        "arn:{}:eks:{}:{}:cluster/{name}",
        account.session_role.partition(),
        region.as_str(),
        account.cluster_account.as_str(),
    ))
}

/// Reports whether a component's `session` contradicts `restrict_to`.
///
/// Meant for a config file that is given: no default component has `pod-name` or `pod-uid`.
fn contradict(restrict_to: RestrictTo, config: &Config) -> bool {
    let session = match restrict_to {
        RestrictTo::Tenant => return false,
        RestrictTo::PodName => SessionSource::PodName,
        RestrictTo::PodUid => SessionSource::PodUid,
    };
    // Sessions of claims never use base credentials.
    let sessions = config.components_with_sidecar().map(|component| component.session);
    sessions.filter(|it| *it != SessionSource::SandboxClaim).any(|it| it != session)
}

/// Returns the first base role that the config gives no component, and those that it gives. None:
/// the config names no base role.
fn other_base_role<'r>(
    base_roles: &'r [RoleArn],
    tenant: &TenantName,
    config: &Config,
) -> Option<(&'r RoleArn, String)> {
    let BaseCredentials::Irsa(template) = &config.base_credentials else { return None };
    let components = config.components_with_sidecar();
    let mut roles: Vec<String> =
        components.map(|component| template.of(tenant, component)).collect();
    roles.dedup();
    let other = base_roles.iter().find(|role| roles.iter().all(|it| it != role.as_str()))?;
    Some((other, roles.join(", ")))
}

/// Returns the maximum length of a tenant, if this one is longer: the webhook would refuse its pods.
fn too_long(tenant: &TenantName, config: &Config) -> Option<usize> {
    let mut components = config.components_with_sidecar();
    let id = match components.any(|component| component.session != SessionSource::PodName) {
        true => SessionId::PodUid,
        false => SessionId::PodName,
    };
    (!id.fits(tenant)).then(|| id.longest_tenant())
}

const STOPS: &str = "The policy deny-without-source-identity stops every pod of these base roles that runs without a session, as soon as it is applied, including agents created before the namespace was `enabled`.";
const LAST_STEP: &str =
    "Apply it last: after `enabled`, and after the last pod without a session is gone.";
const STATIC_ROLES: &str = "the config has no roles.ssm, so the webhook reads no parameter; add the session role to its static role file (the chart's value staticRoles)";
