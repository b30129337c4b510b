# A role for Kubernetes service accounts of one namespace: by EKS Pod Identity, or by IRSA if
# var.oidc_provider is set. The modules webhook and tenant use it.

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
  cluster_name = trimprefix(local.cluster[5], "cluster/")

  issuer = var.oidc_provider == null ? null : trimsuffix(
    replace(var.oidc_provider, "/^(https://|arn:[^:]+:iam::[0-9]{12}:oidc-provider/)/", ""), "/"
  )
  provider_arn = (
    local.issuer == null ? null :
    startswith(var.oidc_provider, "arn:") ? var.oidc_provider :
    "arn:${local.cluster[1]}:iam::${local.cluster[4]}:oidc-provider/${local.issuer}"
  )

  has_pattern = anytrue([for account in var.service_accounts : strcontains(account, "*")])
  audience    = local.issuer == null ? {} : { "${local.issuer}:aud" = "sts.amazonaws.com" }
  subjects = local.issuer == null ? {} : {
    "${local.issuer}:sub" = [
      for account in var.service_accounts : "system:serviceaccount:${var.namespace}:${account}"
    ]
  }

  pod_identity = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "ServiceAccounts"
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      # The tags that EKS Pod Identity sets:
      # https://docs.aws.amazon.com/eks/latest/userguide/pod-id-role.html
      Condition = {
        StringEquals = {
          "aws:RequestTag/eks-cluster-arn"            = var.cluster_arn
          "aws:RequestTag/kubernetes-namespace"       = var.namespace
          "aws:RequestTag/kubernetes-service-account" = var.service_accounts
        }
      }
    }]
  })
  irsa = local.issuer == null ? null : jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "ServiceAccounts"
      Effect    = "Allow"
      Principal = { Federated = local.provider_arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = merge(
        { StringEquals = merge(local.audience, local.has_pattern ? {} : local.subjects) },
        local.has_pattern ? { StringLike = local.subjects } : null,
      )
    }]
  })
}

resource "aws_iam_role" "this" {
  name                 = var.name
  path                 = var.path
  description          = var.description
  assume_role_policy   = local.issuer == null ? local.pod_identity : local.irsa
  permissions_boundary = var.permissions_boundary
  tags                 = var.tags

  lifecycle {
    precondition {
      condition     = local.issuer != null || !local.has_pattern
      error_message = "An association has one service account: list each by its full name, without *, or use IRSA."
    }
  }
}

resource "aws_eks_pod_identity_association" "this" {
  for_each = local.issuer == null ? toset(var.service_accounts) : toset([])

  cluster_name    = local.cluster_name
  namespace       = var.namespace
  service_account = each.key
  role_arn        = aws_iam_role.this.arn
  tags            = var.tags
}
