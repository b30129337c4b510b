# The IAM role of the webhook: once per cluster.

terraform {
  required_version = ">= 1.5"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

locals {
  # arn:<partition>:eks:<region>:<account>:cluster/<name>
  cluster      = split(":", var.cluster_arn)
  partition    = local.cluster[1]
  region       = coalesce(var.parameter_region, local.cluster[3])
  account      = local.cluster[4]
  cluster_name = trimprefix(local.cluster[5], "cluster/")

  # Unique in IAM, also for clusters of one name in two regions or accounts.
  suffix = "-fab-webhook-${substr(sha256(var.cluster_arn), 0, 8)}"
  name   = coalesce(var.name, "${substr(local.cluster_name, 0, 64 - length(local.suffix))}${local.suffix}")

  parameters = replace(replace(var.parameter, "{cluster}", local.cluster_name), "{tenant}", "*")
}

module "role" {
  source = "../service-account-role"

  name                 = local.name
  path                 = var.path
  description          = "The webhook of fab-session-injector in the cluster ${local.cluster_name}"
  cluster_arn          = var.cluster_arn
  namespace            = var.namespace
  service_accounts     = [var.service_account]
  oidc_provider        = var.oidc_provider
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags
}

resource "aws_iam_role_policy" "webhook" {
  name = "webhook-policy"
  role = module.role.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid    = "ReadSessionRoles"
      Effect = "Allow"
      Action = "ssm:GetParameters"
      Resource = join(":", [
        "arn", local.partition, "ssm", local.region, local.account, "parameter/${trimprefix(local.parameters, "/")}",
      ])
    }]
  })
}
