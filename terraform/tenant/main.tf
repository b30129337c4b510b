# The AWS resources of one tenant. The provider aws is that of the cluster's account, aws.session
# that of the account of the session role. Both may be the same.

terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source                = "hashicorp/aws"
      version               = ">= 5.40"
      configuration_aliases = [aws.session]
    }
  }
}

locals {
  # arn:<partition>:eks:<region>:<account>:cluster/<name>
  cluster      = split(":", var.cluster_arn)
  cluster_name = trimprefix(local.cluster[5], "cluster/")
  namespace    = coalesce(var.namespace, "tenants-${var.tenant}")

  # Unique in IAM, also for clusters of one name in two regions or accounts. Several tenants may
  # have the same base role, so the names of its policies are unique too.
  hash         = substr(sha256("${var.cluster_arn}/${var.tenant}"), 0, 8)
  prefix       = "${local.cluster_name}-${var.tenant}"
  session_name = coalesce(var.session_role_name, "${substr(local.prefix, 0, 47)}-session-${local.hash}")
  base_names = {
    for key, role in var.base_roles :
    key => coalesce(
      role.name,
      "${substr("${local.prefix}-${key}", 0, 55)}-${substr(sha256("${var.cluster_arn}/${var.tenant}/${key}"), 0, 8)}",
    )
  }

  policy_suffix = "${var.tenant}-${local.hash}"

  base_role_arns = concat(
    [for key, role in module.base_role : role.arn],
    values(var.existing_base_roles),
    var.other_base_role_arns,
  )
  # The names of the roles that get policies. The name is what follows the last / of an ARN.
  base_role_names = merge(
    { for key, role in module.base_role : key => role.name },
    { for key, arn in var.existing_base_roles : key => element(split("/", arn), length(split("/", arn)) - 1) },
  )
  parameter_names = var.parameter == null ? [] : [
    replace(replace(var.parameter, "{cluster}", local.cluster_name), "{tenant}", var.tenant)
  ]
}

module "base_role" {
  source   = "../service-account-role"
  for_each = var.base_roles

  name                 = local.base_names[each.key]
  path                 = coalesce(each.value.path, var.path)
  description          = "Base role of the tenant ${var.tenant} in the cluster ${local.cluster_name}"
  cluster_arn          = var.cluster_arn
  namespace            = coalesce(each.value.namespace, local.namespace)
  service_accounts     = each.value.service_accounts
  oidc_provider        = var.oidc_provider
  permissions_boundary = var.base_role_permissions_boundary
  tags                 = var.tags
}

resource "aws_iam_role" "session" {
  provider = aws.session

  name                 = local.session_name
  path                 = var.path
  description          = "Sessions of the tenant ${var.tenant} in the cluster ${local.cluster_name}"
  assume_role_policy   = jsonencode(local.session_role_trust)
  max_session_duration = 3600
  permissions_boundary = var.permissions_boundary
  tags                 = merge(var.tags, var.session_role_tags)

  lifecycle {
    precondition {
      condition     = length(local.base_role_arns) > 0
      error_message = "The tenant ${var.tenant} has no base role: set base_roles, existing_base_roles or other_base_role_arns."
    }
    precondition {
      condition     = length(setintersection(keys(var.base_roles), keys(var.existing_base_roles))) == 0
      error_message = "A key of base_roles is also one of existing_base_roles: give each base role its own key."
    }
    precondition {
      condition     = var.restrict_to == "tenant" || var.oidc_provider == null
      error_message = "restrict_to = \"${var.restrict_to}\" needs EKS Pod Identity: IRSA has no session tags."
    }
  }
}

resource "aws_iam_role_policy" "session" {
  provider = aws.session

  name   = "session-role-policy"
  role   = aws_iam_role.session.name
  policy = jsonencode(local.session_role_policy)
}

resource "aws_iam_role_policy" "session_more" {
  provider = aws.session
  for_each = var.session_policies

  name   = each.key
  role   = aws_iam_role.session.name
  policy = each.value
}

resource "aws_iam_role_policy" "base" {
  for_each = local.base_role_names

  name   = "base-role-policy-${local.policy_suffix}"
  role   = each.value
  policy = jsonencode(local.base_role_policy)
}

resource "aws_iam_role_policy" "deny" {
  for_each = var.deny_without_source_identity ? local.base_role_names : {}

  name   = "deny-without-source-identity-${local.policy_suffix}"
  role   = each.value
  policy = jsonencode(local.deny_without_source_identity)

  # Until the role may assume the session role, the deny would leave it no call at all.
  depends_on = [aws_iam_role_policy.base]
}

resource "aws_ssm_parameter" "session_role" {
  count = length(local.parameter_names)

  name        = local.parameter_names[count.index]
  description = "Session role of the tenant ${var.tenant}, which the webhook of fab-session-injector reads"
  type        = "String"
  value       = aws_iam_role.session.arn
  tags        = var.tags
}
