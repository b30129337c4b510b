//! docs/refusals.md: every code, with its meaning, and with the message and remedy as the program
//! writes them.

use std::fmt::Write;

use fab_session_injector::{
    admission::Refusal,
    config::PodSecurity,
    credentials::wire::Refused,
    namespaces::NoTenant,
    roles::{Cause, Unusable},
    session::{NotARoleArn, NotASessionName, NotATenant, NotOnBehalfOf, TenantName},
};

use super::{
    guard, issuer,
    sidecar::{self, Said},
};

/// A code, its meaning in one sentence, and further sentences or nothing.
type Meaning = (&'static str, &'static str, &'static str);

/// The codes of one component.
struct Section {
    heading: &'static str,
    /// Name of the component in the index.
    component: &'static str,
    introduction: &'static str,
    meanings: &'static [Meaning],
    entries: Vec<Entry>,
}

/// A code with its examples.
struct Entry {
    code: String,
    status: u16,
    /// Markdown: messages and remedies.
    examples: String,
}

pub(crate) fn page() -> String {
    let sections = [
        Section {
            heading: "Webhook",
            component: "webhook",
            introduction: "The message has the form `cause [code]: remedy`.",
            meanings: WEBHOOK,
            entries: refusals(),
        },
        Section {
            heading: "Sidecar: calls to AWS",
            component: "sidecar",
            introduction: AWS_INTRODUCTION,
            meanings: AWS,
            entries: failures(),
        },
        Section {
            heading: "Sidecar: requests of clients",
            component: "sidecar, request",
            introduction: "The body of the response is `{\"code\", \"message\", \"Code\", \"Message\"}`.",
            meanings: REQUESTS,
            entries: requests(),
        },
        Section {
            heading: ISSUER_HEADING,
            component: "issuer",
            introduction: ISSUER_INTRODUCTION,
            meanings: ISSUER,
            entries: token_refusals(),
        },
        Section {
            heading: "Guard",
            component: "guard",
            introduction: GUARD_INTRODUCTION,
            meanings: GUARD,
            entries: denials(),
        },
    ];
    let mut page = HEAD.to_owned();
    let mut listed: Vec<&str> = Vec::new();
    for section in &sections {
        for Entry { code, status, .. } in &section.entries {
            let (meaning, _) = section.meaning(code);
            let component = section.component;
            // Webhook and issuer have some codes in common. GitHub numbers equal headings.
            let anchor = match listed.iter().filter(|other| *other == code).count() {
                0 => code.clone(),
                number => format!("{code}-{number}"),
            };
            listed.push(code);
            writeln!(page, "| [`{code}`](#{anchor}) | {component} | {status} | {meaning} |")
                .unwrap();
        }
    }
    for section in &sections {
        write!(page, "\n## {}\n\n{}\n", section.heading, section.introduction).unwrap();
        for Entry { code, status, examples } in &section.entries {
            let (meaning, details) = section.meaning(code);
            let lasting = match status {
                403 => ", permanent",
                503 => ", transient",
                _ => "",
            };
            let text =
                super::wrapped(format!("HTTP {status}{lasting}. {meaning} {details}").trim_end());
            write!(page, "\n### `{code}`\n\n{text}\n{examples}").unwrap();
        }
    }
    page
}

/// Returns every code that has a meaning.
pub(crate) fn codes() -> impl Iterator<Item = &'static str> {
    [WEBHOOK, AWS, REQUESTS, ISSUER, GUARD].into_iter().flatten().map(|&(code, ..)| code)
}

/// Returns the codes with which the sidecar refuses requests.
pub(crate) fn request_codes() -> impl Iterator<Item = String> {
    let refused = Refused::ALL.map(Refused::code);
    refused.into_iter().chain(["starting"]).map(str::to_owned)
}

impl Section {
    fn meaning(&self, code: &str) -> (&'static str, &'static str) {
        let found = self.meanings.iter().find(|(name, ..)| *name == code);
        let &(_, meaning, details) = found
            .unwrap_or_else(|| panic!("{code} has no meaning in tests/fast/pages/refusals.rs"));
        (meaning, details)
    }
}

const HEAD: &str = "<!-- Generated from the code: UPDATE=1 cargo test --test fast pages -->
# Refusal and error codes

This page lists every code of the webhook, the sidecar, the session issuer and the guard, with its meaning, an example
of its message, and the remedy. A code never changes its meaning. Log, metrics, audit annotations, events and
`explain -o json` use the same codes. Names such as `acme` are examples, and `…` stands for text that only the pod or
the request determines.

| component | its messages appear in |
| --- | --- |
| [webhook](#webhook) | the response to the requesting user (for a controller: its events); the log and the audit annotations have only the code |
| [sidecar](#sidecar-calls-to-aws) | the pod's events, the log of `fab-session-credentials`, the response to the SDK |
| [sidecar, request](#sidecar-requests-of-clients) | the response to the client |
| [issuer](#session-issuer) | the issuer's log; the pod's events and the sidecar's log, as `issuer-refused` or `issuer-unavailable` |
| [guard](#guard) | the API server's response to the requesting user |

HTTP 403 is permanent: it stays until the pod, the namespace, the config, the published role or the IAM configuration
changes. HTTP 503 is transient: it can end without a change, and clients retry. A 503 of the webhook carries
`retryAfterSeconds: 1`, on which client-go retries the request.

In an `audit` namespace nothing is refused. Metrics, log and audit annotations contain the same codes there.

## Index

| code | component | status | meaning |
| --- | --- | --- | --- |
";

/// Heading of the section with the codes of src/issuer/refusal.rs.
pub(crate) const ISSUER_HEADING: &str = "Session issuer";

const ISSUER_INTRODUCTION: &str = "The [session issuer](issuer.md) refuses a sidecar a token. The body of the response is `{\"code\", \"message\"}`, and the
message has the form `cause: remedy`. The sidecar reports 401 and 403 as [`issuer-refused`](#issuer-refused), and 503 as
[`issuer-unavailable`](#issuer-unavailable), each with this code. The issuer never responds with 429.";

const AWS_INTRODUCTION: &str = "These codes are causes for missing credentials. The sidecar responds to SDKs with the status, and retries AWS after 15
to 300 seconds (403) or after 1 to 60 seconds (503). If STS does not name the policy that denies the call, the remedy
lists all policies that can deny it.";

const GUARD_INTRODUCTION: &str =
    "The API server itself denies these requests, in `enabled` namespaces, and those about the session issuer in all
namespaces ([guard.md](guard.md)).";

fn refusals() -> Vec<Entry> {
    grouped(examples().into_iter().map(|refusal| {
        let status = if refusal.is_transient() { 503 } else { 403 };
        let example = example(&refusal.sentence(), &refusal.remedy());
        (refusal.code().to_owned(), status, example)
    }))
}

fn failures() -> Vec<Entry> {
    grouped(sidecar::FAILURES.iter().map(|Said { code, status, message }| {
        let (sentence, remedy) = message.split_once(&format!(" [{code}]: ")).unwrap();
        (code.clone(), *status, example(sentence, remedy))
    }))
}

fn requests() -> Vec<Entry> {
    grouped(sidecar::REQUESTS.iter().map(|Said { code, status, message }| {
        (code.clone(), *status, format!("\n> {}\n", escaped(message)))
    }))
}

fn token_refusals() -> Vec<Entry> {
    grouped(issuer::refusals().into_iter().map(|refusal| {
        let example = format!("\n> {}\n", escaped(&refusal.to_string()));
        (refusal.code().to_owned(), refusal.status(), example)
    }))
}

fn denials() -> Vec<Entry> {
    grouped(guard::denials().into_iter().map(|denial| {
        let guard::Denial { code, policy, sentence, remedy } = denial;
        let example = format!("\nPolicy: `{policy}`\n{}", example(&sentence, &remedy));
        (code, 403, example)
    }))
}

/// Returns one entry for each code, in alphabetical order.
fn grouped(all: impl Iterator<Item = (String, u16, String)>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (code, status, example) in all {
        match entries.iter_mut().find(|entry| entry.code == code) {
            Some(entry) => entry.examples.push_str(&example),
            None => entries.push(Entry { code, status, examples: example }),
        }
    }
    entries.sort_by(|a, b| a.code.cmp(&b.code));
    entries
}

fn example(sentence: &str, remedy: &str) -> String {
    format!("\n> {}\n>\n> Remedy: {}\n", escaped(sentence), escaped(remedy))
}

/// Returns the text with `<` escaped: Markdown takes `<name>` for HTML.
fn escaped(text: &str) -> String {
    text.replace('<', "&lt;")
}

/// Meanings of the webhook's codes.
const WEBHOOK: &[Meaning] = &[
    (
        "aws-token-volume",
        "A volume projects a service account token for an audience of AWS.",
        "AWS exchanges such a token for credentials of the base role.",
    ),
    (
        "fab-operator",
        "A container sets `FAB_OPERATOR`.",
        "The pod's own code would assume a role a second time. The namespace label `fab.nanohype.dev/operator=keep` allows this old client mode ([threat model](threat-model.md#exceptions-that-the-platform-team-can-configure)).",
    ),
    ("host-namespace", "The pod sets `hostNetwork`, `hostPID` or `shareProcessNamespace`.", ""),
    ("internal", "The webhook failed on this pod because of a bug.", ""),
    (
        "issuer-missing",
        "The namespace label `fab.nanohype.dev/session-transport` is `web-identity`, and the config has no section `issuer`.",
        "The webhook does not inject base credentials instead.",
    ),
    (
        "issuer-token-volume",
        "A volume projects a service account token for the audience of the session issuer.",
        "Such a token proves to the [session issuer](issuer.md) which pod calls it.",
    ),
    (
        "namespace-unknown",
        "The webhook's cache does not contain the namespace yet, and a lookup did not find it in time.",
        "",
    ),
    (
        "not-a-pod-creation",
        "The API server called the webhook for a request that does not create a pod.",
        "",
    ),
    (
        "on-behalf-of-illegal",
        "A trusted creator set an annotation `fab.nanohype.dev/on-behalf-of` that is not legal as a session tag.",
        "The value has a character other than `A-Za-z0-9 _.:/=+-@`, begins or ends with a space, begins with `aws:`, is empty, or has more than 256 characters.",
    ),
    ("patch-too-costly", "The patch would have more than 10,000 operations.", ""),
    (
        "patch-too-large",
        "The patch would be larger than 1.5 MiB.",
        "etcd stores no larger object by default.",
    ),
    (
        "pod-network",
        "With `podIdentity`: an annotation or a label lets a network plugin redirect the pod's connections.",
        "The plugins are Multus, Calico, Kuma, Consul and Istio's ambient mode ([list](injection.md#base-credentials)). The sidecar sends the base token without TLS, so they could read it.",
    ),
    (
        "pod-security",
        "The namespace enforces less than `restricted` (config: `podSecurity`), or `restricted` of a version before v1.22.",
        "",
    ),
    ("port-taken", "A container declares the sidecar's port.", ""),
    (
        "reserved-annotation",
        "The pod brings an annotation that only the webhook writes, or one that only a trusted creator may set.",
        "A controller that copies annotations from a template would write its own value back, and the guard would refuse \
         each of its updates.",
    ),
    (
        "reserved-name",
        "A pod without a sidecar uses a container or volume name that is reserved for the injector.",
        "",
    ),
    (
        "reserved-volume",
        "A container mounts one of the sidecar's volumes in another way than the webhook does.",
        "",
    ),
    ("role-denied", "The webhook's IAM role is not authorized to read the SSM parameter.", ""),
    ("role-malformed", "The published value is not the ARN of an IAM role.", ""),
    ("role-missing", "No role is published for the tenant.", "The message names the path."),
    ("role-not-allowed", "One of the config's `roles.allow` lists does not allow the role.", ""),
    ("role-secure-string", "The SSM parameter has type SecureString.", ""),
    (
        "role-unavailable",
        "The webhook has no cached role, and cannot read it from SSM in time.",
        "SSM sends no response, throttles the call or returns an error, or the webhook has no AWS credentials.",
    ),
    (
        "role-wrong-type",
        "The SSM parameter has another type than String or SecureString, such as StringList.",
        "",
    ),
    (
        "session-illegal",
        "A trusted creator set a session name that is not legal in a SourceIdentity.",
        "The name has a character other than `A-Za-z0-9_.,+=@-`, is empty, or has more than 253 characters.",
    ),
    (
        "session-too-long",
        "With `session: pod-name`: the pod's name does not fit in a SourceIdentity.",
        "",
    ),
    (
        "sidecar-user",
        "A container runs as the sidecar's user, by its own `runAsUser` or by the pod's.",
        "",
    ),
    (
        "static-credentials",
        "A container sets static keys, a profile, an AWS config file or a Bedrock bearer token.",
        "[sidecar.md](sidecar.md#variables-that-take-precedence) lists the variables, and the system properties of a JVM.",
    ),
    (
        "tenant-missing",
        "Neither a label nor the name of the namespace defines a tenant, or the tenant is not a valid DNS label.",
        "Without a label, the tenant is the name of the namespace without the prefix `tenants-`.",
    ),
    (
        "tenant-too-long",
        "The tenant's name is too long for a SourceIdentity.",
        "It has at most 21 characters if the session is the pod's UID, and 45 if a trusted creator names the session.",
    ),
    (
        "token-path-taken",
        "A container mounts another volume at or below `/var/run/fab-session`.",
        "In most images `/run/fab-session` is the same directory.",
    ),
    ("too-many-containers", "An agent pod has more than 256 containers and init containers.", ""),
    (
        "too-many-items",
        "A list of the pod or of a container has too many items.",
        "A pod has at most 1024 labels, annotations, node selector entries or volumes. A container has at most 1024 variables or mounts. Each list has at most 128 items that the webhook acts on.",
    ),
    (
        "unknown-component",
        "No component of the config names the pod's value of `fab.nanohype.dev/component`, or no component matches the pod.",
        "",
    ),
    ("unreadable-pod", "A part of the pod does not match the Pod API schema.", ""),
    (
        "windows",
        "The pod requests Windows, by `os.name` or the node selector `kubernetes.io/os`.",
        "",
    ),
];

/// Meanings of the sidecar's codes for calls to AWS.
const AWS: &[Meaning] = &[
    (
        "assume-role-denied",
        "STS denies `sts:AssumeRole`, or denies the call without naming the action.",
        "The trust policy does not name the base role, or one of its conditions does not match. Or a policy of the base role, its permissions boundary or the organization does not allow the action.",
    ),
    (
        "assume-role-rejected",
        "STS rejects the call as invalid, such as a duration above the role's maximum.",
        "",
    ),
    ("base-credentials-expired", "The base credentials expired before the sidecar used them.", ""),
    ("base-credentials-refused", "AWS rejects the pod's token or the base credentials.", ""),
    (
        "base-credentials-unavailable",
        "The sidecar gets no base credentials.",
        "The Pod Identity agent (or STS, for web identities) does not respond with credentials within 7 seconds, the EKS Pod Identity association does not exist, or the token file does not exist.",
    ),
    (
        "base-role-denied",
        "The base role's own policies do not allow the action that the message names.",
        "",
    ),
    ("boundary-denied", "The permissions boundary of the base role does not allow the action.", ""),
    ("clock-skewed", "By the node's clock, the credentials that STS issued are expired.", ""),
    (
        "issued-token-expired",
        "STS reports that the token of the session issuer is expired.",
        "STS tolerates 5 minutes, so the clock of the issuer's node is wrong.",
    ),
    (
        "issued-token-refused",
        "STS rejects the token of the session issuer.",
        "The IAM OIDC provider does not exist in the account of the role, has another URL or client ID, or the published files are of another issuer. CloudTrail may have no event of it.",
    ),
    (
        "issuer-contradicts",
        "The session issuer decides on another role or SourceIdentity than the webhook did.",
        "The sidecar does not use the token. The message has the role or SourceIdentity of the issuer.",
    ),
    (
        "issuer-keys-unavailable",
        "STS cannot read the issuer's discovery document or public keys, or these lack the signing key.",
        "STS reads them from the internet, at the URL of the issuer.",
    ),
    (
        "issuer-refused",
        "The session issuer refuses the pod a token.",
        "The message contains the issuer's [code](#session-issuer) and remedy.",
    ),
    (
        "issuer-unavailable",
        "The sidecar gets no token from the session issuer.",
        "The issuer does not respond within 7 seconds, its certificate is not of the CA in `FAB_SESSION_ISSUER_CA`, the token file does not exist, or the issuer responds with 503 and a [code](#session-issuer).",
    ),
    (
        "not-bound",
        "No SandboxClaim has the pod's Sandbox yet.",
        "Not a failure: a pod of a warm pool waits for its claim. Only for a component with `session: sandbox-claim`.",
    ),
    (
        "organization-denied",
        "A service control policy or resource control policy does not allow the action.",
        "",
    ),
    (
        "pod-changed",
        "The file with the pod's token has the token of another pod than when the sidecar started.",
        "The container was restored from a checkpoint. The sidecar has dropped its credentials, and gets no others until it is restarted.",
    ),
    ("region-disabled", "STS is not active in the region for the account.", ""),
    (
        "session-tags-too-large",
        "The session tags exhaust the size limit of STS: those of the base credentials, or with `webIdentity` those of the JWT.",
        "",
    ),
    (
        "set-source-identity-denied",
        "`sts:SetSourceIdentity` is missing in the trust policy.",
        "It can also be missing in the policies of the base role, if STS does not name the policy.",
    ),
    ("signature-refused", "The node's clock is wrong, or a proxy changes requests.", ""),
    (
        "source-identity-missing",
        "The issued credentials do not carry the session's SourceIdentity, and the sidecar does not serve them.",
        "The endpoint that issued them is not STS.",
    ),
    ("sts-throttled", "The account calls STS too often.", ""),
    ("sts-unavailable", "STS sends no response, or none that the sidecar can read.", ""),
    (
        "tag-session-denied",
        "`sts:TagSession` is missing in the trust policy.",
        "The session tags of EKS Pod Identity are passed on. The action has no condition key `sts:SourceIdentity`, so it needs a statement of its own.",
    ),
    (
        "vpc-endpoint-denied",
        "The policy of the VPC endpoint for STS does not allow the action.",
        "",
    ),
    (
        "web-identity-denied",
        "STS denies `sts:AssumeRoleWithWebIdentity`.",
        "The trust policy of the role does not allow one of the three actions, or a condition does not match. STS does not name the action.",
    ),
];

/// Meanings of the sidecar's codes for requests of clients.
const REQUESTS: &[Meaning] = &[
    (
        "host-not-loopback",
        "The `Host` header is not a loopback name, or has another port than the sidecar's.",
        "",
    ),
    ("method-not-get", "The method of the request is not GET.", ""),
    (
        "no-such-path",
        "The path does not exist.",
        "The status is not 404, which some SDKs take for another kind of endpoint.",
    ),
    (
        "not-a-proxy",
        "The client sends the request as to a proxy.",
        "The status is not 404, which some SDKs take for another kind of endpoint.",
    ),
    ("starting", "The first call to AWS is still running, for 15 seconds at most.", ""),
    ("token-wrong", "The request does not carry the session token.", ""),
];

/// Meanings of the session issuer's codes.
const ISSUER: &[Meaning] = &[
    ("account-differs", "The pod runs as another service account than that of the token.", ""),
    (
        "api-unavailable",
        "The API server does not confirm the token, or does not return the pod or the guard's binding, in time.",
        "Also, the token can name a signing key of the API server that the issuer does not know yet.",
    ),
    (
        "busy",
        "The pod, its namespace or all pods together request too many tokens.",
        "A pod gets three tokens at once and then one in 20 seconds ([limits](issuer.md#limits)). Requests that fail count less.",
    ),
    (
        "claim-gone",
        "The SandboxClaim of the pod's Sandbox was deleted, or is being deleted.",
        "A new claim of the same name is another session. The pod keeps its credentials until they expire.",
    ),
    (
        "guard-missing",
        "The pod's session has a name, a tag or a SandboxClaim, and the binding of a policy of the guard does not exist, or does not deny in all namespaces.",
        "The policy is `fab-session-injector-issuer-pods`, and for a SandboxClaim also `fab-session-injector-sandbox-pods` and `fab-session-injector-sandboxes`, which the chart has as long as a component has `session: sandbox-claim`. Pods whose session is their UID get tokens nevertheless.",
    ),
    (
        "key-unavailable",
        "The signing key does not sign.",
        "KMS denies, throttles or does not answer the call. The issuer's log has the error (`cannot sign`).",
    ),
    (
        "key-unpublished",
        "The issuer did not find its signing key in the published keys.",
        "STS would reject its tokens. The issuer reads the file once a minute. While the key is missing, it reads it every 5 seconds.",
    ),
    (
        "namespace-not-enabled",
        "The pod's namespace does not have the label `fab.nanohype.dev/session-injection=enabled`.",
        "Running pods of a namespace that is set to `audit` keep their credentials until these expire.",
    ),
    (
        "no-session",
        "The sidecar's variable `FAB_SESSION_ID` defines no session that the issuer accepts.",
        "",
    ),
    (
        "not-injected",
        "The pod is not as the webhook injects it.",
        "The issuer requires the native sidecar, and that only the sidecar has a token for the issuer. It does not compare other fields, so an upgrade does not affect running pods.",
    ),
    (
        "pod-gone",
        "The pod of the token does not exist any more, has finished, or ends within seconds.",
        "",
    ),
    (
        "predates-guard",
        "The pod's session has a name, a tag or a SandboxClaim, and the pod is not at least a minute younger than the policy `fab-session-injector-issuer-pods` and its binding.",
        "With `session: sandbox-claim` the same holds for the pod and its Sandbox and the policies of Sandboxes. A tenant could have written the name. A binding that is created again is younger than running pods.",
    ),
    (
        "role-changed",
        "The tenant has another role than at the creation of the pod.",
        "The sidecar assumes only the role that the webhook wrote into the pod. The issuer notices another role within `refreshSeconds`, as the webhook does.",
    ),
    (
        "role-unavailable",
        "The issuer has no cached role of the tenant, and cannot read it from SSM in time.",
        "",
    ),
    (
        "role-unusable",
        "No role is published for the tenant, or `roles.allow` does not accept it.",
        "",
    ),
    (
        "sandbox-gone",
        "The controller of the pod is no Sandbox of the pod's name, or this Sandbox was deleted.",
        "Only for a component with `session: sandbox-claim`.",
    ),
    (
        "tenant-missing",
        "Neither a label nor the name of the namespace defines a tenant, or the tenant is not a valid DNS label.",
        "",
    ),
    ("tenant-too-long", "Tenant and session together are too long for a SourceIdentity.", ""),
    (
        "token-invalid",
        "The request has no token that the API server signed for a pod and for the audience of the issuer.",
        "A token with a second audience is refused as well.",
    ),
    (
        "token-rejected",
        "The API server's TokenReview does not confirm the token.",
        "The pod was deleted, or the token is expired.",
    ),
    (
        "unbound",
        "The pod's Sandbox is in a SandboxWarmPool, and no SandboxClaim has it yet.",
        "The sidecar reports it as [`not-bound`](#not-bound), and waits.",
    ),
];

/// Meanings of the guard's codes.
const GUARD: &[Meaning] = &[
    (
        "guard-agent-env",
        "A session variable of a container other than the sidecar and proxies has another value than the sidecar's.",
        "The variables are `FAB_SESSION_` with `DURATION`, `ID`, `IDENTITY`, `ROLE_ARN` and `TENANT`. If a name appears more than once, each entry is compared: the kubelet uses the last one.",
    ),
    (
        "guard-annotation",
        "A session annotation is on a pod without a session, differs from the sidecar's variables, or is changed later.",
        "There are four: `fab.nanohype.dev/` with `session-id`, `source-identity`, `session-role-arn` and `component`. Pods without a session are those with `none` and those that are no agents. Later changes, also by `pods/status`, are refused on any pod.",
    ),
    (
        "guard-aws-token",
        "A container other than the sidecar mounts a volume that projects a token for an audience of AWS.",
        "The rule covers components with `none` as well and, with `guard.denyAwsTokens: all`, pods that are no agents. A volume that no container mounts is admitted.",
    ),
    (
        "guard-base-credentials",
        "A container sets a variable by which SDKs find base credentials, or another endpoint than the sidecar's.",
        "The rule covers components with `none` as well.",
    ),
    (
        "guard-binding",
        "A Binding with annotations or labels comes from a user that may not bind pods in all namespaces.",
        "The API server writes them over those of the pod. The labels `topology.kubernetes.io/region` and `topology.kubernetes.io/zone` are admitted: the API server itself adds them, from the node.",
    ),
    (
        "guard-component",
        "The label `fab.nanohype.dev/component` has a value that no component matches.",
        "",
    ),
    (
        "guard-ephemeral-mount",
        "An ephemeral container mounts a volume of the sidecar, or a volume with a token for AWS that no other container mounts.",
        "",
    ),
    ("guard-ephemeral-target", "An ephemeral container targets the sidecar.", ""),
    (
        "guard-ephemeral-user",
        "An ephemeral container runs as the user of the sidecar or of the webhook.",
        "",
    ),
    (
        "guard-exec",
        "A user runs exec or attach on the sidecar.",
        "Without a container name, the API server never selects the sidecar.",
    ),
    (
        "guard-fab-operator",
        "A container sets `FAB_OPERATOR`, and the namespace does not have the label `fab.nanohype.dev/operator=keep`.",
        "The rule covers components with `env` and `none` as well.",
    ),
    (
        "guard-host-namespace",
        "The pod sets `hostNetwork`, `hostPID` or `shareProcessNamespace`.",
        "The rule covers components with `none` as well.",
    ),
    (
        "guard-image",
        "The sidecar's image is neither the current one nor a previous one.",
        "During an upgrade by Argo CD, list the previous image ([upgrades](upgrade.md)). If a webhook rewrites images, set `config.sidecar.image` to its result.",
    ),
    ("guard-image-update", "A request changes the sidecar's image in a running pod.", ""),
    (
        "guard-issuer-session",
        "The sidecar of a pod with a token for the session issuer gets a session name that is neither the pod's UID nor from a trusted creator, or `FAB_SESSION_ON_BEHALF_OF` that is not from one.",
        "The issuer trusts both. The policy `fab-session-injector-pods` compares them as well (`guard-sidecar-env`).",
    ),
    (
        "guard-issuer-token",
        "A user other than a kubelet requests a token for the audience of the session issuer.",
        "The rule covers every service account of every namespace, and the users in `guard.tokenCreators`.",
    ),
    (
        "guard-issuer-volume",
        "A volume projects a token for the session issuer, and is not the sidecar's.",
        "The rule covers all namespaces. Only the volume `fab-session-base` of an agent with a sidecar, in an `enabled` namespace, projects this audience.",
    ),
    (
        "guard-mount",
        "A container other than the sidecar mounts `fab-session-base` or `fab-session-empty`, or mounts `fab-session-token` other than read-only at its path.",
        "",
    ),
    (
        "guard-network",
        "With `podIdentity`: an annotation that keeps Istio or Linkerd from redirecting the base token is missing or has another value.",
        "",
    ),
    (
        "guard-network-update",
        "With `podIdentity`: a change of an annotation or label lets a network plugin redirect the base token.",
        "The network of a pod with scheduling gates is set up after such a change.",
    ),
    (
        "guard-pod-network",
        "With `podIdentity`: the pod sets its own network in a network plugin, or Istio's ambient mode captures it.",
        "The plugins are Multus, Calico, Kuma and Consul. Ambient mode captures a pod by its label `istio.io/dataplane-mode` or by that of its namespace.",
    ),
    (
        "guard-pod-security",
        "The namespace enforces less than `config.podSecurity`, or `restricted` of a version before v1.22.",
        "The rule covers components with `none` as well.",
    ),
    (
        "guard-reserved-name",
        "A pod without a sidecar uses a container or volume name that is reserved for the injector.",
        "",
    ),
    (
        "guard-resize",
        "A `pods/resize` request changes the sidecar's resources.",
        "A VerticalPodAutoscaler that resizes in place needs `mode: \"Off\"` for `fab-session-credentials`.",
    ),
    (
        "guard-sandbox-adoption",
        "A pod that was created for a Sandbox gets another Sandbox as its controller.",
        "Only for pods of a component with `session: sandbox-claim`: such a pod would get a second session.",
    ),
    (
        "guard-sandbox-bound",
        "A Sandbox gets a SandboxClaim or a SandboxWarmPool, and was not in a SandboxWarmPool before.",
        "The rule covers the controller of agent-sandbox, too. A Sandbox has one claim in its life.",
    ),
    (
        "guard-sandbox-label",
        "A SandboxClaim becomes the controller of a Sandbox whose label `agents.x-k8s.io/claim-uid` is not the UID of the claim.",
        "The label stays when the reference is removed. By it the session issuer knows that the Sandbox had a claim.",
    ),
    (
        "guard-sandbox-owner",
        "A user other than the controller of agent-sandbox changes which pool or claim has a Sandbox.",
        "The rule covers all namespaces, and the label `agents.x-k8s.io/claim-uid`. A reference may be removed.",
    ),
    (
        "guard-sandbox-pod",
        "A user other than the controller of agent-sandbox creates or changes a pod so that a Sandbox is its controller.",
        "The rule covers all namespaces, if a component has `session: sandbox-claim`. A reference may be removed.",
    ),
    (
        "guard-service",
        "With `podIdentity` and `ipFamily: ipv6`: a Service takes the address of the node's Pod Identity agent.",
        "The rule covers Services of all namespaces: their `externalIPs`, and the addresses in `status.loadBalancer`.",
    ),
    (
        "guard-sidecar",
        "An agent pod has no sidecar.",
        "Usually the API server did not call the webhook: check that its configuration `fab-session-injector` exists and that the webhook responds.",
    ),
    (
        "guard-sidecar-env",
        "A variable of the sidecar is missing, appears more than once, is not the webhook's, or has another value.",
        "Tenant and base credentials are fixed. The role must be one that `config.roles.allow` allows. A session that is no field of the pod requires a trusted creator of `sessionCreators`.",
    ),
    (
        "guard-sidecar-fields",
        "A field of the sidecar differs from what the webhook writes.",
        "The message names the fields: `args`, `command`, `lifecycle`, probes, `securityContext`, mounts, kinds of resources and others.",
    ),
    (
        "guard-sidecar-place",
        "An init container that is not in `config.proxyContainers` precedes the sidecar.",
        "",
    ),
    (
        "guard-static-credentials",
        "A container sets static keys, a profile, an AWS config file or a Bedrock bearer token.",
        "The rule covers components with `env` and `none` as well.",
    ),
    (
        "guard-token",
        "A user requests a token for an audience of AWS, for a fenced service account or one that a component names.",
        "The audiences are `sts.amazonaws.com`, `pods.eks.amazonaws.com` and those of `config.awsAudiences`. Requests of kubelets are admitted. With `guard.denyAwsTokens: all`, the rule covers every service account of the namespace except those that an `exempt` component names. List a user that syncs pods from elsewhere, or that gets AWS credentials for such accounts on purpose, in `guard.tokenCreators` (globs of user names).",
    ),
    (
        "guard-too-many",
        "The pod has too many containers or list items, or a token request has more than 64 audiences.",
        "With the session issuer, a pod of any namespace has at most 4096 volumes and 4096 sources, and a request 65,536 audiences. In `enabled` namespaces, a pod has at most 257 containers, 1184 volumes, and 1184 sources in its projected volumes together. A container has at most 1184 variables and 1184 mounts, and all containers together 65,536 variables and mounts. The rule covers pods that are no agents as well.",
    ),
    (
        "guard-user",
        "A container runs as the sidecar's user (`config.sidecar.uid`) or as the webhook's (61017), by its own `runAsUser` or by the pod's.",
        "The rule covers components with `env` and `none` as well, and pods that are no agents.",
    ),
    ("guard-volume", "A volume of the sidecar differs from what the webhook writes.", ""),
];

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
        Refusal::IssuerMissing { namespace: namespace() },
        Refusal::IssuerTokenVolume {
            volume: "issuer-token".to_owned(),
            audience: "fab-session-issuer.prod".to_owned(),
        },
        Refusal::NamespaceUnknown { namespace: namespace() },
        Refusal::NotAPodCreation { found: "\"UPDATE\" of \"pods\"".to_owned() },
        Refusal::OnBehalfOfIllegal { rule: NotOnBehalfOf::Character { found: '"', at: 5 } },
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
        Refusal::ReservedAnnotation { key: "fab.nanohype.dev/session-id" },
        Refusal::ReservedAnnotation { key: "fab.nanohype.dev/on-behalf-of" },
        Refusal::ReservedName {
            what: "container",
            name: "fab-session-credentials".to_owned(),
            component: "fleet".to_owned(),
        },
        Refusal::ReservedVolume { container: agent(), volume: "fab-session-base".to_owned() },
        Refusal::RoleDenied { place: place() },
        Refusal::RoleMissing { place: place() },
        Refusal::RoleUnavailable {
            tenant: acme.clone(),
            place: place(),
            cause: Some(Cause::Throttled),
        },
        Refusal::RoleUnavailable { tenant: acme.clone(), place: place(), cause: None },
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
