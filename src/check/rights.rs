//! Lists users with RBAC permissions on agent pods and their service accounts. Only the guard
//! restricts how they use these permissions.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use super::{
    CheckId, Findings, Objects, Seen,
    finding::{LONGEST, cut},
    namespace::{label, subject},
    objects::name,
};
use crate::{json::Json, namespaces::Namespace};

/// The permissions of roles by their name, as bits of [`all`]. Roles without any are left out.
#[derive(Debug, Default)]
pub(super) struct Granted(HashMap<String, u16>);

/// Checks ClusterRoleBindings, which apply in every namespace. Returns the permissions of
/// ClusterRoles.
pub(super) fn check_cluster_rights(cluster: &Seen<Objects>) -> (Seen<Granted>, Findings) {
    let mut found = Findings::default();
    let objects = match cluster {
        Seen::Known(objects) => objects,
        Seen::Hidden(why) => {
            found.unknown(CheckId::Rbac, CLUSTER, why);
            return (Seen::Hidden(why.clone()), found);
        }
    };
    let roles = Granted::read(objects, CLUSTER_ROLE);
    report_holders(
        CLUSTER,
        objects,
        CLUSTER_ROLE_BINDING,
        |_, role| roles.of(role),
        None,
        &mut found,
    );
    (Seen::Known(roles), found)
}

pub(super) fn check_rights(
    namespace: &Namespace,
    objects: &Seen<Objects>,
    cluster: &Seen<Granted>,
) -> Findings {
    let mut found = Findings::default();
    let subject = subject(namespace);
    let Some(objects) = objects.or_report(CheckId::Rbac, &subject, &mut found) else {
        return found;
    };
    let unknown = Granted::default();
    let (cluster_roles, hidden) = match cluster {
        Seen::Known(roles) => (roles, None),
        Seen::Hidden(why) => (&unknown, Some(&**why)),
    };
    let roles = Granted::read(objects, "Role");
    let granted = |kind: &str, role: &str| {
        let roles = if kind == CLUSTER_ROLE { cluster_roles } else { &roles };
        roles.of(role) & IN_NAMESPACES
    };
    let mut bindings = objects.of_kind(ROLE_BINDING);
    let hidden = hidden.filter(|_| bindings.any(|binding| role_of(binding).0 == CLUSTER_ROLE));
    report_holders(&subject, objects, ROLE_BINDING, granted, hidden, &mut found);
    found
}

/// Checks the bindings of this kind. `granted` returns the permissions of a role, by its kind and
/// name. `hidden` is the reason why ClusterRoles could not be read.
fn report_holders(
    subject: &str,
    objects: &Objects,
    kind: &str,
    granted: impl Fn(&str, &str) -> u16,
    hidden: Option<&str>,
    found: &mut Findings,
) {
    let mut holders: BTreeMap<&str, First> = BTreeMap::new();
    let mut all_users = First::default();
    for binding in objects.of_kind(kind) {
        let (role_kind, role) = role_of(binding);
        let granted = granted(&role_kind, &role);
        if granted == 0 {
            continue;
        }
        let title = name(binding);
        // A RoleBinding is never a default of Kubernetes: an admin of the namespace can set its
        // labels.
        let is_built_in = kind == CLUSTER_ROLE_BINDING
            && label(binding, BOOTSTRAPPING).is_some_and(|value| value == "rbac-defaults");
        let namespace = binding.at("metadata").at("namespace").string().unwrap_or_default();
        let subjects = binding.at("subjects").items();
        for holder in subjects.filter_map(|subject| holder(subject, &namespace)) {
            let is_all_users = ALL_USERS.contains(&&*holder);
            for (_, Right { name: right, .. }) in all().filter(|(bit, _)| granted & bit != 0) {
                if is_all_users {
                    all_users.insert(format!("{holder} may {right}, granted by {kind} {title}"));
                } else if !is_built_in {
                    holders.entry(right).or_default().insert(holder.clone());
                }
            }
        }
    }
    for message in &all_users.texts {
        found.error(CheckId::Rbac, subject, message);
    }
    if all_users.has_more {
        found.error(CheckId::Rbac, subject, format!("more {kind}s grant permissions to all users"));
    }
    for (right, First { texts, has_more, .. }) in &holders {
        let mut holders: Vec<&str> = texts.iter().map(String::as_str).collect();
        holders.extend(has_more.then_some("more users"));
        found.warning(CheckId::Rbac, subject, format!("{} may {right}", holders.join(", ")));
    }
    if let Some(why) = hidden {
        found.unknown(CheckId::Rbac, subject, format!("cannot read ClusterRoles: {why}"));
    } else if all_users.texts.is_empty() && holders.is_empty() {
        found.ok(
            CheckId::Rbac,
            subject,
            "only default bindings of Kubernetes grant these permissions",
        );
    }
}

impl Granted {
    fn read(objects: &Objects, kind: &str) -> Self {
        let granted = objects.of_kind(kind).map(|role| (name(role).into_owned(), grants(role)));
        Self(granted.filter(|(_, bits)| *bits != 0).collect())
    }

    fn of(&self, role: &str) -> u16 {
        self.0.get(role).copied().unwrap_or_default()
    }
}

/// The first texts in alphabetical order, up to [`LONGEST`] bytes: tenants decide how many there
/// are.
#[derive(Default)]
struct First {
    texts: BTreeSet<String>,
    bytes: usize,
    has_more: bool,
}

impl First {
    fn insert(&mut self, mut text: String) {
        cut(&mut text);
        let bytes = |text: &String| size_of::<String>() + text.len();
        let more = bytes(&text);
        if self.texts.insert(text) {
            self.bytes += more;
        }
        while self.bytes > LONGEST && self.texts.len() > 1 {
            self.bytes -= self.texts.pop_last().as_ref().map_or(0, bytes);
            self.has_more = true;
        }
    }
}

/// Returns kind and name of the role that the binding grants.
fn role_of(binding: Json<'_>) -> (Cow<'_, str>, Cow<'_, str>) {
    let role = binding.at("roleRef");
    let text = |key: &str| role.at(key).string().unwrap_or_default();
    (text("kind"), text("name"))
}

/// Returns the permissions that the role grants, as bits.
/// <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>
fn grants(role: Json<'_>) -> u16 {
    role.at("rules").items().fold(0, |bits, rule| {
        let named = |key: &str, is: fn(&Right, &str) -> bool| {
            rule.at(key).items().filter_map(Json::string).fold(0, |bits, item| {
                let named = all().filter(|(_, right)| item == "*" || is(right, &item));
                named.fold(bits, |bits, (bit, _)| bits | bit)
            })
        };
        let groups = named("apiGroups", |right, group| right.group == group);
        let resources = named("resources", |right, resource| right.resources.contains(&resource));
        bits | (groups & resources & named("verbs", |right, verb| right.verbs.contains(&verb)))
    })
}

/// Returns the user, the group or the service account to which a binding in `namespace` applies.
/// Only a service account has a namespace, that of the binding by default. For users and groups the
/// API server ignores the field, so a tenant may set it.
/// Source: `appliesToUser` in Kubernetes' pkg/registry/rbac/validation/rule.go.
fn holder(subject: Json<'_>, namespace: &str) -> Option<String> {
    let name = subject.at("name").string()?;
    if subject.at("kind").string()? != "ServiceAccount" {
        return Some(name.into_owned());
    }
    let own = subject.at("namespace").string().filter(|namespace| !namespace.is_empty());
    let namespace = own.as_deref().unwrap_or(namespace);
    (!namespace.is_empty()).then(|| format!("service account {namespace}/{name}"))
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

/// All permissions, each with its bit.
fn all() -> impl Iterator<Item = (u16, &'static Right)> {
    let rights = RIGHTS.iter().chain(&EVERYWHERE).enumerate();
    rights.map(|(index, right)| (1 << index, right))
}

/// The bits of [`RIGHTS`].
const IN_NAMESPACES: u16 = (1 << RIGHTS.len()) - 1;

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
const CLUSTER_ROLE: &str = "ClusterRole";
const CLUSTER_ROLE_BINDING: &str = "ClusterRoleBinding";
const ROLE_BINDING: &str = "RoleBinding";
const BOOTSTRAPPING: &str = "kubernetes.io/bootstrapping";

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use serde_json::{Value, json};

    use super::*;

    /// Returns the findings for a ClusterRoleBinding of `subject` to a role with this rule.
    fn found(rule: Value, subject: Value, labels: Value) -> Vec<(crate::check::Level, String)> {
        let role = json!({"metadata": {"name": "r"}, "rules": [rule]});
        let binding = json!({
            "metadata": {"name": "b", "labels": labels},
            "roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [subject],
        });
        let objects = Objects::of(CLUSTER_ROLE, &[role]);
        let objects = objects.beside(Objects::of(CLUSTER_ROLE_BINDING, &[binding]));
        let (_, found) = check_cluster_rights(&Seen::Known(objects));
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
            // The API server ignores the namespace of a group.
            (
                exec(),
                json!({"kind": "Group", "name": "system:authenticated", "namespace": "n"}),
                json!({}),
                vec![(
                    Error,
                    "system:authenticated may exec into pods, granted by ClusterRoleBinding b",
                )],
            ),
            // Without a namespace it is that of the binding, which a ClusterRoleBinding has not.
            (
                exec(),
                json!({"kind": "ServiceAccount", "name": "a"}),
                json!({}),
                vec![(Ok, "only default bindings")],
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
    fn the_first_of_very_many_holders_are_named() {
        let rule = |resource: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": ["create"]});
        let role = |name: &str, rule| json!({"metadata": {"name": name}, "rules": [rule]});
        let roles = [role("exec", rule("pods/exec")), role("bind", rule("pods/binding"))];
        let binding = |role: &str, subjects: Vec<Value>| {
            json!({
                "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": subjects,
            })
        };
        let users = (0..9999)
            .rev()
            .map(|index| json!({"kind": "User", "name": format!("user-{index:04}")}));
        let groups = (0..9999).map(|_| json!({"kind": "Group", "name": "system:authenticated"}));
        let bindings = [
            binding("exec", users.chain(groups).collect()),
            binding("bind", vec![json!({"kind": "User", "name": "zed"})]),
        ];
        let objects = Objects::of(CLUSTER_ROLE, &roles);
        let objects = objects.beside(Objects::of(CLUSTER_ROLE_BINDING, &bindings));
        let (_, found) = check_cluster_rights(&Seen::Known(objects));
        let [all, bind, exec] = &found.iter().map(|it| &*it.message).collect::<Vec<_>>()[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            (*all, *bind),
            (
                "system:authenticated may exec into pods, granted by ClusterRoleBinding b",
                "zed may bind pods"
            )
        );
        assert!(exec.starts_with("user-0000, user-0001, user-0002,"), "{exec}");
        assert!(exec.ends_with(", more users may exec into pods"), "{exec}");
        assert!((LONGEST / 4..LONGEST).contains(&exec.len()), "{}", exec.len());
    }

    #[test]
    fn a_binding_to_an_unreadable_cluster_role_is_unknown() {
        let binding = |kind: &str| {
            json!({
                "metadata": {"name": "b"},
                "roleRef": {"kind": kind, "name": "r"}, "subjects": [{"kind": "User", "name": "eve"}],
            })
        };
        let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]});
        let role = json!({"metadata": {"name": "r"}, "rules": [rule]});
        let unknown = "unknown namespace a: cannot read ClusterRoles: is forbidden";
        let mut labelled = binding("Role");
        labelled["metadata"]["labels"] = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
        let eve = "warning namespace a: eve may exec into pods";
        let rule = json!({"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]});
        let users = json!({"metadata": {"name": "r"}, "rules": [rule]});
        // Roles, bindings and findings.
        let mut own_account = binding("Role");
        own_account["metadata"]["namespace"] = "a".into();
        own_account["subjects"] = json!([{"kind": "ServiceAccount", "name": "default"}]);
        let cases: [(&[Value], &[Value], &[&str]); 6] = [
            (
                &[],
                &[],
                &["ok namespace a: only default bindings of Kubernetes grant these permissions"],
            ),
            (from_ref(&role), &[labelled], &[eve]),
            (
                from_ref(&role),
                &[own_account],
                &["warning namespace a: service account a/default may exec into pods"],
            ),
            (&[], &[binding("ClusterRole")], &[unknown]),
            (from_ref(&role), &[binding("Role"), binding("ClusterRole")], &[eve, unknown]),
            // Users have no namespace, so a Role cannot grant permissions on them.
            (
                &[users],
                &[binding("Role")],
                &["ok namespace a: only default bindings of Kubernetes grant these permissions"],
            ),
        ];
        let config = crate::config::Config::default();
        let namespace = Namespace::read("a", |_| None, &config.tenant);
        let hidden = Seen::Hidden("is forbidden".to_owned());
        for (roles, bindings, want) in cases {
            let objects = Objects::of("Role", roles).beside(Objects::of(ROLE_BINDING, bindings));
            let found = check_rights(&namespace, &Seen::Known(objects), &hidden);
            let found: Vec<String> = found.iter().map(|it| format!("{} {it}", it.level)).collect();
            assert_eq!(found, want);
        }
    }
}
