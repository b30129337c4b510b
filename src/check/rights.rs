//! Lists users with RBAC permissions on agent pods and their service accounts. Only the guard
//! restricts how they use these permissions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{CheckId, Findings, NamespaceContents, Seen, items, name, namespace::subject};
use crate::namespaces::Namespace;

/// Checks ClusterRoleBindings, which apply in every namespace.
pub(super) fn of_cluster(cluster: &Seen<Vec<Value>>, found: &mut Findings) {
    let Some(objects) = cluster.or_report(CheckId::Rbac, CLUSTER, found) else { return };
    let rights = RIGHTS.iter().chain(&EVERYWHERE);
    report_holders(
        CLUSTER,
        of_kind(objects, "ClusterRoleBinding"),
        &[objects],
        rights,
        None,
        found,
    );
}

pub(super) fn of_namespace(
    namespace: &Namespace,
    contents: &NamespaceContents,
    cluster: &Seen<Vec<Value>>,
    found: &mut Findings,
) {
    let subject = subject(namespace);
    let Some(objects) = contents.rights.or_report(CheckId::Rbac, &subject, found) else { return };
    let (cluster_roles, hidden) = match cluster {
        Seen::Known(objects) => (&objects[..], None),
        Seen::Hidden(why) => (&[][..], Some(&**why)),
    };
    let bindings = || of_kind(objects, "RoleBinding");
    let asks_for_hidden = bindings().any(|binding| binding["roleRef"]["kind"] == "ClusterRole");
    let hidden = hidden.filter(|_| asks_for_hidden);
    report_holders(&subject, bindings(), &[objects, cluster_roles], RIGHTS.iter(), hidden, found);
}

/// `hidden` is the reason why ClusterRoles could not be read.
fn report_holders<'v>(
    subject: &str,
    bindings: impl Iterator<Item = &'v Value>,
    roles: &[&[Value]],
    rights: impl Iterator<Item = &'static Right> + Clone,
    hidden: Option<&str>,
    found: &mut Findings,
) {
    let mut holders: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut all_users = BTreeSet::new();
    for binding in bindings {
        let mut all = roles.iter().copied().flatten();
        let Some(role) = all.find(|object| is_role_of(binding, object)) else { continue };
        for Right { name: right, .. } in rights.clone().filter(|right| gives(role, right)) {
            for holder in items(binding, "subjects").filter_map(holder) {
                if ALL_USERS.contains(&&*holder) {
                    all_users
                        .insert(format!("{holder} may {right}, granted by {}", title(binding)));
                } else if !is_built_in(binding) {
                    holders.entry(right).or_default().insert(holder);
                }
            }
        }
    }
    for message in &all_users {
        found.error(CheckId::Rbac, subject, message);
    }
    for (right, holders) in &holders {
        let holders: Vec<&str> = holders.iter().map(String::as_str).collect();
        found.warning(CheckId::Rbac, subject, format!("{} may {right}", holders.join(", ")));
    }
    if let Some(why) = hidden {
        found.unknown(CheckId::Rbac, subject, format!("cannot read ClusterRoles: {why}"));
    } else if all_users.is_empty() && holders.is_empty() {
        found.ok(
            CheckId::Rbac,
            subject,
            "only default bindings of Kubernetes grant these permissions",
        );
    }
}

fn of_kind<'v>(objects: &'v [Value], kind: &'static str) -> impl Iterator<Item = &'v Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn is_role_of(binding: &Value, object: &Value) -> bool {
    let role = &binding["roleRef"];
    object["kind"] == role["kind"] && role["name"] == name(object)
}

/// Returns whether the role grants the permission.
/// <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>
fn gives(role: &Value, right: &Right) -> bool {
    let Right { name: _, group, resources, verbs } = right;
    let names = |rule: &Value, key: &str, wanted: &[&str]| {
        items(rule, key).any(|item| item.as_str().is_some_and(|item| wanted.contains(&item)))
    };
    items(role, "rules").any(|rule| {
        names(rule, "apiGroups", &[group, "*"])
            && names(rule, "resources", &[resources, &["*"][..]].concat())
            && names(rule, "verbs", &[verbs, &["*"][..]].concat())
    })
}

fn holder(subject: &Value) -> Option<String> {
    let name = subject["name"].as_str()?;
    Some(match subject["namespace"].as_str() {
        Some(namespace) => format!("service account {namespace}/{name}"),
        None => name.to_owned(),
    })
}

/// Returns whether the binding is a default of Kubernetes. A RoleBinding never counts: an admin of
/// the namespace can set its labels.
fn is_built_in(binding: &Value) -> bool {
    binding["kind"] == "ClusterRoleBinding"
        && binding["metadata"]["labels"][BOOTSTRAPPING] == "rbac-defaults"
}

fn title(binding: &Value) -> String {
    format!("{} {}", binding["kind"].as_str().unwrap_or_default(), name(binding))
}

/// A permission, with its name in messages. RBAC has a wildcard for a subresource of all resources
/// (`*/exec`), but none for all subresources of one resource.
struct Right {
    name: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
}

const RIGHTS: [Right; 10] = [
    right("create serviceaccounts/token", &["serviceaccounts/token", "*/token"], &["create"]),
    right("impersonate service accounts", &["serviceaccounts"], &["impersonate"]),
    Right {
        group: AUTHENTICATION,
        ..right(
            "impersonate service accounts",
            &["serviceaccounts"],
            &["impersonate:serviceaccount"],
        )
    },
    right("change pods", &["pods"], &["patch", "update"]),
    right("exec into pods", &["pods/exec", "*/exec"], &["create", "get"]),
    right("attach to pods", &["pods/attach", "*/attach"], &["create", "get"]),
    right(
        "add ephemeral containers",
        &["pods/ephemeralcontainers", "*/ephemeralcontainers"],
        &["patch", "update"],
    ),
    right("resize pods", &["pods/resize", "*/resize"], &["patch", "update"]),
    right("write the status of pods", &["pods/status", "*/status"], &["patch", "update"]),
    right("bind pods", &["bindings", "pods/binding", "*/binding"], &["create"]),
];
/// Permissions on resources without a namespace.
const EVERYWHERE: [Right; 2] = [
    right("impersonate users or groups", &["groups", "users"], &["impersonate"]),
    Right {
        group: AUTHENTICATION,
        ..right("impersonate users or groups", &["groups", "users"], &["impersonate:user-info"])
    },
];

const fn right(
    name: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Right {
    Right { name, group: "", resources, verbs }
}

/// The API group of constrained impersonation.
/// <https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/>
const AUTHENTICATION: &str = "authentication.k8s.io";
/// The anonymous user, and the groups of all users and of all service accounts.
/// <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings>
const ALL_USERS: [&str; 4] = [
    "system:anonymous",
    "system:authenticated",
    "system:serviceaccounts",
    "system:unauthenticated",
];
const CLUSTER: &str = "cluster";
const BOOTSTRAPPING: &str = "kubernetes.io/bootstrapping";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Returns the findings for a ClusterRoleBinding of `subject` to a role with this rule.
    fn found(rule: Value, subject: Value, labels: Value) -> Vec<(crate::check::Level, String)> {
        let objects = vec![
            json!({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [rule]}),
            json!({
                "kind": "ClusterRoleBinding", "metadata": {"name": "b", "labels": labels},
                "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [subject],
            }),
        ];
        let mut found = Findings::default();
        of_cluster(&Seen::Known(objects), &mut found);
        found.iter().map(|finding| (finding.level, finding.message.clone())).collect()
    }

    #[test]
    fn rights_of_all_users_are_errors_and_of_others_warnings() {
        use crate::check::Level::{Error, Ok, Warning};
        let exec = || json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]});
        let all = || json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        let read = || json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]});
        let user = |name: &str| json!({"kind": "User", "name": name});
        let built_in = || json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
        let of = |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["create"]});
        let as_other = |group: &str, resource: &str, verb: &str| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
        let accounts = || vec![(Warning, "eve may impersonate service accounts")];
        let cases = [
            (exec(), user("eve"), json!({}), vec![(Warning, "eve may exec into pods")]),
            (of("*/exec"), user("eve"), json!({}), vec![(Warning, "eve may exec into pods")]),
            (
                of("*/token"),
                user("eve"),
                json!({}),
                vec![(Warning, "eve may create serviceaccounts/token")],
            ),
            (of("pods/attach"), user("eve"), json!({}), vec![(Warning, "eve may attach to pods")]),
            (of("pods/*"), user("eve"), json!({}), vec![(Ok, "only default bindings")]),
            (as_other("", "serviceaccounts", "impersonate"), user("eve"), json!({}), accounts()),
            (
                as_other("authentication.k8s.io", "serviceaccounts", "impersonate:serviceaccount"),
                user("eve"),
                json!({}),
                accounts(),
            ),
            (
                as_other("", "groups", "impersonate"),
                user("eve"),
                json!({}),
                vec![(Warning, "eve may impersonate users or groups")],
            ),
            (
                as_other("", "pods", "impersonate"),
                user("eve"),
                json!({}),
                vec![(Ok, "only default bindings")],
            ),
            (
                as_other("authentication.k8s.io", "tokenreviews", "*"),
                user("eve"),
                json!({}),
                vec![(Ok, "only default bindings")],
            ),
            (of("bindings"), user("eve"), json!({}), vec![(Warning, "eve may bind pods")]),
            (read(), user("eve"), json!({}), vec![(Ok, "only default bindings")]),
            (all(), user("system:masters"), built_in(), vec![(Ok, "only default bindings")]),
            (
                exec(),
                json!({"kind": "ServiceAccount", "name": "a", "namespace": "n"}),
                json!({}),
                vec![(Warning, "service account n/a may exec into pods")],
            ),
            (
                exec(),
                json!({"kind": "Group", "name": "system:authenticated"}),
                built_in(),
                vec![(
                    Error,
                    "system:authenticated may exec into pods, granted by ClusterRoleBinding b",
                )],
            ),
        ];
        for (rule, subject, labels, want) in cases {
            let found = found(rule, subject, labels);
            assert_eq!(found.len(), want.len(), "{found:?}");
            for ((level, message), (wanted, begins)) in found.iter().zip(want) {
                assert!(*level == wanted && message.starts_with(begins), "{found:?}");
            }
        }
    }

    #[test]
    fn a_binding_to_an_unreadable_cluster_role_is_unknown() {
        let binding = |kind: &str| {
            json!({
                "kind": "RoleBinding", "metadata": {"name": "b"},
                "roleRef": {"kind": kind, "name": "r"}, "subjects": [{"kind": "User", "name": "eve"}],
            })
        };
        let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]});
        let role = json!({"kind": "Role", "metadata": {"name": "r"}, "rules": [rule]});
        let unknown = "unknown namespace a: cannot read ClusterRoles: is forbidden";
        let mut labelled = binding("Role");
        labelled["metadata"]["labels"] = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
        let eve = "warning namespace a: eve may exec into pods";
        let rule = json!({"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]});
        let users = json!({"kind": "Role", "metadata": {"name": "r"}, "rules": [rule]});
        let cases: [(Vec<Value>, &[&str]); 5] = [
            (
                vec![],
                &["ok namespace a: only default bindings of Kubernetes grant these permissions"],
            ),
            (vec![labelled, role.clone()], &[eve]),
            (vec![binding("ClusterRole")], &[unknown]),
            (vec![binding("Role"), binding("ClusterRole"), role], &[eve, unknown]),
            // Users have no namespace, so a Role cannot grant permissions on them.
            (
                vec![binding("Role"), users],
                &["ok namespace a: only default bindings of Kubernetes grant these permissions"],
            ),
        ];
        let config = crate::config::Config::default();
        let namespace = Namespace::read("a", |_| None, &config.tenant);
        for (rights, want) in cases {
            let nothing = || Seen::Known(Vec::new());
            let contents = NamespaceContents {
                accounts: nothing(),
                limit_ranges: nothing(),
                pods: nothing(),
                quotas: nothing(),
                rights: Seen::Known(rights),
                trial: None,
            };
            let mut found = Findings::default();
            of_namespace(&namespace, &contents, &Seen::Hidden("is forbidden".into()), &mut found);
            let found: Vec<String> = found.iter().map(|it| format!("{} {it}", it.level)).collect();
            assert_eq!(found, want);
        }
    }
}
