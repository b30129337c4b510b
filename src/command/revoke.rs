//! `revoke`: the policy that denies revoked sessions all calls; prints it, or writes it to IAM.

mod iam;
mod protocol;
mod report;
mod target;

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::anyhow;
use aws_config::SdkConfig;
use jiff::Timestamp;

use self::{
    iam::{IamRole, PACE, RoleError},
    protocol::{Done, NotApplied},
    target::{RoleSource, Target},
};
use super::{
    CommandError, aws_shell, cluster::Cluster, iam_roles::IamError, now, output, print, runtime,
    say,
};
use crate::{
    check::Seen,
    cli::{Revoke, RevokeFormat},
    policies,
    revocation::{Change, POLICY_NAME, PresentSessions, Revoked},
    session::{RoleArn, SourceIdentity},
};

pub(super) fn run(arguments: Revoke) -> Result<ExitCode, CommandError> {
    runtime()?.block_on(run_async(&arguments))
}

async fn run_async(arguments: &Revoke) -> Result<ExitCode, CommandError> {
    let now = Timestamp::try_from(now()).map_err(|error| CommandError::Internal(error.into()))?;
    let issued_before = arguments.older_than.map(|older_than| older_than.at(now)).transpose();
    let issued_before = issued_before
        .map_err(|error| CommandError::Input(anyhow!(error).context("--older-than")))?;
    let wrong = match (arguments.output, arguments.list) {
        (Some(RevokeFormat::Terraform), true) => Some("-o terraform: --list prints text or json"),
        (Some(RevokeFormat::Text), false) => Some("-o text: the policy is json or terraform"),
        _ => None,
    };
    if let Some(wrong) = wrong {
        return Err(CommandError::Input(anyhow!(wrong)));
    }
    let mut target = Target::of_flags(arguments).map_err(CommandError::Input)?;
    let cluster = match asks_cluster(arguments) {
        true => Some(Cluster::connect(arguments.installation.context.as_deref()).await?),
        false => None,
    };
    if let Some(cluster) = &cluster {
        target.add_pods(cluster, arguments).await?;
    }
    let revoked = Revoked::of(&target.identities, issued_before);
    if !arguments.apply && !arguments.list && !arguments.prune {
        revoked.check_length().map_err(|error| CommandError::Input(error.into()))?;
        say(REPLACES);
    }
    if !needs_role(arguments) {
        return print(&format!("{:#}\n", revoked.document()));
    }
    let (role, shell) = role(arguments, &target, cluster.as_ref()).await?;
    if is_resource(arguments) {
        let document = revoked.document();
        return print(&policies::terraform_of_inline_policy(&role, POLICY_NAME, &document));
    }
    if let Some(why) = aws_shell::lacks_credentials(&shell).await {
        return Err(CommandError::Input(anyhow!(why)));
    }
    let in_iam = IamRole::find(&shell, &role).await.map_err(|error| denied(error, &role))?;
    if let Some(tenant) = target.tenant.as_ref().filter(|tenant| !in_iam.may_be_of(tenant)) {
        return Err(CommandError::Input(anyhow!(
            "role {role} is not the session role of tenant {tenant}: its trust policy allows no SourceIdentity of this tenant; check --session-role"
        )));
    }
    if arguments.list {
        let inline = match in_iam.look().await {
            Ok(inline) => inline,
            Err(error) => return failed(NotApplied::Store(error), &role),
        };
        return print(&match arguments.output {
            Some(RevokeFormat::Json) => {
                output::object("RevocationList", &report::json(&role, &inline))
            }
            Some(RevokeFormat::Terraform | RevokeFormat::Text) | None => {
                report::list(&role, &inline)
            }
        });
    }
    let change = match (arguments.prune, &cluster) {
        (true, Some(cluster)) => {
            let present = present(cluster).await?;
            Change::Prune { present, now, longest: in_iam.longest_session }
        }
        _ => Change::Revoke(revoked.clone()),
    };
    let made = protocol::make(&in_iam, &change, PACE, |retry| say(&retry.to_string())).await;
    let Done { before, after } = match made {
        Ok(done) => done,
        Err(failure) => return failed(failure, &role),
    };
    if arguments.prune {
        return print(&report::pruned(&role, &before.revoked, &after));
    }
    let printed = print(&report::revoked(&role, &revoked, &before.revoked, &after))?;
    say("AWS denies these calls within minutes; revoke stops no pod");
    match &cluster {
        None => say("no cluster was read, so the pods of the sessions are not known"),
        // The policy is written, whatever the cluster answers.
        Some(cluster) => {
            if let Err(error) = say_pods(cluster, &target.identities).await {
                say(&format!("the pods of the sessions are not known: {error}"));
            }
        }
    }
    Ok(printed)
}

/// Returns whether the role must be known.
fn needs_role(arguments: &Revoke) -> bool {
    arguments.apply || arguments.list || arguments.prune || is_resource(arguments)
}

/// Returns whether the policy is printed as a Terraform resource, which names the role.
fn is_resource(arguments: &Revoke) -> bool {
    matches!(arguments.output, Some(RevokeFormat::Terraform))
}

/// Returns whether the source of roles is read: the role is not given, or the source is.
fn reads_source(arguments: &Revoke) -> bool {
    needs_role(arguments) && (arguments.session_role.is_none() || names_source(arguments))
}

fn names_source(arguments: &Revoke) -> bool {
    arguments.cluster.is_some() || arguments.config.is_some()
}

fn asks_cluster(arguments: &Revoke) -> bool {
    let for_source = reads_source(arguments) && !names_source(arguments);
    !arguments.pods.is_empty() || arguments.prune || for_source
}

/// Returns the role to change, and the AWS configuration.
async fn role(
    arguments: &Revoke,
    target: &Target,
    cluster: Option<&Cluster>,
) -> Result<(RoleArn, SdkConfig), CommandError> {
    let given = arguments.session_role.as_ref();
    let (published, shell) = if reads_source(arguments) {
        let source = RoleSource::find(cluster, arguments).await?;
        let shell = aws_shell::shell(source.region()).await;
        let tenant = target.tenant.as_ref().ok_or_else(|| {
            CommandError::Input(anyhow!("the role is not known; set --tenant or --session-role"))
        })?;
        (Some(source.role(tenant, &shell).await?), shell)
    } else {
        (None, aws_shell::shell(given.and_then(region_of_iam)).await)
    };
    let role = target.role(given, published).map_err(CommandError::Input)?;
    Ok((role, shell))
}

/// Returns a region of the role's partition: IAM has one endpoint for all of them.
/// <https://docs.aws.amazon.com/general/latest/gr/iam-service.html>
fn region_of_iam(role: &RoleArn) -> Option<&'static str> {
    match role.partition() {
        "aws" => Some("us-east-1"),
        "aws-cn" => Some("cn-north-1"),
        "aws-us-gov" => Some("us-gov-west-1"),
        _ => None,
    }
}

/// Returns the sessions of the cluster. If an object cannot be read, no entry may be removed.
async fn present(cluster: &Cluster) -> Result<PresentSessions, CommandError> {
    match target::sessions(cluster).await? {
        Seen::Known(sessions) => Ok(sessions.present()),
        Seen::Hidden(why) => Err(CommandError::Input(anyhow!(
            "nothing was removed, because not all pods and SandboxClaims can be read: {why}; use a kubeconfig of a user that may list namespaces, pods and SandboxClaims"
        ))),
    }
}

/// Prints how to delete the pods of the sessions, and the sessions without a pod.
async fn say_pods(
    cluster: &Cluster,
    identities: &BTreeSet<SourceIdentity>,
) -> Result<(), CommandError> {
    let sessions = match target::sessions(cluster).await? {
        Seen::Known(sessions) => sessions,
        Seen::Hidden(why) => {
            say(&format!("the pods of the sessions are not known: {why}"));
            return Ok(());
        }
    };
    for identity in identities {
        let mut deletions = sessions.deletions(identity).peekable();
        if deletions.peek().is_none() {
            say(&format!(
                "warning: no pod and no SandboxClaim of the cluster has {identity}; if the session never existed, check its name"
            ));
        }
        deletions.for_each(|deletion| say(&format!("to stop the pod: {deletion}")));
    }
    Ok(())
}

/// Reports that the change is not confirmed. Returns exit code 1 if the policy must be fixed in AWS.
fn failed(failure: NotApplied<RoleError>, role: &RoleArn) -> Result<ExitCode, CommandError> {
    let why = match failure {
        NotApplied::Contended => {
            "other programs change its policy at the same time; run revoke --list, and try again"
                .to_owned()
        }
        NotApplied::TooLong(error) => error.to_string(),
        NotApplied::Store(error @ (RoleError::LimitExceeded(_) | RoleError::NotOurs(_))) => {
            error.to_string()
        }
        NotApplied::Store(RoleError::Iam(error)) => return Err(denied(error, role)),
        NotApplied::TooSlow => {
            return Err(CommandError::Internal(anyhow!(
                "role {role}: IAM did not answer in time; run revoke --list, and try again"
            )));
        }
    };
    say(&format!("role {role}: {why}"));
    Ok(ExitCode::from(1))
}

fn denied(error: IamError, role: &RoleArn) -> CommandError {
    match error {
        IamError::NoAnswer | IamError::NoRole | IamError::Unavailable { .. } => {
            CommandError::Internal(anyhow!("role {role}: {error}; try again"))
        }
        IamError::OtherArn(_) => CommandError::Input(anyhow!(
            "role {role}: {error}; correct --session-role, or use credentials of account {}",
            role.account()
        )),
        IamError::Refused { .. } => CommandError::Input(anyhow!(
            "role {role}: {error}; set AWS_PROFILE to credentials of account {} that may read and write its inline policies",
            role.account()
        )),
    }
}

const REPLACES: &str = "this policy replaces the one of its name as a whole: add the sessions that are revoked already (revoke --list), or use --apply, which keeps them";
