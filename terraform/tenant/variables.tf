variable "cluster_arn" {
  description = "ARN of the EKS cluster."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:eks:[a-z0-9-]+:[0-9]{12}:cluster/[0-9A-Za-z][0-9A-Za-z_-]*$", var.cluster_arn))
    error_message = "Expected the ARN of an EKS cluster: arn:aws:eks:<region>:<account>:cluster/<name>."
  }
}

variable "tenant" {
  description = "Name of the tenant: a DNS label of at most 21 characters."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,19}[a-z0-9])?$", var.tenant))
    error_message = "A tenant is a DNS label of at most 21 characters: a SourceIdentity has 64, with the prefix agent. and the pod's UID."
  }
}

variable "namespace" {
  description = "Namespace of the tenant's agents. null: tenants-<tenant>."
  type        = string
  default     = null
}

variable "base_roles" {
  description = <<-EOT
    Base roles that this module creates: the roles of the service accounts that agents run as. Each service account gets
    an EKS Pod Identity association, or with oidc_provider a trust by IRSA, where the name of a service account may have
    *. The defaults: var.namespace, a name with the key, and var.path.
  EOT
  type = map(object({
    service_accounts = list(string)
    namespace        = optional(string)
    name             = optional(string)
    path             = optional(string)
  }))
  default = {}
}

variable "existing_base_roles" {
  description = <<-EOT
    Base roles that exist: key to ARN. They must be of the account of the provider aws. This module adds its policies to
    them and leaves their trust policy and their associations unchanged.
  EOT
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for arn in values(var.existing_base_roles) : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:role/", arn))
    ])
    error_message = "Each value must be the ARN of a role."
  }
}

variable "other_base_role_arns" {
  description = "Base roles of other accounts. They are only trusted: attach the output base_role_policy to each of them."
  type        = list(string)
  default     = []
}

variable "oidc_provider" {
  description = <<-EOT
    OIDC provider of the cluster, by its URL (https://oidc.eks.<region>.amazonaws.com/id/<id>) or by its ARN in IAM.
    With it the service accounts of base_roles use IRSA. null: EKS Pod Identity.
  EOT
  type        = string
  default     = null
}

variable "session_role_name" {
  description = "Name of the session role. null: a name with cluster, tenant and a hash of both."
  type        = string
  default     = null
}

variable "path" {
  description = "Path of the roles that this module creates. The chart's config.roles.allow.pathPrefixes must allow it."
  type        = string
  default     = "/"

  validation {
    condition     = can(regex("^/([!-~]+/)?$", var.path))
    error_message = "A path starts and ends with /."
  }
}

variable "parameter" {
  description = <<-EOT
    The chart's config.roles.ssm.parameter: the name of a tenant's SSM parameter, with {tenant}. null: no parameter, for
    the chart's staticRoles.
  EOT
  type        = string
  default     = "/eks-agent-platform/{cluster}/tenant-substrate/{tenant}/session_role_arn"

  validation {
    condition     = var.parameter == null || strcontains(coalesce(var.parameter, "-"), "{tenant}")
    error_message = "The name of the parameter must contain {tenant}."
  }
}

variable "models" {
  description = <<-EOT
    Models of Bedrock that agents may invoke: ids or ARNs of foundation models and inference profiles. An id may have *.
    Empty: every model.
  EOT
  type        = list(string)
  default     = []

  validation {
    condition = alltrue([
      for model in var.models :
      !startswith(model, "arn:") && can(regex("^[A-Za-z0-9.:*-]+$", model)) ||
      can(regex("^arn:aws[a-z-]*:bedrock:[A-Za-z0-9.:*-]+:(foundation-model|(application-)?inference-profile)/[A-Za-z0-9.:*-]+$", model))
    ])
    error_message = "A model is an id of Bedrock (letters, digits and .:-, and *) or the ARN of a foundation model or an inference profile."
  }
}

variable "session_policies" {
  description = "More policies of the session role, name to JSON: what agents need besides Bedrock, such as buckets."
  type        = map(string)
  default     = {}

  validation {
    condition     = !contains(keys(var.session_policies), "session-role-policy")
    error_message = "The policy session-role-policy is this module's own: give yours another name."
  }
}

variable "restrict_to" {
  description = <<-EOT
    SourceIdentities that the session role accepts: tenant (each of the tenant), pod-uid or pod-name (only the pod's own).
    The last two need EKS Pod Identity, and the same session in the chart's config.components.
  EOT
  type        = string
  default     = "tenant"

  validation {
    condition     = contains(["tenant", "pod-uid", "pod-name"], var.restrict_to)
    error_message = "Expected tenant, pod-uid or pod-name."
  }
}

variable "suspended_tag" {
  description = "Key of a tag. While a base role has the tag, its tenant gets no new session. null: no such condition."
  type        = string
  default     = null

  validation {
    condition     = var.suspended_tag == null || can(regex("^[A-Za-z0-9 +=._:/@-]{1,128}$", var.suspended_tag))
    error_message = "The key of a tag has 1 to 128 letters, digits, spaces and +=._:/@-."
  }
}

variable "permissions_boundary" {
  description = "ARN of the permissions boundary of the session role: a policy of its account."
  type        = string
  default     = null
}

variable "base_role_permissions_boundary" {
  description = <<-EOT
    ARN of the permissions boundary of base_roles. It must allow the output boundary_statement. If it denies
    sts:AssumeRole on *, that statement needs NotResource with the session roles.
  EOT
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of all resources of this module."
  type        = map(string)
  default     = {}
}

variable "session_role_tags" {
  description = "More tags of the session role, such as those by which budgets and policies select the base role."
  type        = map(string)
  default     = {}
}

variable "deny_without_source_identity" {
  description = <<-EOT
    WARNING: true immediately stops every pod of the base roles that runs without a session, also agents that were created
    before their namespace was enabled, and exempt pods such as a model gateway. It denies base credentials all calls
    except those that assume the session role. Set it last: after enabled, and after the last such pod is gone.
  EOT
  type        = bool
  default     = false
}
