use super::Glob;

/// The requesting user of a pod, to be matched with the lists of users in the config.
///
/// A service account of the pod's own namespace matches no list: a tenant may impersonate it, and
/// run pods as it (the ClusterRole `edit` allows both).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Creator<'a>(Option<&'a str>);

impl<'a> Creator<'a> {
    /// `namespace` is the namespace of the request.
    pub fn new(username: &'a str, namespace: &str) -> Self {
        let of_namespace = |account: &str| {
            account
                .split_once(':')
                .is_some_and(|(account_namespace, _)| account_namespace == namespace)
        };
        let own = username.strip_prefix(SERVICE_ACCOUNT).is_some_and(of_namespace);
        Self((!own).then_some(username))
    }

    /// Returns the first glob that matches the user.
    pub fn listed_in(self, globs: &[Glob]) -> Option<&Glob> {
        let Self(username) = self;
        username.and_then(|username| globs.iter().find(|glob| glob.matches(username)))
    }
}

/// <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#service-account-tokens>
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_of_the_pods_namespace_matches_no_glob() {
        let all = [Glob::new("*")];
        let syncers = [Glob::new("system:serviceaccount:*:syncer")];
        let own = [Glob::new("system:serviceaccount:tenants-acme:syncer")];
        let cases = [
            ("system:serviceaccount:tenants-acme:syncer", "tenants-acme", false),
            ("system:serviceaccount:tenants-acme:syncer", "tenants-acm", true),
            ("system:serviceaccount:tenants-acme:syncer", "tenants-acme:syncer", true),
            ("system:serviceaccount:tenants-acme:syncer", "", true),
            ("system:serviceaccount:vcluster:syncer", "tenants-acme", true),
        ];
        for (username, namespace, want) in cases {
            let creator = Creator::new(username, namespace);
            for globs in [&all, &syncers] {
                assert_eq!(creator.listed_in(globs).is_some(), want, "{username} in {namespace}");
            }
        }
        let elsewhere = Creator::new("system:serviceaccount:tenants-acme:syncer", "tenants-beta");
        assert_eq!(elsewhere.listed_in(&own), Some(&own[0]));
        // Only the user of a service account has the prefix; these names only look similar.
        for username in ["", "jane", "tenants-acme:syncer", "system:serviceaccounts:tenants-acme"] {
            assert!(Creator::new(username, "tenants-acme").listed_in(&all).is_some(), "{username}");
        }
    }
}
