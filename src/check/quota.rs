//! Checks whether quotas and limit ranges of the namespace allow one more sidecar.

use super::{CheckId, Findings, NamespaceContents, Objects, namespace::subject, objects::name};
use crate::{
    config::{Config, Resources, quantity::thousandths},
    json::Json,
    namespaces::Namespace,
};

pub(super) fn check_quota(
    namespace: &Namespace,
    contents: &NamespaceContents,
    config: &Config,
) -> Findings {
    let mut found = Findings::default();
    let subject = subject(namespace);
    let resources = &config.sidecar.resources;
    if let Some(quotas) = contents.quotas.or_report(CheckId::Quota, &subject, &mut found) {
        report(CheckId::Quota, &subject, quotas, &mut found, |quota| lacks(quota, resources));
    }
    if let Some(ranges) = contents.limit_ranges.or_report(CheckId::LimitRange, &subject, &mut found)
    {
        let never = |range: Json<'_>| Lack { never: refuses(range, resources), now: Vec::new() };
        report(CheckId::LimitRange, &subject, ranges, &mut found, never);
    }
    found
}

/// The reasons why a quota or limit range does not allow one more sidecar.
#[derive(Default)]
struct Lack {
    /// The hard limit is too small.
    never: Vec<String>,
    /// Only the unused part is too small.
    now: Vec<String>,
}

fn report(
    check: CheckId,
    subject: &str,
    objects: &Objects,
    found: &mut Findings,
    compare: impl Fn(Json<'_>) -> Lack,
) {
    let (mut fits, mut count) = (true, 0);
    for object in objects.iter() {
        count += 1;
        let Lack { never, now } = compare(object);
        fits &= never.is_empty() && now.is_empty();
        let subject = format!("{subject}, {}", name(object));
        if !never.is_empty() {
            found.error(check, &*subject, never.join("; "));
        }
        if !now.is_empty() {
            found.warning(check, &*subject, now.join("; "));
        }
    }
    if fits {
        let message = match count {
            0 => "none in the namespace".to_owned(),
            _ => format!("{count} in the namespace, which allow one more sidecar"),
        };
        found.ok(check, subject, message);
    }
}

/// Checks a ResourceQuota. One with scopes is skipped: it applies only to some pods, and which ones
/// is not known before they are created.
/// <https://kubernetes.io/docs/concepts/policy/resource-quotas/>
fn lacks(quota: Json<'_>, resources: &Resources) -> Lack {
    let mut lack = Lack::default();
    let spec = quota.at("spec");
    if spec.at("scopes").items().next().is_some() || spec.at("scopeSelector").is_object() {
        return lack;
    }
    let Resources { cpu_request, memory_request, cpu_limit, memory_limit } = resources;
    let wanted = [
        ("cpu", cpu_request),
        ("requests.cpu", cpu_request),
        ("memory", memory_request),
        ("requests.memory", memory_request),
        ("limits.cpu", cpu_limit),
        ("limits.memory", memory_limit),
    ];
    for (key, needs) in wanted {
        let Some(hard) = spec.at("hard").at(key).string() else { continue };
        let used = quota.at("status").at("used").at(key).string().unwrap_or("0".into());
        let (Some(most), Some(taken)) = (thousandths(&hard), thousandths(&used)) else { continue };
        let (needs, wants) = (needs.as_str(), needs.thousandths());
        if most < wants {
            lack.never.push(format!("{key} is {hard}; one sidecar requires {needs}"));
        } else if most.saturating_sub(taken) < wants {
            lack.now.push(format!(
                "{key} is {hard}, of which {used} is used now; one sidecar requires {needs}"
            ));
        }
    }
    lack
}

/// Returns why the LimitRange does not allow the sidecar.
/// <https://kubernetes.io/docs/concepts/policy/limit-range/>
fn refuses(range: Json<'_>, resources: &Resources) -> Vec<String> {
    let Resources { cpu_request, memory_request, cpu_limit, memory_limit } = resources;
    let pairs = [("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)];
    let mut wrong = Vec::new();
    let items = range.at("spec").at("limits").items();
    let of_pods = items.filter_map(|item| {
        let of = item.at("type").string()?;
        ["Container", "Pod"].contains(&&*of).then_some((item, of))
    });
    // The API server accepts one item of each type.
    for (item, of) in of_pods.take(2) {
        for (resource, request, limit) in pairs {
            let (request, limit) = (request.as_str(), limit.as_str());
            let bound = |key: &str| item.at(key).at(resource).string();
            if let Some(most) = bound("max")
                && thousandths(&most) < thousandths(limit)
            {
                wrong.push(format!(
                    "max {resource} of a {of} is {most}; the sidecar's limit is {limit}"
                ));
            }
            // The sum over a pod includes the agent's containers, which are not known here.
            if of == "Pod" {
                continue;
            }
            if let Some(least) = bound("min")
                && thousandths(&least) > thousandths(request)
            {
                wrong
                    .push(format!("min {resource} is {least}; the sidecar's request is {request}"));
            }
            if let Some(ratio) = bound("maxLimitRequestRatio")
                && exceeds(&ratio, request, limit) == Some(true)
            {
                wrong.push(format!(
                    "maxLimitRequestRatio of {resource} is {ratio}; the sidecar has limit {limit} and request {request}"
                ));
            }
        }
    }
    wrong
}

fn exceeds(ratio: &str, request: &str, limit: &str) -> Option<bool> {
    // Both factors are in thousandths, so the product is in millionths.
    let most = thousandths(ratio)?.checked_mul(thousandths(request)?)?;
    Some(thousandths(limit)?.checked_mul(1000)? > most)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn lacks(quota: &Value) -> Lack {
        let quota = to_raw_value(quota).unwrap();
        super::lacks((&*quota).into(), &Config::default().sidecar.resources)
    }

    #[test]
    fn a_quota_is_too_small_or_currently_full() {
        let cases: [(Value, Value, &[&str], &[&str]); 8] = [
            (json!({"requests.cpu": "1"}), json!({"requests.cpu": "990m"}), &[], &[]),
            (
                json!({"requests.cpu": "1"}),
                json!({"requests.cpu": "991m"}),
                &[],
                &["requests.cpu is 1, of which 991m is used now; one sidecar requires 10m"],
            ),
            (
                json!({"cpu": "9m"}),
                json!({"cpu": "9m"}),
                &["cpu is 9m; one sidecar requires 10m"],
                &[],
            ),
            (
                json!({"memory": "32Mi", "limits.memory": "63Mi"}),
                json!({}),
                &["limits.memory is 63Mi; one sidecar requires 64Mi"],
                &[],
            ),
            // The quota was lowered after pods were created.
            (
                json!({"limits.cpu": "1"}),
                json!({"limits.cpu": "2"}),
                &[],
                &["limits.cpu is 1, of which 2 is used now; one sidecar requires 100m"],
            ),
            (
                json!({"cpu": "0", "memory": "1Gi"}),
                json!({"memory": "1Gi"}),
                &["cpu is 0; one sidecar requires 10m"],
                &["memory is 1Gi, of which 1Gi is used now; one sidecar requires 32Mi"],
            ),
            (json!({"pods": "0"}), json!({}), &[], &[]),
            (json!({"cpu": "lots"}), json!({}), &[], &[]),
        ];
        for (hard, used, never, now) in cases {
            let quota = json!({"spec": {"hard": hard}, "status": {"used": used}});
            let lack = lacks(&quota);
            assert_eq!((&*lack.never, &*lack.now), (&strings(never)[..], &strings(now)[..]));
            let scoped = json!({"spec": {"hard": hard, "scopes": ["BestEffort"]}});
            let lack = lacks(&scoped);
            assert!(lack.never.is_empty() && lack.now.is_empty(), "{scoped}");
        }
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_full_quota_is_a_warning_and_a_small_one_an_error() {
        let quota = |name: &str, hard: &str, used: &str| {
            json!({
                "metadata": {"name": name}, "spec": {"hard": {"cpu": hard}},
                "status": {"used": {"cpu": used}},
            })
        };
        let resources = &Config::default().sidecar.resources;
        let quotas = Objects::of(
            "ResourceQuota",
            &[quota("full", "1", "1"), quota("small", "1m", "0"), quota("fits", "1", "0")],
        );
        let mut found = Findings::default();
        let lacks = |quota: Json<'_>| super::lacks(quota, resources);
        report(CheckId::Quota, "namespace a", &quotas, &mut found, lacks);
        let levels: Vec<_> = found.iter().map(|it| (&*it.subject, it.level.as_str())).collect();
        assert_eq!(levels, [("namespace a, full", "warning"), ("namespace a, small", "error")]);
    }

    #[test]
    fn each_limit_that_excludes_the_sidecar_is_listed() {
        let resources = &Config::default().sidecar.resources;
        let cases = [
            (json!({"type": "Container", "max": {"cpu": "100m", "memory": "64Mi"}}), 0),
            (json!({"type": "Container", "max": {"cpu": "50m", "memory": "32Mi"}}), 2),
            (json!({"type": "Container", "min": {"cpu": "20m"}}), 1),
            (json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "10", "memory": "2"}}), 0),
            (json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "5"}}), 1),
            (json!({"type": "Pod", "max": {"memory": "32Mi"}, "min": {"cpu": "1"}}), 1),
            (json!({"type": "PersistentVolumeClaim", "max": {"storage": "1"}}), 0),
        ];
        for (item, want) in cases {
            let range = to_raw_value(&json!({"spec": {"limits": [item]}})).unwrap();
            assert_eq!(refuses((&*range).into(), resources).len(), want, "{range}");
        }
    }
}
