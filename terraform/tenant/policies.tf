# The documents that `fab-session-injector iam` prints, from the same input. A test compares them.

locals {
  # The actions that trust policy and identity policy must allow to assume a role with a
  # SourceIdentity and the session tags of EKS Pod Identity.
  assume = ["sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"]

  # arn:<partition>:iam::<account>:role/<path and name>
  session           = split(":", aws_iam_role.session.arn)
  session_partition = local.session[1]
  session_account   = local.session[4]

  session_tag = { tenant = null, pod-name = "kubernetes-pod-name", pod-uid = "kubernetes-pod-uid" }[var.restrict_to]
  source_identity = (
    local.session_tag == null
    ? { StringLike = { "sts:SourceIdentity" = "agent.${var.tenant}.*" } }
    : null
  )
  pod_identity = (
    local.session_tag == null ? null : {
      StringEquals = {
        "sts:SourceIdentity"                    = "agent.${var.tenant}.$${aws:PrincipalTag/${coalesce(local.session_tag, "-")}}"
        "aws:PrincipalTag/kubernetes-namespace" = local.namespace
        "aws:PrincipalTag/eks-cluster-name"     = local.cluster_name
      }
    }
  )
  suspended = var.suspended_tag == null ? null : { Null = { "aws:PrincipalTag/${var.suspended_tag}" = "true" } }

  # sts:TagSession has its own statement: a condition on sts:SourceIdentity never matches it.
  session_role_trust = {
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "SessionsOfTenant"
        Effect    = "Allow"
        Principal = { AWS = local.base_role_arns }
        Action    = ["sts:AssumeRole", "sts:SetSourceIdentity"]
        Condition = merge(local.source_identity, local.pod_identity, local.suspended)
      },
      {
        Sid       = "TagsOfPodIdentity"
        Effect    = "Allow"
        Principal = { AWS = local.base_role_arns }
        Action    = "sts:TagSession"
      },
    ]
  }

  # The id of an inference profile starts with a geography.
  is_profile = [
    for model in var.models : can(regex("^((apac|au|ca|eu|global|jp|us|us-gov)\\.|arn:.*inference-profile/)", model))
  ]
  bedrock = "arn:${local.session_partition}:bedrock:*"
  model_arns = [
    for index, model in var.models :
    startswith(model, "arn:") ? model :
    local.is_profile[index] ? "${local.bedrock}:${local.session_account}:inference-profile/${model}" :
    "${local.bedrock}::foundation-model/${model}"
  ]
  profile_arns = [for index, arn in local.model_arns : arn if local.is_profile[index]]
  invoke       = ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"]

  model_statements = concat(
    [for statement in [{
      Sid    = "AllModels"
      Effect = "Allow"
      Action = local.invoke
      Resource = [
        "${local.bedrock}::foundation-model/*",
        "${local.bedrock}:${local.session_account}:inference-profile/*",
      ]
    }] : statement if length(var.models) == 0],
    [for statement in [{
      Sid      = "Models"
      Effect   = "Allow"
      Action   = local.invoke
      Resource = local.model_arns
    }] : statement if length(var.models) > 0],
    # The models of a profile, in each region, only through the profile.
    [for statement in [{
      Sid       = "ModelsOfProfiles"
      Effect    = "Allow"
      Action    = local.invoke
      Resource  = ["${local.bedrock}::foundation-model/*"]
      Condition = { StringLike = { "bedrock:InferenceProfileArn" = local.profile_arns } }
    }] : statement if length(local.profile_arns) > 0],
  )
  session_role_policy = {
    Version = "2012-10-17"
    Statement = concat(local.model_statements, [
      {
        Sid      = "ListProfiles"
        Effect   = "Allow"
        Action   = "bedrock:ListInferenceProfiles"
        Resource = "*"
      },
      {
        Sid      = "NoFurtherRoles"
        Effect   = "Deny"
        Action   = ["sts:AssumeRole", "sts:AssumeRoleWithWebIdentity", "sts:AssumeRoleWithSAML"]
        Resource = "*"
      },
    ])
  }

  base_role_policy = {
    Version = "2012-10-17"
    Statement = [{
      Sid      = "AssumeSessionRole"
      Effect   = "Allow"
      Action   = local.assume
      Resource = aws_iam_role.session.arn
    }]
  }
  boundary_statement = {
    Sid      = "AssumeSessionRoles"
    Effect   = "Allow"
    Action   = local.assume
    Resource = aws_iam_role.session.arn
  }
  deny_without_source_identity = {
    Version = "2012-10-17"
    Statement = [{
      Sid       = "NothingWithoutSession"
      Effect    = "Deny"
      NotAction = local.assume
      Resource  = "*"
      Condition = { Null = { "aws:SourceIdentity" = "true" } }
    }]
  }
}
