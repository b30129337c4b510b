//! Reads manifests, finds pods and pod templates in them, and writes YAML.

mod write;

use std::borrow::Cow;

use json_patch::{
    PatchOperation,
    jsonptr::{Pointer, PointerBuf},
};
use serde_json::{Map, Value, json, value::RawValue};
use serde_saphyr::{UserMessageFormatter, budget::BudgetBreach};

pub use self::write::write;

/// Why a text is not a valid manifest.
#[derive(Debug, thiserror::Error)]
pub enum NotAManifest {
    /// It would be read as a floating point number and written as a different number.
    #[error(
        "document {document}: {place} is an integer that does not fit into 64 bits; quote it if it is text"
    )]
    Number { document: usize, place: PointerBuf },
    #[error("document {document} is {found}, not an object with apiVersion and kind")]
    NotAnObject { document: usize, found: &'static str },
    #[error("invalid YAML: {0}")]
    Syntax(String),
    /// Such as aliases that repeat other aliases, which grow to billions of values.
    #[error(
        "uses YAML in a way that exceeds a limit ({0}): write the values of anchors and aliases out"
    )]
    Structure(&'static str),
    /// A value of 2 bytes takes up to 300 bytes of memory.
    #[error(
        "has more than {MOST_VALUES} values, the limit for one manifest: split it into smaller files"
    )]
    TooLarge,
}

/// Reads every document, and returns the objects in it; each item of a List is one object.
pub fn read(text: &str) -> Result<Vec<Value>, NotAManifest> {
    read_at_most(text, MOST_VALUES)
}

fn read_at_most(text: &str, most_values: usize) -> Result<Vec<Value>, NotAManifest> {
    // kubectl reads 0644 as an octal number, too. The limits admit the manifests of a whole fleet:
    // the author is trusted. Pods that kubectl prints have at most one value in ten bytes.
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_documents: 1 << 20,
            max_events: 4 * most_values,
            max_nodes: most_values,
            max_total_scalar_bytes: 1 << 30,
        },
    };
    let documents = serde_saphyr::from_multiple_with_options(&as_documents(text), options);
    let documents: Vec<Value> = documents.map_err(|error| match breach_of(&error) {
        Some(BudgetBreach::Events { .. } | BudgetBreach::Nodes { .. }) => NotAManifest::TooLarge,
        Some(breach) => NotAManifest::Structure(limit_of(breach)),
        None => {
            let error = error.without_snippet();
            NotAManifest::Syntax(error.render_with_formatter(&UserMessageFormatter))
        }
    })?;
    for (index, document) in documents.iter().enumerate() {
        if let Some(place) = oversized(document, Pointer::root()) {
            return Err(NotAManifest::Number { document: index + 1, place });
        }
    }
    let mut objects = Vec::with_capacity(documents.len());
    for (index, document) in documents.into_iter().enumerate() {
        let found = match document {
            Value::Null => continue,
            Value::Object(_) => {
                take_apart(document, &mut objects);
                continue;
            }
            Value::Array(_) => "a list",
            Value::Bool(_) | Value::Number(_) | Value::String(_) => "a scalar",
        };
        return Err(NotAManifest::NotAnObject { document: index + 1, found });
    }
    Ok(objects)
}

/// Returns the limit that a document exceeds, also inside of an alias.
fn breach_of(error: &serde_saphyr::Error) -> Option<&BudgetBreach> {
    match error.without_snippet() {
        serde_saphyr::Error::Budget { breach, .. } => Some(breach),
        serde_saphyr::Error::AliasError { error, .. } => breach_of(error),
        _ => None,
    }
}

/// Returns the limit that a document exceeds, in words.
fn limit_of(breach: &BudgetBreach) -> &'static str {
    match breach {
        BudgetBreach::AliasAnchorRatio { .. } | BudgetBreach::Aliases { .. } => "too many aliases",
        BudgetBreach::Anchors { .. } => "too many anchors",
        BudgetBreach::Depth { .. } => "nested too deeply",
        BudgetBreach::Documents { .. } => "too many documents",
        BudgetBreach::MergeKeys { .. } => "too many merge keys",
        BudgetBreach::RecordedAnchorBytes { .. } | BudgetBreach::RecordedAnchorEvents { .. } => {
            "aliases that repeat too much"
        }
        BudgetBreach::ScalarBytes { .. } => "too much text",
        _ => "its structure",
    }
}

/// Returns JSON objects that follow each other as documents of YAML, and removes the byte order
/// marks of files that were joined. kubectl reads both.
fn as_documents(text: &str) -> Cow<'_, str> {
    let text = match text.trim_start_matches(BYTE_ORDER_MARK) {
        text if text.contains(BYTE_ORDER_MARK) => {
            Cow::Owned(text.replace(&format!("\n{BYTE_ORDER_MARK}"), "\n"))
        }
        text => Cow::Borrowed(text),
    };
    if !text.trim_start().starts_with('{') {
        return text;
    }
    let objects = serde_json::Deserializer::from_str(&text).into_iter::<&RawValue>();
    match objects.collect::<Result<Vec<_>, _>>() {
        Ok(objects) if objects.len() > 1 => {
            let objects: Vec<&str> = objects.into_iter().map(RawValue::get).collect();
            Cow::Owned(objects.join("\n---\n"))
        }
        _ => text,
    }
}

/// Adds the document, or the items of a List, to `objects`.
///
/// A List may contain Lists. The API server omits kind and version of the items of a PodList.
fn take_apart(mut document: Value, objects: &mut Vec<Value>) {
    let text = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
    let of = text("kind").and_then(|kind| kind.strip_suffix("List").map(str::to_owned));
    let version = text("apiVersion");
    match (of, document.get_mut("items").map(Value::take)) {
        (Some(of), Some(Value::Array(items))) => {
            for mut item in items {
                if let (Some(fields), Some(version), false) =
                    (item.as_object_mut(), &version, of.is_empty())
                {
                    fields.entry("apiVersion").or_insert_with(|| version.clone().into());
                    fields.entry("kind").or_insert_with(|| of.clone().into());
                }
                take_apart(item, objects);
            }
        }
        (_, Some(items)) => {
            document["items"] = items;
            objects.push(document);
        }
        (_, None) => objects.push(document),
    }
}

/// A pod of an object: the object itself, or a pod template in it.
#[derive(Debug)]
pub struct PodIn {
    /// The pod as the API server would send it, as far as that concerns a decision.
    pub pod: Value,
    /// Path of the pod's `metadata` and `spec` in the object.
    path: PointerBuf,
    namespace: Option<String>,
    maker: Maker,
}

/// The client that creates the pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Maker {
    /// A controller of Kubernetes, with this user name where each controller has its own service
    /// account (kube-controller-manager's `--use-service-account-credentials`, as on EKS).
    Controller(&'static str),
    /// A controller that is not part of Kubernetes, with an unknown user name. It may change the pod.
    Other,
    /// The user that applies the manifest.
    User,
}

impl PodIn {
    /// Returns the pods of the object: one for a kind of Kubernetes that has pods, else one for each
    /// part that has the form of a pod template.
    pub fn find(object: &Value) -> Vec<Self> {
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            return Vec::new();
        };
        let Some((tokens, owner_suffix, maker)) = known(api_version, kind) else {
            let mut templates = Vec::new();
            find_templates(object, Pointer::root(), &mut templates);
            let found = templates.into_iter();
            return found.map(|path| Self::at(object, path, "-", Maker::Other)).collect();
        };
        let path = PointerBuf::from_tokens(tokens.iter().copied());
        if path.resolve(object).is_err() {
            return Vec::new();
        }
        let mut found = Self::at(object, path, owner_suffix, maker);
        // The name of a pod is fixed; the last one is the longest.
        if let (true, Some(owner)) = (kind == "StatefulSet", name_of(object)) {
            let name = format!("{owner}-{}", last_ordinal(object));
            if let Some(metadata) = found.pod["metadata"].as_object_mut() {
                metadata.shift_remove("generateName");
                metadata.insert("name".to_owned(), name.into());
            }
        }
        vec![found]
    }

    fn at(object: &Value, path: PointerBuf, owner_suffix: &str, maker: Maker) -> Self {
        let found = path.resolve(object).unwrap_or(&Value::Null);
        let mut metadata =
            found.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        if let (false, Some(owner)) = (maker == Maker::User, name_of(object)) {
            metadata.insert("generateName".to_owned(), format!("{owner}{owner_suffix}").into());
        }
        let spec = found.get("spec").cloned().unwrap_or(Value::Object(Map::new()));
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        for map in ["/metadata/labels", "/metadata/annotations", "/spec/nodeSelector"] {
            fill_empty(pod.pointer_mut(map));
        }
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = namespace.filter(|name| !name.is_empty()).map(str::to_owned);
        Self { pod, path, namespace, maker }
    }

    /// Returns the path of the pod in the object: empty if the object is the pod.
    pub fn path(&self) -> &Pointer {
        &self.path
    }

    pub fn maker(&self) -> Maker {
        self.maker
    }

    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Returns the operations on the pod as operations on the whole object.
    pub fn lift(&self, object: &Value, operations: Vec<PatchOperation>) -> Vec<PatchOperation> {
        let mut lifted = Vec::with_capacity(operations.len() + 1);
        let metadata = self.path.with_trailing_token("metadata");
        if metadata.resolve(object).map_or(true, Value::is_null) {
            lifted.push(PatchOperation::Add(json_patch::AddOperation {
                path: metadata,
                value: json!({}),
            }));
        }
        lifted.extend(operations.into_iter().map(|mut operation| {
            let at = match &mut operation {
                PatchOperation::Add(add) => &mut add.path,
                PatchOperation::Copy(copy) => &mut copy.path,
                PatchOperation::Move(moved) => &mut moved.path,
                PatchOperation::Remove(remove) => &mut remove.path,
                PatchOperation::Replace(replace) => &mut replace.path,
                PatchOperation::Test(test) => &mut test.path,
            };
            let mut path = self.path.clone();
            path.append(&*at);
            *at = path;
            operation
        }));
        lifted
    }
}

/// Returns where a kind of Kubernetes has its pod, what follows the owner's name in the pod's name, and
/// the maker. None: the kind has none.
fn known(api_version: &str, kind: &str) -> Option<(&'static [&'static str], &'static str, Maker)> {
    let template: &[&str] = &["spec", "template"];
    let by = Maker::Controller;
    Some(match (api_version, kind) {
        ("v1", "Pod") => (&[], "", Maker::User),
        ("apps/v1", "DaemonSet") => (template, "-", by(DAEMON_SET_CONTROLLER)),
        // Two random parts: that of the ReplicaSet and that of the pod.
        ("apps/v1", "Deployment") => (template, "-xxxxxxxxxx-", by(REPLICA_SET_CONTROLLER)),
        ("apps/v1", "ReplicaSet") => (template, "-", by(REPLICA_SET_CONTROLLER)),
        ("apps/v1", "StatefulSet") => (template, "-", by(STATEFUL_SET_CONTROLLER)),
        ("batch/v1", "CronJob") => {
            (&["spec", "jobTemplate", "spec", "template"], "-xxxxxxxx-", by(JOB_CONTROLLER))
        }
        ("batch/v1", "Job") => (template, "-", by(JOB_CONTROLLER)),
        ("v1", "PodTemplate") => (&["template"], "-", Maker::Other),
        ("v1", "ReplicationController") => (template, "-", by(REPLICATION_CONTROLLER)),
        _ => return None,
    })
}

/// Adds the path of each part of the value that has a `spec` with containers.
fn find_templates(value: &Value, at: &Pointer, found: &mut Vec<PointerBuf>) {
    let has_containers = |spec: &Value| {
        let containers = spec.get("containers").and_then(Value::as_array);
        containers.is_some_and(|list| {
            let mut named = list.iter().map(|container| container.get("name"));
            !list.is_empty() && named.all(|name| name.is_some_and(Value::is_string))
        })
    };
    match value {
        Value::Object(entries) if entries.get("spec").is_some_and(has_containers) => {
            found.push(at.to_buf());
        }
        Value::Object(entries) => {
            for (key, entry) in entries {
                find_templates(entry, &at.with_trailing_token(key.as_str()), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_templates(item, &at.with_trailing_token(index), found);
            }
        }
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {}
    }
}

fn name_of(object: &Value) -> Option<&str> {
    object.pointer("/metadata/name").and_then(Value::as_str)
}

/// Gives each entry of a map of strings that has no value the empty string, as the API server
/// reads it.
fn fill_empty(map: Option<&mut Value>) {
    for value in map.and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        if value.is_null() {
            *value = "".into();
        }
    }
}

/// Returns kind and name for display, such as `Pod/session-a`.
pub fn title(object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").or(text("/metadata/generateName")).unwrap_or("<unnamed>");
    format!("{}/{name}", text("/kind").unwrap_or("<no kind>"))
}

/// Returns the path of the first integer that is neither an i64 nor a u64.
fn oversized(value: &Value, at: &Pointer) -> Option<PointerBuf> {
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| oversized(item, &at.with_trailing_token(index))),
        Value::Object(entries) => entries
            .iter()
            .find_map(|(key, entry)| oversized(entry, &at.with_trailing_token(key.as_str()))),
        Value::Number(number) => {
            // 2^64 and -2^63: a number closer to zero would have been read as an integer.
            let beyond = |float: f64| {
                float.fract() == 0.0
                    && (float >= 18_446_744_073_709_551_616.0
                        || float <= -9_223_372_036_854_775_808.0)
            };
            (number.is_f64() && number.as_f64().is_some_and(beyond)).then(|| at.to_buf())
        }
        Value::Bool(_) | Value::Null | Value::String(_) => None,
    }
}

/// Returns the ordinal of the last pod of a StatefulSet.
/// <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#ordinal-index>
fn last_ordinal(object: &Value) -> u64 {
    let number = |place: &str| object.pointer(place).and_then(Value::as_u64);
    let (start, replicas) = (number("/spec/ordinals/start"), number("/spec/replicas"));
    start.unwrap_or(0).saturating_add(replicas.unwrap_or(1).saturating_sub(1))
}

const DAEMON_SET_CONTROLLER: &str = "system:serviceaccount:kube-system:daemon-set-controller";
const JOB_CONTROLLER: &str = "system:serviceaccount:kube-system:job-controller";
const REPLICA_SET_CONTROLLER: &str = "system:serviceaccount:kube-system:replicaset-controller";
const REPLICATION_CONTROLLER: &str = "system:serviceaccount:kube-system:replication-controller";
const STATEFUL_SET_CONTROLLER: &str = "system:serviceaccount:kube-system:statefulset-controller";
/// Maximum number of mappings, lists and scalars of all documents, including keys. In the worst
/// case, lists in lists, they take about 2.3 GiB.
const MOST_VALUES: usize = 1 << 23;
const BYTE_ORDER_MARK: char = '\u{feff}';

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::is_unescaped;

    #[test]
    fn numbers_are_preserved_exactly_or_rejected() {
        for number in ["18446744073709551615", "-9223372036854775808", "1.5", "0.1", "-3.0"] {
            let object = read(&format!("a: {number}")).unwrap().remove(0);
            assert_eq!(read(&write(&object).unwrap()).unwrap(), [object], "{number}");
        }
        for number in ["18446744073709551616", "-9223372036854775809", "99999999999999999999999999"]
        {
            let error = read(&format!("a: 1\n---\nb: [{{c: {number}}}]\n")).unwrap_err();
            assert!(error.to_string().starts_with("document 2: /b/0/c is"), "{error}");
        }
    }

    #[test]
    fn a_yaml_error_has_its_line() {
        for (text, line) in [
            ("a: [", "1"),
            ("a: 1\n b: 2\n", "2"),
            ("a: 1\n---\na: 1\na: 2\n", "4"),
            ("a: *b\n", "1"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}")), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_manifest_above_the_memory_limit_is_not_read() {
        // An item, and how many of it make 1000 values in a list; then the same with documents.
        for (item, most) in [("[0]", 498), ("0", 997)] {
            let list = |count: usize| format!("a: [{}]", vec![item; count].join(","));
            assert!(read_at_most(&list(most), 1000).is_ok());
            let error = read_at_most(&list(most + 1), 1000).unwrap_err();
            assert!(matches!(error, NotAManifest::TooLarge), "{error}");
        }
        let documents = |count: usize| "a: 1\n---\n".repeat(count);
        assert!(read_at_most(&documents(333), 1000).is_ok());
        assert!(read_at_most(&documents(334), 1000).is_err(), "of all documents together");
    }

    #[test]
    fn a_limit_of_yaml_is_reported_as_a_sentence() {
        let mut laughs = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
        for level in 1..9 {
            let all = vec![format!("*a{}", level - 1); 9].join(", ");
            laughs.push_str(&format!("a{level}: &a{level} [{all}]\n"));
        }
        let error = read(&laughs).unwrap_err().to_string();
        let want = "uses YAML in a way that exceeds a limit (aliases that repeat too much): write";
        assert!(error.starts_with(want), "{error}");
    }

    #[test]
    fn text_survives_the_round_trip() {
        let tricky = json!({"a": ["true", "yes", "on", "null", "~", "1", "1e3", "0x1f", "01", "1:30", "", " x ", "#", "- a", "a: b", "é\n\tb\n", "2001-01-01", "*a", "&a", "!t", "{x", "[y", "%d", "@e", "`f", "no", "n", "y", ".5", "-", "?", "|", ">", "'q'", "\"d\"", "\u{7f}", "<<"], "n": [1, -2, 1.5, true, false, null], "yes": "key", "1": "one"});
        let text = write(&tricky).unwrap();
        assert_eq!(read(&text).unwrap(), [tricky], "{text}");
    }

    #[test]
    fn a_manifest_is_printed_without_terminal_commands() {
        let texts = (0x7f..=0xffff).filter_map(char::from_u32).filter(|&c| is_unescaped(c));
        let texts: Vec<String> = texts
            .flat_map(|c| {
                [
                    format!("{c}"),
                    format!("a{c}"),
                    format!("'\\{c}\""),
                    format!("two\n{c} lines\n"),
                    format!("{} {c}", "long ".repeat(40)),
                    format!("- {c}: #"),
                ]
            })
            .collect();
        assert!(texts.len() > 6 * 33, "{}", texts.len());
        for text in &texts {
            for object in [
                json!({"a": text, "b": [text, [text], {"c": text}]}),
                json!({text.as_str(): "a", "b": {text.as_str(): text}}),
            ] {
                let yaml = write(&object).unwrap();
                assert!(!yaml.chars().any(is_unescaped), "{text:?}: {yaml}");
                assert_eq!(read(&yaml).unwrap(), [object], "{yaml}");
            }
        }
    }

    #[test]
    fn numbers_are_read_as_kubectl_reads_them() {
        let text = "mode: 0644\nplain: 644\nzero: 0\nbig: 9007199254740993\ntext: '0644'\n";
        let want = json!({"mode": 420, "plain": 644, "zero": 0, "big": 9_007_199_254_740_993_i64, "text": "0644"});
        assert_eq!(read(text).unwrap(), [want]);
    }

    #[test]
    fn documents_and_lists_are_split() {
        let text = "a: 1\n---\n# nothing\n---\nkind: List\napiVersion: v1\nitems: [{b: 2}, {kind: List, items: [{c: 3}]}]\n---\nkind: Pod\nitems: [1]\n---\nkind: JobList\napiVersion: batch/v1\nitems: [{d: 4}]\n";
        assert_eq!(
            read(text).unwrap(),
            [
                json!({"a": 1}),
                json!({"b": 2}),
                json!({"c": 3}),
                json!({"kind": "Pod", "items": [1]}),
                json!({"d": 4, "apiVersion": "batch/v1", "kind": "Job"})
            ]
        );
    }

    #[test]
    fn pods_are_named_as_their_controllers_name_them() {
        let named = |api_version: &str, kind: &str, spec: Value| {
            let object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "o"}, "spec": spec});
            let metadata = PodIn::find(&object).remove(0).pod["metadata"].take();
            (metadata["name"].clone(), metadata["generateName"].clone())
        };
        let template = json!({"spec": {"containers": []}});
        let set = |more: Value| {
            let mut spec = json!({"template": template});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            named("apps/v1", "StatefulSet", spec)
        };
        assert_eq!(set(json!({})), (json!("o-0"), Value::Null));
        assert_eq!(set(json!({"replicas": 12})), (json!("o-11"), Value::Null));
        let ordinals = json!({"replicas": 2, "ordinals": {"start": 99}});
        assert_eq!(set(ordinals), (json!("o-100"), Value::Null));
        let job = named("batch/v1", "Job", json!({"template": template}));
        assert_eq!(job, (Value::Null, json!("o-")));
    }

    #[test]
    fn pods_and_pod_templates_are_found() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}});
        let cases = [
            ("v1", "Pod", None),
            ("apps/v1", "Deployment", Some("/spec/template")),
            ("apps/v1", "DaemonSet", Some("/spec/template")),
            ("apps/v1", "ReplicaSet", Some("/spec/template")),
            ("apps/v1", "StatefulSet", Some("/spec/template")),
            ("v1", "ReplicationController", Some("/spec/template")),
            ("v1", "PodTemplate", Some("/template")),
            ("batch/v1", "Job", Some("/spec/template")),
            ("batch/v1", "CronJob", Some("/spec/jobTemplate/spec/template")),
        ];
        for (api_version, kind, path) in cases {
            let object = match kind {
                "Pod" => {
                    json!({"apiVersion": api_version, "kind": kind, "metadata": template["metadata"], "spec": template["spec"]})
                }
                "PodTemplate" => {
                    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "o"}, "template": template})
                }
                "CronJob" => {
                    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "o"}, "spec": {"jobTemplate": {"spec": {"template": template}}}})
                }
                _ => {
                    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "o"}, "spec": {"template": template}})
                }
            };
            let found = PodIn::find(&object).remove(0);
            assert_eq!(found.pod["metadata"]["labels"], template["metadata"]["labels"], "{kind}");
            assert_eq!(found.path.as_str(), path.unwrap_or_default(), "{kind}");
        }
        let without = json!({"apiVersion": "v1", "kind": "Service", "spec": {"template": {}}});
        assert!(PodIn::find(&without).is_empty());
    }

    #[test]
    fn pod_templates_of_other_kinds_are_found_by_their_form() {
        let template = json!({"spec": {"containers": [{"name": "a", "image": "i"}]}});
        let object = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Any", "metadata": {"name": "o", "namespace": "n"}, "spec": spec});
        for (spec, paths) in [
            (json!({"template": template}), &["/spec/template"][..]),
            (json!({"podTemplate": template}), &["/spec/podTemplate"]),
            (
                json!({"groups": [{"template": template}, {"head": template}]}),
                &["/spec/groups/0/template", "/spec/groups/1/head"],
            ),
            (json!({"template": {"spec": {"containers": []}}}), &[]),
            (json!({"template": {"spec": {"containers": [{"image": "i"}]}}}), &[]),
        ] {
            let object = object(spec);
            let found = PodIn::find(&object);
            let at: Vec<&str> = found.iter().map(|found| found.path().as_str()).collect();
            assert_eq!(at, paths, "{object}");
            for found in found {
                assert_eq!(found.maker(), Maker::Other);
                assert_eq!(found.namespace(), Some("n"));
                assert_eq!(found.pod["metadata"]["generateName"], "o-");
            }
        }
    }

    #[test]
    fn a_document_that_is_no_object_is_rejected() {
        for text in ["hello world", "a: 1\n---\n[1]", "3"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("not an object with apiVersion and kind"), "{text:?}: {error}");
        }
    }
}
