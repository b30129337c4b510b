//! One of each refusal, failure and denial, as they say themselves.

use std::fmt::Write;

use fab_session_injector::{
    admission::Refusal,
    config::PodSecurity,
    credentials::{Failure, Reason, denial, wire::Refused},
    directory::{Cause, Unusable},
    namespaces::NoTenant,
    session::{NotARoleArn, NotASessionName, NotATenant, SourceIdentity, TenantName},
};

use super::guard;

pub(crate) fn page() -> String {
    let mut page = HEAD.to_owned();
    refusals(&mut page);
    failures(&mut page);
    endpoint(&mut page);
    denials(&mut page);
    page
}

const HEAD: &str = "<!-- Written from the code: UPDATE=1 cargo test --test pages -->
# Refusals, failures and denials

Every code, with what it says and what to do. A code never changes its meaning; log, metrics, audit annotations, events and `explain -o
json` have the same ones. Names such as `acme` are examples, and `…` stands for what only the pod or the request tells.

| who says it | where it is read |
| --- | --- |
| [the webhook](#of-the-webhook) | the answer to whoever creates the pod (for a controller: its events), the log, the audit annotations |
| [the sidecar, of AWS](#of-the-sidecar-on-aws) | the pod's events, the log of `fab-session-credentials`, the answer to the SDK |
| [the sidecar, of a request](#of-the-sidecar-on-a-request) | the answer to whoever asked it |
| [the guard](#of-the-guard) | the API server's answer to whoever asked |
";

fn refusals(page: &mut String) {
    page.push_str(
        "\n## Of the webhook\n\n403 stays until somebody changes something. 503 may heal by itself, and client-go tries again.\n",
    );
    let mut last = "";
    let mut all = examples();
    all.sort_by_key(Refusal::code);
    for refusal in all {
        let code = refusal.code();
        if code != last {
            let status = if refusal.may_heal() { "503, may heal" } else { "403, stays" };
            write!(page, "\n### `{code}`\n\n{status}.\n").unwrap();
            last = code;
        }
        said(page, &refusal.sentence(), &refusal.remedy());
    }
}

fn failures(page: &mut String) {
    page.push_str(
        "\n## Of the sidecar, on AWS\n\nWhy there are no credentials. What stays is tried again after 15 to 300 seconds and answered with 403; the rest after 1 to 60, with\n503. Where STS does not name the policy that denies, the remedy lists all that can.\n",
    );
    let tenant: TenantName = "acme".parse().unwrap();
    let role = "arn:aws:iam::111122223333:role/prod-acme-broker".parse().unwrap();
    let identity = SourceIdentity::of(&tenant, &"coder-1".parse().unwrap());
    let mut all: Vec<Failure> = reasons()
        .into_iter()
        .map(|reason| Failure { role: Clone::clone(&role), identity: identity.clone(), reason })
        .collect();
    all.sort_by_key(|failure| failure.reason.code());
    for failure in all {
        let status = if failure.reason.stays() { "403, stays" } else { "503, may heal" };
        let code = failure.reason.code();
        let text = failure.to_string();
        let (sentence, remedy) = text.split_once(&format!(" [{code}]: ")).unwrap();
        write!(page, "\n### `{code}`\n\n{status}.\n").unwrap();
        said(page, sentence, remedy);
    }
}

fn endpoint(page: &mut String) {
    page.push_str(
        "\n## Of the sidecar, on a request\n\nIts body is `{\"code\", \"message\", \"Code\", \"Message\"}`.\n\n| code | status | what it says |\n| --- | --- | --- |\n",
    );
    for refused in Refused::ALL {
        writeln!(page, "| `{}` | {} | {} |", refused.code(), refused.status(), refused.message())
            .unwrap();
    }
    let handler = include_str!("../../src/command/endpoint.rs");
    let starting = handler.split("\"starting\",").nth(1).unwrap();
    writeln!(page, "| `starting` | 503 | {} |", starting.split('"').nth(1).unwrap()).unwrap();
}

fn denials(page: &mut String) {
    page.push_str(
        "\n## Of the guard\n\nHTTP 403, by the API server itself, in namespaces that are `enabled` ([guard.md](guard.md)).\n",
    );
    let mut all = guard::denials();
    while let Some(code) = all.first().map(|denial| denial.code.clone()) {
        write!(page, "\n### `{code}`\n").unwrap();
        for guard::Denial { policy, sentence, remedy, .. } in
            all.extract_if(.., |denial| denial.code == code)
        {
            write!(page, "\nBy the policy `{policy}`.\n").unwrap();
            said(page, &sentence, &remedy);
        }
    }
}

fn said(page: &mut String, sentence: &str, remedy: &str) {
    // Markdown would take <name> for HTML.
    let [sentence, remedy] = [sentence, remedy].map(|text| text.replace('<', "&lt;"));
    write!(page, "\n> {sentence}\n\nRemedy: {remedy}\n").unwrap();
}

fn examples() -> Vec<Refusal> {
    let acme: TenantName = "acme".parse().unwrap();
    let long: TenantName = "a-platform-of-a-long-name".parse().unwrap();
    let agent = || "agent".to_owned();
    let namespace = || "tenants-acme".to_owned();
    let place = || {
        "SSM parameter /eks-agent-platform/prod/tenant-substrate/acme/session_role_arn".to_owned()
    };
    let unusable = |unusable| Refusal::RoleUnusable { place: place(), unusable };
    vec![
        Refusal::AwsTokenVolume {
            volume: "aws-token".to_owned(),
            audience: "sts.amazonaws.com".to_owned(),
        },
        Refusal::FabOperator { container: agent() },
        Refusal::HostNamespace { field: "hostPID" },
        Refusal::Internal,
        Refusal::NamespaceUnknown { namespace: namespace() },
        Refusal::NotAPodCreation { found: "\"UPDATE\" of \"pods\"".to_owned() },
        Refusal::PatchTooCostly { operations: 12_000, most: 10_000 },
        Refusal::PatchTooLarge { most: 1536 * 1024 },
        Refusal::PodNetwork { what: "annotation", key: "k8s.v1.cni.cncf.io/networks" },
        Refusal::PodSecurity {
            namespace: namespace(),
            enforced: PodSecurity::Baseline,
            wanted: PodSecurity::Restricted,
        },
        Refusal::OldPodSecurity {
            namespace: namespace(),
            pinned: "v1.21".parse().unwrap(),
            wanted: PodSecurity::Restricted,
        },
        Refusal::PortTaken { container: agent(), port: 7413 },
        Refusal::ReservedName {
            what: "container",
            name: "fab-session-credentials".to_owned(),
            component: "fleet".to_owned(),
        },
        Refusal::ReservedVolume { container: agent(), volume: "fab-session-base".to_owned() },
        Refusal::RoleDenied { place: place() },
        Refusal::RoleMissing { place: place() },
        Refusal::RoleUnavailable { place: place(), cause: Some(Cause::Throttled) },
        Refusal::RoleUnavailable { place: place(), cause: None },
        unusable(Unusable::Malformed(NotARoleArn::Shape)),
        unusable(Unusable::NotAllowed { list: "accounts" }),
        unusable(Unusable::SecureString),
        unusable(Unusable::WrongType),
        Refusal::SessionIllegal {
            what: "annotation",
            key: "fab.nanohype.dev/session-id",
            rule: NotASessionName::Character { found: ':', at: 5 },
        },
        Refusal::SessionTooLong { tenant: acme, needed: 60 },
        Refusal::SidecarUser { container: agent(), field: "securityContext.runAsUser", uid: 64017 },
        Refusal::StaticCredentials { container: agent(), variable: "AWS_PROFILE".to_owned() },
        Refusal::TenantMissing { namespace: "fab".to_owned(), reason: NoTenant::Absent },
        Refusal::TenantMissing {
            namespace: namespace(),
            reason: NoTenant::Malformed {
                value: "Acme".to_owned(),
                rule: NotATenant::Character { found: 'A', at: 0 },
            },
        },
        Refusal::TenantTooLong { tenant: long, session: "<pod uid>".to_owned(), longest: 21 },
        Refusal::TokenPathTaken { container: agent(), path: "/var/run/fab-session".to_owned() },
        Refusal::TooManyContainers { found: 300, most: 256 },
        Refusal::TooManyItems {
            what: "container \"agent\" has more than 1024 variables".to_owned(),
        },
        Refusal::UnknownComponent { value: "runtme".to_owned() },
        Refusal::UnreadablePod { place: "spec.containers[0]".to_owned() },
        Refusal::Windows,
    ]
}

fn reasons() -> Vec<Reason> {
    let role = "arn:aws:iam::111122223333:role/prod-acme-broker";
    let denied = |action: &str, why: &str| {
        let sentence = format!(
            "User: arn:aws:sts::111122223333:assumed-role/base/s is not authorized to perform: {action} on resource: {role}{why}"
        );
        Reason::Denied { denial: denial(&sentence), sentence }
    };
    let detail = |text: &str| text.to_owned();
    vec![
        Reason::BaseExpired,
        Reason::BaseRefused { detail: detail("the agent answers 403") },
        Reason::BaseUnavailable { detail: detail("the agent does not answer") },
        Reason::ClockSkewed,
        denied("sts:AssumeRole", ""),
        denied(
            "sts:AssumeRole",
            " because no identity-based policy allows the sts:AssumeRole action",
        ),
        denied("sts:AssumeRole", " with an explicit deny in a permissions boundary"),
        denied("sts:AssumeRole", " with an explicit deny in a service control policy"),
        denied(
            "sts:AssumeRole",
            " because no VPC endpoint policy allows the sts:AssumeRole action",
        ),
        denied("sts:SetSourceIdentity", ""),
        denied("sts:TagSession", ""),
        Reason::IdentityMissing,
        Reason::RegionDisabled,
        Reason::Rejected {
            code: "ValidationError".to_owned(),
            detail: detail(
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ),
        },
        Reason::SignatureRefused { code: "SignatureDoesNotMatch".to_owned() },
        Reason::StsUnavailable { detail: detail("no answer in time") },
        Reason::TagsTooLarge {
            detail: detail("Packed size of session tags consumes 104% of allotted space."),
        },
        Reason::Throttled,
    ]
}
