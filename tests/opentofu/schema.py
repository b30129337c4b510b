"""Writes the schema of the AWS provider, as JSON, from the bindings that HashiCorp generated from it.

Usage: schema.py WHEEL. Attributes only: the modules use no nested blocks.
"""

import ast
import json
import re
import sys
import zipfile

RESOURCES = ["iam_role", "iam_role_policy", "eks_pod_identity_association", "ssm_parameter"]
# Arguments of each resource that are OpenTofu's own.
OWN = {"connection", "count", "depends_on", "for_each", "lifecycle", "provider", "provisioners"}
TYPES = {
    "builtins.str": "string",
    "jsii.Number": "number",
    "typing.Union[builtins.bool, _cdktf_9a9027ec.IResolvable]": "bool",
    "typing.Mapping[builtins.str, builtins.str]": ["map", "string"],
    "typing.Sequence[builtins.str]": ["list", "string"],
    "typing.List[builtins.str]": ["list", "string"],
}


def attributes(source, base):
    module = ast.parse(source)
    owner = next(
        node
        for node in module.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(it).endswith(base) for it in node.bases)
    )
    methods = [node for node in owner.body if isinstance(node, ast.FunctionDef)]
    found = {}
    arguments = next(method.args for method in methods if method.name == "__init__")
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        kind = ast.unparse(argument.annotation)
        kind = re.sub(r"^typing\.Optional\[(.*)\]$", r"\1", kind)
        if argument.arg in OWN | {"alias"} or kind not in TYPES:
            continue
        required = default is None
        found[argument.arg] = {"type": TYPES[kind], "required": required, "optional": not required}
    # What is no argument is an attribute that the provider computes.
    for method in methods:
        is_property = any(ast.unparse(it).endswith("jsii.member") or "property" in ast.unparse(it) for it in method.decorator_list)
        kind = ast.unparse(method.returns) if method.returns else ""
        if method.name.isupper() or method.name == "alias":
            continue
        if is_property and kind in TYPES and not method.name.endswith("_input") and method.name not in found:
            found[method.name] = {"type": TYPES[kind], "computed": True}
    for name in ["id", "tags_all"]:
        if name in found:
            found[name] = {"type": found[name]["type"], "optional": True, "computed": True}
    return found


with zipfile.ZipFile(sys.argv[1]) as wheel:

    def read(name):
        return wheel.read(f"cdktf_cdktf_provider_aws/{name}/__init__.py").decode()

    schema = {
        "provider": attributes(read("provider"), "TerraformProvider"),
        "resources": {f"aws_{name}": attributes(read(name), "TerraformResource") for name in RESOURCES},
    }
json.dump(schema, sys.stdout, indent=1, sort_keys=True)
