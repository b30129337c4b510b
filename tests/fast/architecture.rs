//! Checks which modules use which. A module fails if it uses one that is not in its row.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::visit::Visit;

/// Each module of `src`, and the modules that it may use.
const MODULES: [(&str, &[&str]); 18] = [
    ("admission", &["config", "json", "namespaces", "roles", "session", "terminal"]),
    ("certificates", &[]),
    (
        "check",
        &[
            "admission",
            "certificates",
            "config",
            "credentials",
            "issuer",
            "json",
            "namespaces",
            "policies",
            "revocation",
            "roles",
            "session",
            "terminal",
        ],
    ),
    ("cli", &["config", "namespaces", "policies", "revocation", "session"]),
    (
        "command",
        &[
            "admission",
            "certificates",
            "check",
            "cli",
            "config",
            "credentials",
            "issuer",
            "json",
            "manifest",
            "namespaces",
            "policies",
            "revocation",
            "roles",
            "serve",
            "session",
            "telemetry",
            "terminal",
        ],
    ),
    ("config", &["session"]),
    ("credentials", &["session"]),
    ("issuer", &["admission", "config", "json", "namespaces", "roles", "session"]),
    ("json", &[]),
    ("manifest", &["terminal"]),
    ("namespaces", &["config", "session"]),
    ("policies", &["session"]),
    ("revocation", &["json", "session"]),
    ("roles", &["config", "session"]),
    ("serve", &["certificates"]),
    ("session", &[]),
    ("telemetry", &["terminal"]),
    ("terminal", &[]),
];

/// Crates that only some modules may use. All others use the types of these modules.
const CRATES: [(&str, &[&str]); 21] = [
    ("anyhow", &["command"]),
    (
        "aws_config",
        &[
            "command",
            "credentials/base_provider",
            "credentials/sts",
            "credentials/web_identity",
            "roles/ssm",
        ],
    ),
    ("aws_credential_types", &["command/aws_shell", "credentials/sts", "roles/ssm"]),
    // Of rustls' module of this name, the others have only the provider of TLS.
    (
        "aws_lc_rs",
        &[
            "certificates",
            "command/issuer/keys",
            "credentials/issuer_client",
            "issuer",
            "serve/tls",
        ],
    ),
    ("aws_sdk_eks", &["command/check/base_users"]),
    ("aws_sdk_iam", &["command/check/aws", "command/iam_roles", "command/revoke/iam"]),
    ("aws_sdk_kms", &["command/issuer/keys"]),
    ("aws_sdk_ssm", &["roles/ssm"]),
    (
        "aws_sdk_sts",
        &[
            "command/sidecar",
            "credentials/base_provider",
            "credentials/sts",
            "credentials/web_identity",
        ],
    ),
    ("aws_smithy_http_client", &["command/aws_client"]),
    (
        "aws_smithy_runtime_api",
        &[
            "command/aws_client",
            "command/issuer/published",
            "command/sidecar",
            "credentials/base_provider",
        ],
    ),
    ("aws_smithy_types", &["command/aws_client", "credentials/base_provider"]),
    ("axum", &["command", "serve"]),
    ("clap_complete", &["command/completions"]),
    ("hyper", &["command/probe", "credentials/issuer_client"]),
    (
        "k8s_openapi",
        &[
            "admission",
            "check/egress",
            "command/certs",
            "command/issuer/api_server",
            "namespaces/watch",
        ],
    ),
    ("kube", &["check/egress", "command", "namespaces/watch"]),
    ("rustix", &["command/issuer/tokens", "command/sidecar", "credentials/token", "serve"]),
    ("rcgen", &["certificates"]),
    (
        "rustls",
        &[
            "certificates",
            "command/issuer/keys",
            "command/sidecar",
            "credentials/issuer_client",
            "serve",
            "session/ca_bundle",
        ],
    ),
    (
        "tokio",
        &[
            "command",
            "credentials/cache",
            "credentials/issuer_client",
            "credentials/sts",
            "credentials/web_identity",
            "namespaces/watch",
            "roles/agenda",
            "roles/cache",
            "roles/rate_limit",
            "roles/refresher",
            "roles/schedule",
            "serve",
        ],
    ),
];

/// Modules that fill snapshots. Pure modules use only the snapshots.
const FILLERS: [&str; 3] = ["roles::refresher", "roles::ssm", "namespaces::watch"];

#[test]
fn modules_use_only_their_allowed_modules() {
    let mut modules_found = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let place = file
            .strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
            .unwrap()
            .with_extension("");
        let place = place.to_str().unwrap().to_owned();
        if ["lib", "main"].contains(&&*place) {
            continue;
        }
        modules_found.insert(place.split('/').next().unwrap().to_owned());
        wrong.extend(violations(&place, &fs::read_to_string(&file).unwrap()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let listed: BTreeSet<String> = MODULES.iter().map(|(module, _)| (*module).to_owned()).collect();
    assert_eq!(modules_found, listed, "each module has its row, and each row its module");
}

#[test]
fn the_rules_detect_violations() {
    let cases = [
        ("session/tenant", "use crate::config::Config;", "session uses config"),
        (
            "admission/decide",
            "use crate::{session::RoleArn, telemetry::Metrics};",
            "admission uses telemetry",
        ),
        ("admission/decide", "fn f() { crate::serve::serve(); }", "admission uses serve"),
        (
            "admission/decide",
            "use crate::roles::{self, ssm::ParameterStore};",
            "admission uses roles::ssm",
        ),
        ("config/roles", "type T = aws_sdk_ssm::Client;", "config/roles names aws_sdk_ssm"),
        ("roles/file", "use tokio::time::sleep;", "roles/file names tokio"),
        ("manifest", "use anyhow::Context;", "manifest names anyhow"),
        ("credentials/cache", "use crate::admission::Decision;", "credentials uses admission"),
        ("admission/patch", "use crate::credentials::Secret;", "admission uses credentials"),
        ("credentials/wire", "use aws_sdk_sts::Client;", "credentials/wire names aws_sdk_sts"),
    ];
    for (place, source, want) in cases {
        assert_eq!(violations(place, source), [want], "{source}");
    }
    assert_eq!(
        violations("admission/decide", "use crate::roles::{Roles, Role};"),
        Vec::<String>::new()
    );
}

/// A file and the file of its parent module may use each other: the parent declares the module.
#[test]
fn no_files_use_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    for file in sources(root.clone()) {
        let place = file.strip_prefix(&root).unwrap().with_extension("");
        let module: Vec<String> =
            place.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        modules.insert(module, fs::read_to_string(&file).unwrap());
    }
    assert_eq!(circle(&modules), None);
    let bad = [
        ("a", "mod b; mod c;"),
        ("a/b", "use super::c::C;"),
        ("a/c", "use crate::a::d::e;"),
        ("a/d/e", "fn f() { super::super::b::g() }"),
        ("a/d", "mod e; use super::A;"),
    ];
    let bad = bad.map(|(place, source)| {
        (place.split('/').map(str::to_owned).collect::<Vec<_>>(), source.to_owned())
    });
    assert_eq!(circle(&bad.into()).unwrap(), ["a/b", "a/c", "a/d/e", "a/b"]);
}

/// Returns a circle of files, or None.
fn circle(modules: &BTreeMap<Vec<String>, String>) -> Option<Vec<String>> {
    let uses = modules.iter().map(|(module, source)| (module, used_by(module, source, modules)));
    let uses: BTreeMap<_, _> = uses.collect();
    let mut done = BTreeSet::new();
    modules.keys().find_map(|start| follow(start, &uses, &mut Vec::new(), &mut done))
}

/// Follows the uses of a file until one is on the path already.
fn follow<'m>(
    module: &'m Vec<String>,
    uses: &BTreeMap<&'m Vec<String>, BTreeSet<&'m Vec<String>>>,
    path: &mut Vec<&'m Vec<String>>,
    done: &mut BTreeSet<&'m Vec<String>>,
) -> Option<Vec<String>> {
    if let Some(start) = path.iter().position(|other| *other == module) {
        let circle = path[start..].iter().chain([&module]);
        return Some(circle.map(|module| module.join("/")).collect());
    }
    if !done.insert(module) {
        return None;
    }
    path.push(module);
    let found = uses[module].iter().find_map(|used| follow(used, uses, path, done));
    path.pop();
    found
}

/// Returns the files that a file uses, except those of modules around it and inside it.
fn used_by<'m>(
    module: &[String],
    source: &str,
    modules: &'m BTreeMap<Vec<String>, String>,
) -> BTreeSet<&'m Vec<String>> {
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(source).unwrap());
    let mut used = BTreeSet::new();
    for path in paths.0 {
        let mut target: Vec<String> = module.to_vec();
        for segment in path.split("::") {
            match segment {
                "crate" => target.clear(),
                "self" => {}
                "super" => drop(target.pop()),
                name => target.push(name.to_owned()),
            }
        }
        if !["crate", "self", "super"].iter().any(|first| path.starts_with(first)) {
            continue;
        }
        while !target.is_empty() && !modules.contains_key(&target) {
            target.pop();
        }
        if let Some((target, _)) = modules.get_key_value(&target)
            && !module.starts_with(target)
            && !target.starts_with(module)
        {
            used.insert(target);
        }
    }
    used
}

/// A reader who searches a type's name finds one type, also in functions and in tests.
#[test]
fn no_two_types_share_a_name() {
    let mut types = Types::default();
    for file in sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        types.visit_file(&syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap());
    }
    assert_eq!(types.twice(), [""; 0]);
    let mut bad = Types::default();
    for source in ["struct A; enum B {}", "mod tests { fn f() { struct A; } }", "trait C {}"] {
        bad.visit_file(&syn::parse_file(source).unwrap());
    }
    assert_eq!(bad.twice(), ["A"]);
}

#[test]
fn a_file_has_at_most_400_lines_beside_its_tests() {
    let length = |source: &str| source.split("#[cfg(test)]").next().unwrap().lines().count();
    let too_long: Vec<String> = sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .into_iter()
        .map(|file| (length(&fs::read_to_string(&file).unwrap()), file))
        .filter(|(length, _)| *length > 400)
        .map(|(length, file)| format!("{}: {length}", file.display()))
        .collect();
    assert_eq!(too_long, [""; 0]);
    let tests = "\n#[test]\nfn a() {}".repeat(200);
    assert_eq!(length(&format!("fn a() {{}}\n#[cfg(test)]{tests}")), 1);
}

/// Keys of labels and annotations are API, so each is written once.
#[test]
fn each_key_is_spelled_in_one_place() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let source = fs::read_to_string(&file).unwrap();
        let code = source.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (at, _) in line.match_indices(".dev/").chain(line.match_indices(".io/")) {
                let part = |c: char| c.is_ascii_alphanumeric() || ".-/".contains(c);
                let start = line[..at].rfind(|c| !part(c)).map_or(0, |before| before + 1);
                let end = line[at..].find(|c| !part(c)).map_or(line.len(), |after| at + after);
                places.entry(line[start..end].to_owned()).or_default().push(format!(
                    "{}: {}",
                    file.display(),
                    line.trim()
                ));
            }
        }
    }
    assert!(places.contains_key("fab.nanohype.dev/component"), "{places:?}");
    let twice: Vec<_> = places.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:#?}");
}

/// Foreign text reaches a terminal only through one of two functions. A log line is JSON that the
/// second of them wrote.
#[test]
fn all_output_passes_the_escaping_functions() {
    let mut writes = 0;
    for file in sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let source = fs::read_to_string(&file).unwrap();
        for line in source.lines().filter(|line| line.contains("write")) {
            if !line.contains("stdout()") && !line.contains("stderr()") {
                continue;
            }
            writes += 1;
            let escaped = ["harmless(", "in_escapes(", "\"{CLEAR}\")", "write_all(&piece)"];
            assert!(escaped.iter().any(|it| line.contains(it)), "{}: {line}", file.display());
        }
    }
    assert!(writes >= 6, "{writes}");
}

fn violations(place: &str, source: &str) -> Vec<String> {
    let module = place.split('/').next().unwrap();
    let allowed = MODULES
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, allowed)| *allowed)
        .unwrap_or_default();
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(source).unwrap());
    let mut wrong = BTreeSet::new();
    for path in paths.0 {
        let segments: Vec<&str> = path.split("::").collect();
        match segments.as_slice() {
            ["crate", used, rest @ ..] if *used != module => {
                let filler = format!("{used}::{}", rest.first().unwrap_or(&""));
                if !allowed.contains(used) {
                    wrong.insert(format!("{module} uses {used}"));
                } else if module != "command" && FILLERS.contains(&filler.as_str()) {
                    wrong.insert(format!("{module} uses {filler}"));
                }
            }
            [first, ..] => {
                let rule = CRATES.iter().find(|(name, _)| name == first);
                let may = |places: &[&str]| {
                    places.iter().any(|allowed| place == *allowed || module == *allowed)
                };
                if rule.is_some_and(|(_, places)| !may(places)) {
                    wrong.insert(format!("{place} names {first}"));
                }
            }
            [] => {}
        }
    }
    wrong.into_iter().collect()
}

/// Collects all paths of a file outside its tests, each as a full path.
#[derive(Default)]
struct Paths(Vec<String>);

impl Paths {
    fn spell(&mut self, tree: &syn::UseTree, prefix: &str) {
        let join = |name: &syn::Ident| {
            if prefix.is_empty() { name.to_string() } else { format!("{prefix}::{name}") }
        };
        match tree {
            syn::UseTree::Path(path) => self.spell(&path.tree, &join(&path.ident)),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.spell(item, prefix))
            }
            syn::UseTree::Name(name) => self.0.push(join(&name.ident)),
            syn::UseTree::Rename(rename) => self.0.push(join(&rename.ident)),
            syn::UseTree::Glob(_) => self.0.push(prefix.to_owned()),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if module.ident != "tests" {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.spell(&item.tree, "");
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.0.push(segments.join("::"));
        syn::visit::visit_path(self, path);
    }
}

/// Counts the types of each name. The types that belong to an implementation of a trait are the
/// trait's.
#[derive(Default)]
struct Types(BTreeMap<String, usize>);

impl Types {
    fn count(&mut self, name: &syn::Ident) {
        *self.0.entry(name.to_string()).or_default() += 1;
    }

    fn twice(self) -> Vec<String> {
        self.0.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect()
    }
}

impl<'ast> Visit<'ast> for Types {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Enum(item) => self.count(&item.ident),
            syn::Item::Struct(item) => self.count(&item.ident),
            syn::Item::Trait(item) => self.count(&item.ident),
            syn::Item::Type(item) => self.count(&item.ident),
            _ => {}
        }
        syn::visit::visit_item(self, item);
    }
}

fn sources(directory: PathBuf) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
