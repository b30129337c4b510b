//! The modules of `terraform/` in OpenTofu, with the schema of the AWS provider: their resources
//! have the policies that `iam` prints, IAM (moto) accepts them, and the strict AWS admits the
//! right service accounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use harness::{
    moto::Moto,
    process::{own_directory, program, wait_until},
    root,
    sidecar::{
        account::{Account, BASE, BROKER, Policies},
        pod::Template,
    },
};
use serde_json::{Value, json};

use crate::iam::{documents, iam, iam_of};

/// The resources of a configuration that OpenTofu applied, by their addresses.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) resources: BTreeMap<String, Value>,
    outputs: Value,
}

impl Applied {
    /// Returns the document in an attribute.
    fn document(&self, address: &str, attribute: &str) -> Value {
        let text = self.resources.get(address).unwrap_or_else(|| panic!("no {address}: {self:#?}"));
        serde_json::from_str(text[attribute].as_str().unwrap()).unwrap()
    }

    fn of_kind(&self, kind: &str) -> Vec<(&str, &Value)> {
        let is_one = |address: &str| address.split('.').any(|part| part == kind);
        let all = self.resources.iter().map(|(address, values)| (address.as_str(), values));
        all.filter(|(address, _)| is_one(address)).collect()
    }

    /// Returns the account of the provider that created the resource.
    fn account(&self, address: &str) -> &str {
        self.resources[address]["id"].as_str().unwrap().split(':').next().unwrap()
    }
}

/// Applies the configuration with providers of the accounts 111122223333 (default), 444455556666 and
/// 777788889999, and with the modules in `./modules`. `format` makes text that `tofu fmt` would change an error.
pub(crate) fn apply(configuration: &str, format: bool) -> Result<Applied, String> {
    let directory = own_directory();
    let providers = [
        provider("", "111122223333"),
        provider("account_444455556666", "444455556666"),
        provider("account_777788889999", "777788889999"),
    ];
    fs::write(directory.path().join("providers.tf"), providers.concat()).unwrap();
    fs::write(directory.path().join("main.tf"), configuration).unwrap();
    symlink(root().join("terraform"), directory.path().join("modules")).unwrap();
    if format {
        run(directory.path(), &["fmt", "-check", "-diff", "main.tf"])?;
    }
    run(directory.path(), &["init", "-backend=false", "-no-color"])?;
    run(directory.path(), &["apply", "-auto-approve", "-input=false", "-no-color"])?;
    let state: Value = serde_json::from_str(&run(directory.path(), &["show", "-json"])?).unwrap();
    let mut resources = BTreeMap::new();
    collect(&state["values"]["root_module"], &mut resources);
    Ok(Applied { resources, outputs: state["values"]["outputs"].clone() })
}

fn collect(module: &Value, into: &mut BTreeMap<String, Value>) {
    for resource in module["resources"].as_array().into_iter().flatten() {
        into.insert(resource["address"].as_str().unwrap().to_owned(), resource["values"].clone());
    }
    for child in module["child_modules"].as_array().into_iter().flatten() {
        collect(child, into);
    }
}

fn provider(alias: &str, account: &str) -> String {
    let alias = if alias.is_empty() { String::new() } else { format!("  alias = \"{alias}\"\n") };
    format!(
        "provider \"aws\" {{\n{alias}  region = \"eu-west-1\"\n  allowed_account_ids = [\"{account}\"]\n}}\n"
    )
}

/// Runs OpenTofu; returns its output, or what it reports.
fn run(directory: &Path, arguments: &[&str]) -> Result<String, String> {
    let tofu = fs::canonicalize(program("tofu")).unwrap();
    let mirror = tofu.parent().unwrap().join("mirror");
    let scratch = own_directory();
    let settings = scratch.path().join("tofu.rc");
    let text = format!(
        "provider_installation {{\n  filesystem_mirror {{\n    path = {:?}\n  }}\n}}\n",
        mirror.to_str().unwrap()
    );
    fs::write(&settings, text).unwrap();
    let output = Command::new(tofu)
        .args(arguments)
        .current_dir(directory)
        .env("TF_CLI_CONFIG_FILE", settings)
        .env("TF_IN_AUTOMATION", "1")
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if !output.status.success() {
        // Lines of a diagnostic are wrapped, behind a frame.
        let words = said.replace(['│', '╷', '╵'], " ");
        return Err(words.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// Returns the printed calls, of the modules of this directory.
fn local(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = std::str::from_utf8(&output.stdout).unwrap();
    let source = "\"github.com/nanohype/fab-session-injector//terraform/";
    let version = concat!("?ref=v", env!("CARGO_PKG_VERSION"), "\"");
    assert_eq!((file.matches(source).count(), file.matches(version).count()), (2, 2), "{file}");
    file.replace(source, "\"./modules/").replace(version, "\"")
}

#[test]
fn modules_and_example_are_as_tofu_fmt_writes_them() {
    for directory in ["terraform", "examples/terraform"] {
        let said = run(root(), &["fmt", "-check", "-diff", "-recursive", directory]);
        assert_eq!(said.as_deref(), Ok(""), "{directory}");
    }
}

/// `iam` prints one truth in two forms: the module's resources have its documents.
#[test]
fn the_modules_have_the_documents_of_iam() {
    const PATH: &str = "arn:aws:iam::111122223333:role/eks-agent-platform/tenants/prod-acme";
    let other = format!("--base-role={PATH}-dispatcher");
    let models = [
        "--model=anthropic.claude-x-v1:0",
        "--model=eu.anthropic.*",
        "--model=us-gov.a.b",
        "--model=arn:aws:bedrock:eu-west-1:111122223333:application-inference-profile/a1b2",
        "--model=arn:aws:bedrock:eu-west-1::foundation-model/meta.a",
    ];
    let issuer = "--oidc-issuer=https://oidc.eks.eu-west-1.amazonaws.com/id/TEST";
    let cases: [&[&str]; 9] = [
        &[],
        &["--deny-without-source-identity", &other],
        &["--restrict-to=pod-uid", "--namespace=agents", "--suspended-tag=platform.dev/suspended"],
        &["--restrict-to=pod-name"],
        &["--suspended-tag=a b"],
        &models,
        &[issuer, "--service-account=tenant-runtime", &other],
        &[issuer, "--service-account=tenant-runtime", "--service-account=tenant-runtime-x-*"],
        &["--model=anthropic.a", "--tag=team=a b", "--tag=k.e:y=a/b@c"],
    ];
    for case in cases {
        let flags = [&["--region=eu-west-1", "--base-role", BASE], case].concat();
        compare("acme", BROKER, &flags);
    }
    // Another partition, with a name and a path of its own.
    let govcloud = [
        "--region=us-gov-west-1",
        "--base-role=arn:aws-us-gov:iam::111122223333:role/base",
        "--model=amazon.nova-*",
    ];
    compare("t-1", "arn:aws-us-gov:iam::111122223333:role/sessions", &govcloud);
}

fn compare(tenant: &str, session_role: &str, flags: &[&str]) {
    let tenant_flag = format!("--tenant={tenant}");
    let flags = [&[tenant_flag.as_str()], flags].concat();
    let documents = documents(session_role, &flags);
    let printed = iam_of(session_role, &[&flags[..], &["--output=terraform"]].concat());
    let mut configuration = local(&printed);
    if session_role.starts_with("arn:aws-us-gov") {
        // The printed provider is the default one, whose region the partition follows.
        configuration =
            configuration.replace("    aws         = aws\n", "    aws         = aws.gov\n");
        configuration =
            configuration.replace("    aws.session = aws\n", "    aws.session = aws.gov\n");
        configuration += "provider \"aws\" {\n  alias               = \"gov\"\n  region              = \"us-gov-west-1\"\n  allowed_account_ids = [\"111122223333\"]\n}\n";
    }
    let applied = apply(&configuration, true).unwrap();
    let module = format!("module.tenant_{}", tenant.replace('-', "_"));
    let role = &applied.resources[&format!("{module}.aws_iam_role.session")];
    assert_eq!(role["arn"], session_role, "{flags:?}");

    let parts = [
        ("session-role-trust", format!("{module}.aws_iam_role.session"), "assume_role_policy"),
        ("session-role-policy", format!("{module}.aws_iam_role_policy.session"), "policy"),
        (
            "webhook-policy",
            "module.fab_session_injector.aws_iam_role_policy.webhook".to_owned(),
            "policy",
        ),
    ];
    for (name, address, attribute) in parts {
        let mut own = applied.document(&address, attribute);
        let mut want = documents[name].clone();
        // A map of base roles has no order.
        for statement in
            [&mut own, &mut want].into_iter().flat_map(|it| it["Statement"].as_array_mut().unwrap())
        {
            if let Some(roles) = statement["Principal"]["AWS"].as_array_mut() {
                roles.sort_by_key(Value::to_string);
            }
        }
        assert_eq!(own, want, "{name} {flags:?}");
    }
    // Each base role has its policies.
    let base_roles = flags.iter().enumerate().filter_map(|(index, flag)| match *flag {
        "--base-role" => Some(flags[index + 1]),
        flag => flag.strip_prefix("--base-role="),
    });
    let names: BTreeSet<&str> = base_roles.map(|arn| arn.rsplit('/').next().unwrap()).collect();
    for (name, resource) in [("base-role-policy", "base"), ("deny-without-source-identity", "deny")]
    {
        let address = format!("{module}.aws_iam_role_policy.{resource}[");
        let policies: Vec<&Value> = applied
            .resources
            .iter()
            .filter_map(|(at, values)| at.starts_with(&address).then_some(values))
            .collect();
        let Some(want) = documents.get(name) else {
            assert!(policies.is_empty(), "{name} {flags:?}");
            continue;
        };
        let of: BTreeSet<&str> = policies.iter().map(|it| it["role"].as_str().unwrap()).collect();
        assert_eq!(of, names, "{name} {flags:?}");
        for policy in policies {
            // Two tenants of one base role have their own policies.
            let own = policy["name"].as_str().unwrap();
            assert!(own.starts_with(&format!("{name}-{tenant}-")), "{own}");
            let own: Value = serde_json::from_str(policy["policy"].as_str().unwrap()).unwrap();
            assert_eq!(&own, want, "{name} {flags:?}");
        }
    }
    if let Some(want) = documents.get("base-role-trust") {
        for name in names {
            let address = format!("{module}.module.base_role[{name:?}].aws_iam_role.this");
            assert_eq!(&applied.document(&address, "assume_role_policy"), want, "{flags:?}");
            let arn = applied.resources[&address]["arn"].as_str().unwrap();
            assert!(flags.iter().any(|flag| flag.ends_with(arn)), "{arn}");
        }
    }
    // The role's other arguments, and the parameter.
    let request = &documents["session-role"];
    assert_eq!(role["max_session_duration"], request["MaxSessionDuration"]);
    assert_eq!(role["path"], request["Path"]);
    let tags: BTreeMap<&str, &Value> = request["Tags"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tag| (tag["Key"].as_str().unwrap(), &tag["Value"]))
        .collect();
    assert_eq!(role["tags"].as_object().map_or(json!({}), |it| json!(it)), json!(tags));
    let parameter = &applied.resources[&format!("{module}.aws_ssm_parameter.session_role[0]")];
    for (own, of) in [("name", "Name"), ("type", "Type"), ("value", "Value")] {
        assert_eq!(parameter[own], documents["parameter"][of], "{flags:?}");
    }
}

/// The statement and the policy for roles that the module does not manage.
#[test]
fn outputs_of_the_tenant_are_documents_of_iam() {
    let flags = ["--tenant=acme", "--region=eu-west-1", "--base-role", BASE];
    let documents = documents(BROKER, &flags);
    let file = local(&iam(&[&flags[..], &["--output=terraform"]].concat()));
    let outputs = "output \"statement\" {\n  value = module.tenant_acme.boundary_statement\n}\n\
                   output \"policy\" {\n  value = module.tenant_acme.base_role_policy\n}\n";
    let applied = apply(&format!("{file}{outputs}"), false).unwrap();
    for (output, name) in [("statement", "boundary-statement"), ("policy", "base-role-policy")] {
        let text = applied.outputs[output]["value"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), documents[name]);
    }
}

/// The cluster is in one account, the session roles in another, and a base role in a third.
#[test]
fn each_resource_is_created_in_its_account() {
    const HUB: &str = "arn:aws:iam::444455556666:role/tenants/prod-acme-sessions";
    const THIRD: &str = "arn:aws:iam::777788889999:role/third";
    let flags = [
        "--tenant=acme",
        "--region=eu-west-1",
        "--base-role",
        BASE,
        "--base-role",
        THIRD,
        "--cluster-account=111122223333",
        "--permissions-boundary=arn:aws:iam::444455556666:policy/tenant",
        "--output=terraform",
    ];
    let output = iam_of(HUB, &flags);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let head = "# The default provider is that of account 111122223333. Configure a provider for the \
                session role's account:\n#   alias \"account_444455556666\"\n";
    assert!(printed.starts_with(head), "{printed}");
    let applied = apply(&local(&output), true).unwrap();
    for (address, account) in [
        ("module.tenant_acme.aws_iam_role.session", "444455556666"),
        ("module.tenant_acme.aws_iam_role_policy.session", "444455556666"),
        ("module.tenant_acme.aws_iam_role_policy.base[\"prod-acme-tenant\"]", "111122223333"),
        ("module.tenant_acme.aws_ssm_parameter.session_role[0]", "111122223333"),
        ("module.fab_session_injector.module.role.aws_iam_role.this", "111122223333"),
    ] {
        assert_eq!(applied.account(address), account, "{address}");
    }
    let role = &applied.resources["module.tenant_acme.aws_iam_role.session"];
    assert_eq!(role["arn"], HUB);
    assert_eq!(role["permissions_boundary"], "arn:aws:iam::444455556666:policy/tenant");
    // The third account's role is trusted; its policy is for its own account's administrator.
    let trust = applied.document("module.tenant_acme.aws_iam_role.session", "assume_role_policy");
    assert_eq!(trust["Statement"][0]["Principal"]["AWS"], json!([BASE, THIRD]));
    let policies = applied.of_kind("aws_iam_role_policy");
    assert!(policies.iter().all(|(_, policy)| policy["role"] != "third"));
}

/// Clusters of one name in two regions and in two accounts, whose session roles share an account.
#[test]
fn names_of_two_clusters_do_not_collide() {
    let name = "a".repeat(90);
    let clusters = [
        ("eu-west-1", "111122223333", "prod", "aws"),
        ("us-east-1", "111122223333", "prod", "aws"),
        ("eu-west-1", "444455556666", "prod", "aws.account_444455556666"),
        ("eu-west-1", "111122223333", &name, "aws"),
    ];
    let mut file = String::new();
    for (index, (region, account, name, provider)) in clusters.iter().enumerate() {
        let cluster = format!("arn:aws:eks:{region}:{account}:cluster/{name}");
        file += &format!(
            "module \"webhook_{index}\" {{\n  source = \"./modules/webhook\"\n  providers = {{ aws = {provider} }}\n  \
             cluster_arn = \"{cluster}\"\n}}\n\
             module \"tenants_{index}\" {{\n  source = \"./modules/tenant\"\n  for_each = toset([\"acme\", \"acme-2\"])\n  \
             providers = {{\n    aws = {provider}\n    aws.session = aws.account_777788889999\n  }}\n  \
             cluster_arn = \"{cluster}\"\n  tenant = each.key\n  base_roles = {{\n    \
             agents = {{ service_accounts = [\"tenant-runtime\"] }}\n  }}\n  \
             existing_base_roles = {{ shared = \"arn:aws:iam::{account}:role/shared\" }}\n}}\n"
        );
    }
    let applied = apply(&file, false).unwrap();
    let roles = applied.of_kind("aws_iam_role");
    assert_eq!(roles.len(), 4 * (1 + 2 * 2));
    let arns: BTreeSet<&str> =
        roles.iter().map(|(_, role)| role["arn"].as_str().unwrap()).collect();
    assert_eq!(arns.len(), roles.len(), "{arns:?}");
    assert!(roles.iter().all(|(_, role)| role["name"].as_str().unwrap().len() <= 64), "{arns:?}");
    // The inline policies of an existing role of two tenants do not replace each other.
    let policies = applied.of_kind("aws_iam_role_policy");
    let names: BTreeSet<String> = policies
        .iter()
        .map(|(_, policy)| format!("{} {}", policy["role"], policy["name"]))
        .collect();
    assert_eq!(names.len(), policies.len(), "{names:?}");
    let of_shared = names.iter().filter(|name| name.starts_with("\"shared\"")).count();
    assert_eq!(of_shared, 4 * 2, "{names:?}");
    // A name shows whose role it is.
    let shown = "arn:aws:iam::777788889999:role/prod-acme-session-";
    assert_eq!(arns.iter().filter(|arn| arn.starts_with(shown)).count(), 3, "{arns:?}");
}

/// A stand-in for the tenant's cluster, with the issuer of the strict AWS.
fn service_accounts(oidc_provider: Option<&str>, namespace: &str, account: &str) -> String {
    let oidc = oidc_provider.map_or("null".to_owned(), |provider| format!("{provider:?}"));
    format!(
        "module \"webhook\" {{\n  source = \"./modules/webhook\"\n  cluster_arn = \"{CLUSTER}\"\n  \
         oidc_provider = {oidc}\n  tags = {{ team = \"platform\" }}\n  \
         permissions_boundary = \"arn:aws:iam::111122223333:policy/all\"\n}}\n\
         module \"acme\" {{\n  source = \"./modules/tenant\"\n  providers = {{\n    aws = aws\n    \
         aws.session = aws\n  }}\n  cluster_arn = \"{CLUSTER}\"\n  tenant = \"acme\"\n  \
         namespace = \"{namespace}\"\n  oidc_provider = {oidc}\n  \
         path = \"/eks-agent-platform/tenants/\"\n  session_role_name = \"prod-acme-broker\"\n  \
         tags = {{ team = \"platform\" }}\n  session_role_tags = {{ PlatformId = \"prod-acme\" }}\n  \
         base_role_permissions_boundary = \"arn:aws:iam::111122223333:policy/base\"\n  \
         permissions_boundary = \"arn:aws:iam::111122223333:policy/session\"\n  \
         session_policies = {{ bucket = jsonencode({{ Version = \"2012-10-17\", Statement = [{{ Effect = \"Allow\", \
         Action = \"s3:GetObject\", Resource = \"arn:aws:s3:::acme/*\" }}] }}) }}\n  \
         base_roles = {{\n    agents = {{\n      name = \"prod-acme-tenant\"\n      \
         service_accounts = [\"{account}\", \"tenant-runtime-x-1\"]\n    }}\n  }}\n}}\n\
         output \"annotations\" {{\n  value = [module.webhook.service_account_annotations, \
         module.acme.service_account_annotations]\n}}\n",
    )
}

/// The strict AWS gives credentials to the service accounts of the module, and to no others: by
/// EKS Pod Identity and by IRSA, with each form of the OIDC provider.
#[test]
fn only_the_service_accounts_of_the_module_get_credentials() {
    let issuer = "oidc.eks.eu-west-1.amazonaws.com/id/TEST";
    let arn = format!("arn:aws:iam::111122223333:oidc-provider/{issuer}");
    let url = format!("https://{issuer}");
    let forms = [None, Some(&*url), Some(issuer), Some(&*arn)];
    let right = ("tenants-acme", "tenant-runtime");
    for (form, (namespace, account), admitted) in [
        (forms[0], right, true),
        (forms[0], ("tenants-other", "tenant-runtime"), false),
        (forms[0], ("tenants-acme", "other"), false),
        (forms[1], right, true),
        (forms[1], ("tenants-other", "tenant-runtime"), false),
        (forms[1], ("tenants-acme", "other"), false),
        (forms[2], right, true),
        (forms[3], right, true),
    ] {
        let applied = apply(&service_accounts(form, namespace, account), false).unwrap();
        let base = "module.acme.module.base_role[\"agents\"].aws_iam_role.this";
        assert_eq!(applied.resources[base]["arn"], BASE);
        let policies = Policies {
            base_trust: applied.document(base, "assume_role_policy"),
            base: applied.document("module.acme.aws_iam_role_policy.base[\"agents\"]", "policy"),
            trust: applied.document("module.acme.aws_iam_role.session", "assume_role_policy"),
            ..Policies::default()
        };
        let cloud = Account::open(policies);
        let mut template = cloud.template();
        if form.is_some() {
            (template.source, template.base_role) = ("irsa", BASE);
        }
        assert_eq!(is_let_in(&cloud, &template), admitted, "{form:?} {namespace} {account}");

        let associations = applied.of_kind("aws_eks_pod_identity_association");
        let annotations = &applied.outputs["annotations"]["value"];
        if form.is_some() {
            assert!(associations.is_empty(), "{form:?}");
            let agents = &annotations[1]["agents"]["eks.amazonaws.com/role-arn"];
            assert_eq!(
                (agents, &annotations[0]["eks.amazonaws.com/role-arn"]),
                (
                    &json!(BASE),
                    &applied.resources["module.webhook.module.role.aws_iam_role.this"]["arn"],
                )
            );
            continue;
        }
        assert_eq!(annotations, &json!([{}, {"agents": {}}]));
        let shown: BTreeSet<String> = associations
            .iter()
            .map(|(_, it)| {
                ["cluster_name", "namespace", "service_account", "role_arn"]
                    .map(|key| it[key].as_str().unwrap())
                    .join(" ")
            })
            .collect();
        let webhook = &applied.resources["module.webhook.module.role.aws_iam_role.this"]["arn"];
        let want = [
            format!("prod {namespace} {account} {BASE}"),
            format!("prod {namespace} tenant-runtime-x-1 {BASE}"),
            format!("prod fab-system fab-session-injector {}", webhook.as_str().unwrap()),
        ];
        assert_eq!(shown, BTreeSet::from(want));
    }
}

/// Reports whether the pod gets session credentials; false if it gets no base credentials.
fn is_let_in(cloud: &Account, template: &Template) -> bool {
    let pod = cloud.pod_of(template);
    let _sidecar = pod.start();
    wait_until("STS or the agent decides", Duration::from_secs(20), || {
        match pod.status()["lastError"]["code"].as_str() {
            Some(code) if code.starts_with("base-credentials-") => Some(false),
            Some(code) => panic!("{code}"),
            None => (pod.get("/v1/credentials").0 == 200).then_some(true),
        }
    })
}

/// All resources, in moto's IAM and SSM, with tags and boundaries.
#[test]
fn iam_accepts_the_policies_of_the_modules() {
    let applied = apply(&service_accounts(None, "tenants-acme", "tenant-runtime"), false).unwrap();
    let moto = Moto::start();
    let text = |values: &Value, key: &str| values[key].as_str().unwrap_or_default().to_owned();
    for (address, role) in applied.of_kind("aws_iam_role") {
        assert_eq!(role["tags"]["team"], "platform", "{address}");
        let boundary = text(role, "permissions_boundary");
        assert!(boundary.starts_with("arn:aws:iam::111122223333:policy/"), "{address}");
        moto.iam(
            "CreateRole",
            &[
                ("RoleName", &text(role, "name")),
                ("Path", &text(role, "path")),
                ("Description", &text(role, "description")),
                ("AssumeRolePolicyDocument", &text(role, "assume_role_policy")),
                ("PermissionsBoundary", &boundary),
                ("MaxSessionDuration", "3600"),
            ],
        );
    }
    let policies = applied.of_kind("aws_iam_role_policy");
    assert_eq!(policies.len(), 4, "{policies:?}");
    for (_, policy) in policies {
        let arguments = ["role", "name", "policy"].map(|key| text(policy, key));
        let [role, name, document] = &arguments;
        moto.iam(
            "PutRolePolicy",
            &[("RoleName", role), ("PolicyName", name), ("PolicyDocument", document)],
        );
    }
    let parameter = &applied.resources["module.acme.aws_ssm_parameter.session_role[0]"];
    moto.put_parameter(&text(parameter, "name"), &text(parameter, "value"), "String");
    assert_eq!(parameter["tags"], json!({"team": "platform"}));
    let session = &applied.resources["module.acme.aws_iam_role.session"];
    assert_eq!(session["tags"], json!({"team": "platform", "PlatformId": "prod-acme"}));
    for (_, association) in applied.of_kind("aws_eks_pod_identity_association") {
        assert_eq!(association["tags"], json!({"team": "platform"}));
    }
}

/// The file of `examples/`, as written: a cluster's tenants by `for_each`.
#[test]
fn the_example_of_terraform_applies() {
    let file = fs::read_to_string(root().join("examples/terraform/main.tf")).unwrap();
    let own = file.replace("\"../../terraform/", "\"./modules/");
    assert_ne!(own, file);
    // The test has its own providers.
    let (own, _) = own.split_once("# Providers").unwrap();
    let own = own.replace("aws.sessions", "aws.account_444455556666");
    let applied = apply(&own, false).unwrap();
    let parameters = applied.of_kind("aws_ssm_parameter");
    assert_eq!(parameters.len(), 2);
    for (address, parameter) in parameters {
        let value = parameter["value"].as_str().unwrap();
        assert!(value.starts_with("arn:aws:iam::444455556666:role/agents/"), "{address} {value}");
    }
    assert!(applied.resources.keys().all(|address| !address.contains(".deny")));
}

#[test]
fn wrong_variables_name_the_rule() {
    let tenant = |more: &str| {
        let cluster = if more.contains("cluster_arn") {
            String::new()
        } else {
            format!("  cluster_arn = \"{CLUSTER}\"\n")
        };
        let name = if more.contains("tenant =") { "" } else { "  tenant = \"acme\"\n" };
        let base = if more.contains("base_role") {
            ""
        } else {
            "  other_base_role_arns = [\"arn:aws:iam::111122223333:role/a\"]\n"
        };
        let file = format!(
            "module \"acme\" {{\n  source = \"./modules/tenant\"\n  providers = {{\n    aws = aws\n    aws.session = aws\n  }}\n{cluster}{name}{base}{more}\n}}\n"
        );
        apply(&file, false).map(|_| ())
    };
    assert_eq!(tenant(""), Ok(()));
    assert_eq!(tenant("  parameter = null"), Ok(()));
    for (more, want) in [
        ("  cluster_arn = \"prod\"", "Expected the ARN of an EKS cluster"),
        ("  tenant = \"aaaaaaaaaaaaaaaaaaaaaa\"", "at most 21 characters"),
        ("  tenant = \"Acme\"", "A tenant is a DNS label"),
        ("  restrict_to = \"pod\"", "Expected tenant, pod-uid or pod-name"),
        (
            "  restrict_to = \"pod-uid\"\n  oidc_provider = \"https://oidc.example/id\"",
            "needs EKS Pod Identity",
        ),
        ("  models = [\"a b\"]", "A model is an id of Bedrock"),
        ("  models = [\"arn:aws:s3:::a\"]", "A model is an id of Bedrock"),
        ("  parameter = \"/a/{cluster}\"", "must contain {tenant}"),
        ("  path = \"agents\"", "starts and ends with /"),
        ("  suspended_tag = \"a*\"", "The key of a tag has"),
        ("  existing_base_roles = { a = \"a\" }", "must be the ARN of a role"),
        ("  base_roles = {}", "has no base role"),
        (
            "  base_roles = { a = { service_accounts = [\"tenant-*\"] } }",
            "An association has one service account",
        ),
        (
            "  oidc_provider = \"https://oidc.example/id\"\n  base_roles = { a = { service_accounts = [\"*\"] } }",
            "must not be only *",
        ),
        ("  base_roles = { a = { service_accounts = [] } }", "At least one service account"),
        (
            "  oidc_provider = \"arn:aws:eks:eu-west-1:111122223333:cluster/a\"\n  base_roles = { a = { service_accounts = [\"a\"] } }",
            "Set the issuer, such as",
        ),
        ("  session_policies = { session-role-policy = \"{}\" }", "give yours another name"),
        (
            "  base_roles = { a = { service_accounts = [\"a\"] } }\n  existing_base_roles = { a = \"arn:aws:iam::111122223333:role/a\" }",
            "give each base role its own key",
        ),
    ] {
        let Err(said) = tenant(more) else { panic!("{more}") };
        assert!(said.contains(want), "{more}: {said}");
    }
}

const CLUSTER: &str = "arn:aws:eks:eu-west-1:111122223333:cluster/prod";
