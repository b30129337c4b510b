# A cluster with two tenants. The session roles are in an account of their own.
#
# In a repository of your own, the source of a module is
# "github.com/nanohype/fab-session-injector//terraform/tenant?ref=<tag>".

locals {
  # Of a cluster in the same configuration: aws_eks_cluster.<name>.arn.
  cluster_arn = "arn:aws:eks:eu-west-1:111122223333:cluster/production-platform"

  tenants = {
    acme = {
      models = ["eu.anthropic.claude-sonnet-4-5-20250929-v1:0"]
    }
    globex = {
      models = ["amazon.nova-*"]
    }
  }
}

module "webhook" {
  source = "../../terraform/webhook"

  cluster_arn = local.cluster_arn
  tags        = { team = "platform" }
}

module "tenant" {
  source   = "../../terraform/tenant"
  for_each = local.tenants

  providers = {
    aws         = aws
    aws.session = aws.sessions
  }

  cluster_arn = local.cluster_arn
  tenant      = each.key
  path        = "/agents/"
  models      = each.value.models

  # The roles of the service accounts, with EKS Pod Identity associations.
  base_roles = {
    agents     = { service_accounts = ["tenant-runtime"] }
    dispatcher = { service_accounts = ["fab"] }
  }

  # What agents need besides Bedrock.
  session_policies = {
    bucket = jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject"]
        Resource = "arn:aws:s3:::agents-of-${each.key}/*"
      }]
    })
  }

  permissions_boundary = "arn:aws:iam::444455556666:policy/agents"
  tags                 = { team = "platform", tenant = each.key }
}

output "session_roles" {
  description = "Session roles of the tenants, which the chart's config.roles.allow must allow."
  value       = { for name, tenant in module.tenant : name => tenant.session_role_arn }
}

# Providers

provider "aws" {
  region              = "eu-west-1"
  allowed_account_ids = ["111122223333"]
}

provider "aws" {
  alias               = "sessions"
  region              = "eu-west-1"
  allowed_account_ids = ["444455556666"]

  assume_role {
    role_arn = "arn:aws:iam::444455556666:role/terraform"
  }
}
