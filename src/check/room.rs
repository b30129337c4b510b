//! Whether the namespace has room for one sidecar more.

use serde_json::Value;

use super::{Findings, Link, Tenancy, amount::thousandths, items, name, tenancy::subject};
use crate::{
    config::{Config, Resources},
    namespaces::Namespace,
};

pub(super) fn judge(
    namespace: &Namespace,
    tenancy: &Tenancy,
    config: &Config,
    found: &mut Findings,
) {
    let subject = subject(namespace);
    let resources = &config.sidecar.resources;
    if let Some(quotas) = tenancy.quotas.or_tell(Link::Quota, &subject, found) {
        tell(Link::Quota, &subject, quotas, found, |quota| lacks_room(quota, resources));
    }
    if let Some(ranges) = tenancy.limit_ranges.or_tell(Link::LimitRange, &subject, found) {
        tell(Link::LimitRange, &subject, ranges, found, |range| refuses(range, resources));
    }
}

fn tell(
    link: Link,
    subject: &str,
    objects: &[Value],
    found: &mut Findings,
    judge: impl Fn(&Value) -> Vec<String>,
) {
    let mut fits = true;
    for object in objects {
        let wrong = judge(object);
        if !wrong.is_empty() {
            fits = false;
            found.broken(link, format!("{subject}, {}", name(object)), wrong.join("; "));
        }
    }
    if fits {
        let says = match objects.len() {
            0 => "has none".to_owned(),
            count => format!("has {count} with room for a sidecar"),
        };
        found.ok(link, subject, says);
    }
}

/// One that is for some pods only is left out: which those are is not known before they come.
/// <https://kubernetes.io/docs/concepts/policy/resource-quotas/>
fn lacks_room(quota: &Value, resources: &Resources) -> Vec<String> {
    let spec = &quota["spec"];
    if items(spec, "scopes").next().is_some() || spec["scopeSelector"].is_object() {
        return Vec::new();
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
    let lacks = |(key, needs): (&str, &crate::config::Quantity)| {
        let hard = spec["hard"][key].as_str()?;
        let used = quota["status"]["used"][key].as_str().unwrap_or("0");
        let left = thousandths(hard)?.saturating_sub(thousandths(used)?);
        let needs = needs.as_str();
        (left < thousandths(needs)?).then(|| {
            format!("{key} is {hard}, of which {used} are used, and a sidecar takes {needs}")
        })
    };
    wanted.into_iter().filter_map(lacks).collect()
}

/// <https://kubernetes.io/docs/concepts/policy/limit-range/>
fn refuses(range: &Value, resources: &Resources) -> Vec<String> {
    let Resources { cpu_request, memory_request, cpu_limit, memory_limit } = resources;
    let pairs = [("cpu", cpu_request, cpu_limit), ("memory", memory_request, memory_limit)];
    let mut wrong = Vec::new();
    for item in items(&range["spec"], "limits") {
        let of = item["type"].as_str().unwrap_or_default();
        if !["Container", "Pod"].contains(&of) {
            continue;
        }
        for (resource, request, limit) in pairs {
            let (request, limit) = (request.as_str(), limit.as_str());
            let bound = |key: &str| item[key][resource].as_str();
            if let Some(most) = bound("max")
                && thousandths(most) < thousandths(limit)
            {
                wrong.push(format!(
                    "max {resource} of a {of} is {most}, and a sidecar's limit {limit}"
                ));
            }
            // Of a pod the agent's containers count as well.
            if of == "Pod" {
                continue;
            }
            if let Some(least) = bound("min")
                && thousandths(least) > thousandths(request)
            {
                wrong.push(format!("min {resource} is {least}, and a sidecar's request {request}"));
            }
            if let Some(ratio) = bound("maxLimitRequestRatio")
                && exceeds(ratio, request, limit) == Some(true)
            {
                wrong.push(format!(
                    "the ratio of limit to request of {resource} is at most {ratio}, and a sidecar has {limit} to {request}"
                ));
            }
        }
    }
    wrong
}

fn exceeds(ratio: &str, request: &str, limit: &str) -> Option<bool> {
    // Both in thousandths, of which one is left over.
    let most = thousandths(ratio)?.checked_mul(thousandths(request)?)?;
    Some(thousandths(limit)?.checked_mul(1000)? > most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_quota_counts_what_is_left() {
        let resources = &Config::default().sidecar.resources;
        let cases = [
            (json!({"hard": {"requests.cpu": "1"}}), json!({"requests.cpu": "990m"}), 0),
            (json!({"hard": {"requests.cpu": "1"}}), json!({"requests.cpu": "991m"}), 1),
            (json!({"hard": {"memory": "32Mi", "limits.memory": "63Mi"}}), json!({}), 1),
            (json!({"hard": {"pods": "0"}}), json!({}), 0),
            (json!({"hard": {"cpu": "0"}, "scopes": ["BestEffort"]}), json!({}), 0),
        ];
        for (spec, used, want) in cases {
            let quota = json!({"spec": spec, "status": {"used": used}});
            assert_eq!(lacks_room(&quota, resources).len(), want, "{quota}");
        }
    }

    #[test]
    fn a_limit_range_takes_the_sidecar_or_says_what_it_does_not() {
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
            let range = json!({"spec": {"limits": [item]}});
            assert_eq!(refuses(&range, resources).len(), want, "{range}");
        }
    }
}
