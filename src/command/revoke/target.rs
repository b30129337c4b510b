//! The sessions to revoke, their pods, and the tenant's session role.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow, bail};
use aws_config::SdkConfig;
use serde_json::{Value, json, value::RawValue};

use crate::{
    admission,
    check::{Objects, Seen},
    cli::Revoke,
    command::{
        CommandError, aws_shell,
        cluster::{CORE, Cluster, all},
        files,
        installed::{self, Installed, Release},
        say,
    },
    config::{Config, Region},
    issuer::{CLAIM_API, CLAIM_GROUP},
    json::Json,
    namespaces::{Mode, Namespace, NamespaceName},
    revocation::{self, PresentSessions},
    roles::{Cause, Role},
    session::{KnownSession, RoleArn, SessionName, SourceIdentity, TenantName},
};

/// The tenant, sessions and pods of the command line.
#[derive(Debug, Default)]
pub(super) struct Target {
    pub(super) tenant: Option<TenantName>,
    pub(super) identities: BTreeSet<SourceIdentity>,
    pods: Vec<PodRole>,
}

/// The role that a pod of the command line assumes.
#[derive(Debug)]
struct PodRole {
    pod: String,
    role: RoleArn,
}

/// The objects of a cluster whose sidecars may get new credentials.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    pods: BTreeMap<SourceIdentity, Vec<SessionObject>>,
    /// SandboxClaims by UID. Their pods come and go, and do not name the session.
    claims: BTreeMap<SessionName, SessionObject>,
}

#[derive(Debug)]
struct SessionObject {
    kind: &'static str,
    namespace: String,
    name: String,
}

impl Sessions {
    /// Returns the commands that delete the objects of a session.
    pub(super) fn deletions(&self, identity: &SourceIdentity) -> impl Iterator<Item = String> {
        let claim = identity.session().and_then(|session| self.claims.get(&session));
        let pods = self.pods.get(identity).into_iter().flatten();
        pods.chain(claim).map(|SessionObject { kind, namespace, name }| {
            format!("kubectl delete {kind} {name} --namespace {namespace}")
        })
    }

    pub(super) fn present(self) -> PresentSessions {
        PresentSessions {
            of_pods: self.pods.into_keys().collect(),
            of_claims: self.claims.into_keys().collect(),
        }
    }
}

impl Target {
    /// Returns what the flags name, without the pods.
    pub(super) fn of_flags(arguments: &Revoke) -> anyhow::Result<Self> {
        let mut target = Self { tenant: arguments.tenant.clone(), ..Self::default() };
        for identity in &arguments.source_identities {
            let tenant = identity.tenant().ok_or_else(|| {
                anyhow!(
                    "--source-identity {identity}: not of an agent session; expected agent.<tenant>.<session>"
                )
            })?;
            target.add(tenant, identity.clone(), &format!("--source-identity {identity}"))?;
        }
        for session in &arguments.sessions {
            let name = session.as_str();
            let Some(tenant) = &target.tenant else {
                bail!("--session {name}: its tenant is not known; set --tenant");
            };
            if name.starts_with(&format!("agent.{tenant}.")) {
                bail!("--session {name} is a SourceIdentity; use --source-identity {name}");
            }
            let identity = revocation::identity(tenant, session)
                .with_context(|| format!("--session {name}"))?;
            if !identity.as_str().ends_with(name) {
                say(&format!("--session {name} is cut as the webhook cuts it: {identity}"));
            }
            target.identities.insert(identity);
        }
        Ok(target)
    }

    fn add(
        &mut self,
        tenant: TenantName,
        identity: SourceIdentity,
        place: &str,
    ) -> anyhow::Result<()> {
        match &self.tenant {
            Some(other) if *other != tenant => {
                bail!(
                    "{place} is of tenant {tenant}, and another session or --tenant of {other}; run revoke once for each tenant"
                );
            }
            _ => self.tenant = Some(tenant),
        }
        self.identities.insert(identity);
        Ok(())
    }

    /// Adds the sessions of the pods.
    pub(super) async fn add_pods(
        &mut self,
        cluster: &Cluster,
        arguments: &Revoke,
    ) -> Result<(), CommandError> {
        let namespace = arguments.namespace.as_ref();
        let namespace = namespace.map_or(cluster.default_namespace(), NamespaceName::as_str);
        if arguments.pods.is_empty() {
            return Ok(());
        }
        let own = tenant_of_namespace(cluster, namespace, arguments).await?;
        for name in &arguments.pods {
            let place = format!("pod {namespace}/{}", name.as_str());
            let path = format!("{CORE}/namespaces/{namespace}/pods");
            let pod: Box<RawValue> = match cluster.get(&path, name.as_str()).await? {
                Seen::Known(Some(pod)) => pod,
                Seen::Known(None) => {
                    return Err(CommandError::Input(anyhow!(
                        "{place} does not exist in the cluster; name its session with --session"
                    )));
                }
                Seen::Hidden(why) => {
                    return Err(CommandError::Internal(anyhow!("cannot read {place}: {why}")));
                }
            };
            let session = session_of((&*pod).into(), &place).map_err(CommandError::Input)?;
            if session.tenant != own {
                return Err(CommandError::Input(anyhow!(
                    "{place} has a session of tenant {} in its variables, but its namespace is of tenant {own}, so the pod does not have this session; name the session with --source-identity",
                    session.tenant
                )));
            }
            self.add(session.tenant.clone(), session.source_identity(), &place)
                .map_err(CommandError::Input)?;
            self.pods.push(PodRole { pod: place, role: session.role });
        }
        Ok(())
    }

    /// Returns the role to change. All roles that the command line, the pods and the source of
    /// roles name must be the same: a policy of another role would stop no call.
    pub(super) fn role(
        &self,
        given: Option<&RoleArn>,
        published: Option<(RoleArn, String)>,
    ) -> anyhow::Result<RoleArn> {
        let mut named: Vec<(&RoleArn, String)> = Vec::new();
        named.extend(given.map(|role| (role, format!("--session-role is {role}"))));
        for PodRole { pod, role } in &self.pods {
            named.push((role, format!("{pod} assumes {role}")));
        }
        if let Some((role, location)) = &published {
            named.push((role, format!("{location} names {role}")));
        }
        let [(role, first), others @ ..] = &named[..] else {
            bail!("the role is not known; set --session-role");
        };
        if let Some((_, second)) = others.iter().find(|(other, _)| other != role) {
            bail!(
                "{first}, but {second}; choose the role with --session-role, without --cluster and --config, and run revoke once for each role"
            );
        }
        Ok((*role).clone())
    }
}

/// The source of the tenants' roles.
pub(super) struct RoleSource {
    config: Config,
    release: Option<Release>,
}

impl RoleSource {
    pub(super) async fn find(
        cluster: Option<&Cluster>,
        arguments: &Revoke,
    ) -> Result<Self, CommandError> {
        let config = match (&arguments.cluster, &arguments.config, cluster) {
            (Some(name), _, _) => {
                Config::parse(&json!({"cluster": name, "roles": {"ssm": {}}}).to_string())
                    .context("--cluster")
                    .map_err(CommandError::Input)?
            }
            (None, None, Some(cluster)) => {
                let Installed { config, configurations: _, release } =
                    installed::find(cluster, &arguments.installation, None).await?;
                return Ok(Self { config, release: Some(release) });
            }
            (None, file, _) => files::config(file.as_deref()).map_err(CommandError::Input)?,
        };
        Ok(Self { config, release: None })
    }

    /// Returns the region for AWS if the shell has none.
    pub(super) fn region(&self) -> Option<&str> {
        let ssm = self.config.roles.ssm.as_ref().and_then(|ssm| ssm.region.as_ref());
        ssm.or(self.config.region.as_ref()).map(Region::as_str)
    }

    /// Returns the tenant's role, and where it is published.
    pub(super) async fn role(
        &self,
        tenant: &TenantName,
        shell: &SdkConfig,
    ) -> Result<(RoleArn, String), CommandError> {
        let region = shell.region().map(ToString::to_string).unwrap_or_default();
        if region.is_empty() && self.config.roles.ssm.is_some() {
            return Err(CommandError::Input(anyhow!(
                "no AWS region is set, so the tenant's parameter cannot be read; set AWS_REGION, or --session-role"
            )));
        }
        let tenants = BTreeSet::from([tenant.clone()]);
        let roles =
            aws_shell::roles(Some(shell), &self.config, self.release.as_ref(), &tenants).await?;
        let location = roles.location(tenant);
        let shell_cannot = || {
            CommandError::Input(anyhow!(
                "the AWS credentials of this shell are missing or not authorized to read {location}; set --session-role"
            ))
        };
        match (roles.role(tenant), admission::role_refusal(tenant, &roles)) {
            (Some(Role::Known(role)), _) => Ok((role.clone(), location)),
            (Some(Role::Unreachable(Cause::Denied | Cause::NoCredentials)), _) => {
                Err(shell_cannot())
            }
            (Some(Role::Unreachable(cause)), _) => Err(CommandError::Internal(anyhow!(
                "cannot read {location}: {cause}; try again, or set --session-role"
            ))),
            // The refusal's own remedy is for the webhook, not for the end of a session.
            (Some(_), Some(refusal)) => {
                let region = if region.is_empty() { region } else { format!(" (region {region})") };
                Err(CommandError::Input(anyhow!(
                    "{}{region} [{}]: check the name of the cluster and the region, or set --session-role to the role that the sessions assumed",
                    refusal.sentence(),
                    refusal.code()
                )))
            }
            (_, _) => Err(CommandError::Internal(anyhow!(
                "cannot read {location}: timed out; try again, or set --session-role"
            ))),
        }
    }
}

/// Lists the pods of all namespaces with a session, namespace by namespace, so that few objects are
/// in memory, and all SandboxClaims. A pod without a valid session gets no credentials.
pub(super) async fn sessions(cluster: &Cluster) -> Result<Seen<Sessions>, CommandError> {
    let mut found = Sessions::default();
    let namespaces = match cluster.list(&format!("{CORE}/namespaces"), all()).await? {
        Seen::Known(namespaces) => namespaces,
        Seen::Hidden(why) => return Ok(Seen::Hidden(why)),
    };
    for namespace in namespaces.iter() {
        let namespace = namespace.at("metadata").at("name").string().unwrap_or_default();
        let path = format!("{CORE}/namespaces/{namespace}/pods");
        let pods = match cluster.list(&path, all()).await? {
            Seen::Known(pods) => pods,
            Seen::Hidden(why) => return Ok(Seen::Hidden(why)),
        };
        for pod in pods.iter() {
            if let Some(identity) = identity_of(pod) {
                found.pods.entry(identity).or_default().push(object("pod", pod));
            }
        }
    }
    let claims = match claims(cluster).await? {
        Seen::Known(claims) => claims,
        Seen::Hidden(why) => return Ok(Seen::Hidden(why)),
    };
    for claim in claims.iter() {
        let uid = claim.at("metadata").at("uid").string().and_then(|uid| uid.parse().ok());
        found.claims.extend(uid.map(|uid| (uid, object("sandboxclaim", claim))));
    }
    Ok(Seen::Known(found))
}

/// Returns the session of a pod. That of a Sandbox without a claim is the pod's UID; one that belongs
/// to a claim never has it.
fn identity_of(pod: Json<'_>) -> Option<SourceIdentity> {
    let sidecar = admission::sidecar(pod);
    match revocation::session_of(pod, sidecar)? {
        Ok(session) => Some(session.source_identity()),
        Err(_) => {
            let tenant = revocation::tenant_of_unbound(sidecar)?;
            let uid: SessionName = pod.at("metadata").at("uid").string()?.parse().ok()?;
            Some(SourceIdentity::of(&tenant, &uid))
        }
    }
}

/// Lists the SandboxClaims of all namespaces. In a cluster without the kind, which anyone may know,
/// no right to list them is needed.
async fn claims(cluster: &Cluster) -> Result<Seen<Objects>, CommandError> {
    let served: Seen<Option<Value>> = cluster.get("/apis", CLAIM_GROUP).await?;
    if let Seen::Known(None) = served {
        return Ok(Seen::Known(Objects::default()));
    }
    cluster.list(&format!("{CLAIM_API}/sandboxclaims"), all()).await
}

fn object(kind: &'static str, object: Json<'_>) -> SessionObject {
    let metadata = object.at("metadata");
    let text = |key: &str| metadata.at(key).string().unwrap_or_default().into_owned();
    SessionObject { kind, namespace: text("namespace"), name: text("name") }
}

/// Returns the tenant of an enabled namespace. A tenant can write the session of another tenant into
/// a pod, whose revocation would stop that session.
async fn tenant_of_namespace(
    cluster: &Cluster,
    name: &str,
    arguments: &Revoke,
) -> Result<TenantName, CommandError> {
    let rule = match &arguments.config {
        Some(file) => files::config(Some(file)).map_err(CommandError::Input)?.tenant,
        // Without a release that can be read, the labels of the default config name the tenant.
        None => installed::find(cluster, &arguments.installation, None)
            .await
            .map_or_else(|_| Config::default().tenant, |installed| installed.config.tenant),
    };
    let found: Seen<Option<Value>> = cluster.get(&format!("{CORE}/namespaces"), name).await?;
    let object = match found {
        Seen::Known(object) => object.unwrap_or_default(),
        Seen::Hidden(why) => {
            return Err(CommandError::Internal(anyhow!("cannot read namespace {name}: {why}")));
        }
    };
    let label = |key: &str| object["metadata"]["labels"][key].as_str();
    let namespace = Namespace::read(name, label, &rule);
    if namespace.mode != Some(Mode::Enabled) {
        return Err(CommandError::Input(anyhow!(
            "namespace {name} is not enabled, so its pods may have any session in their variables; name the session with --source-identity"
        )));
    }
    namespace.tenant.map_err(|_| {
        CommandError::Input(anyhow!(
            "namespace {name} has no valid tenant; name the session with --source-identity"
        ))
    })
}

fn session_of(pod: Json<'_>, place: &str) -> anyhow::Result<KnownSession> {
    revocation::session_of(pod, admission::sidecar(pod))
        .ok_or_else(|| anyhow!("{place} has no session, so there is none to revoke"))?
        .with_context(|| match revocation::tenant_of_unbound(admission::sidecar(pod)) {
            Some(tenant) => format!(
                "{place} names no session itself, because its session is that of a SandboxClaim: use --source-identity agent.{tenant}.UID with the UID of the claim"
            ),
            None => format!("{place} has no valid session"),
        })
}
