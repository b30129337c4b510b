variable "cluster_arn" {
  description = "ARN of the EKS cluster."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:eks:[a-z0-9-]+:[0-9]{12}:cluster/[0-9A-Za-z][0-9A-Za-z_-]*$", var.cluster_arn))
    error_message = "Expected the ARN of an EKS cluster: arn:aws:eks:<region>:<account>:cluster/<name>."
  }
}

variable "namespace" {
  description = "Namespace of the Helm release."
  type        = string
  default     = "fab-system"
}

variable "service_account" {
  description = "Service account of the webhook: the full name of the Helm release, or the chart's serviceAccount.name."
  type        = string
  default     = "fab-session-injector"
}

variable "name" {
  description = "Name of the role. null: a name with the cluster and a hash of its ARN."
  type        = string
  default     = null
}

variable "path" {
  description = "Path of the role."
  type        = string
  default     = "/"

  validation {
    condition     = can(regex("^/([!-~]+/)?$", var.path))
    error_message = "A path starts and ends with /."
  }
}

variable "oidc_provider" {
  description = <<-EOT
    OIDC provider of the cluster, by its URL (https://oidc.eks.<region>.amazonaws.com/id/<id>) or by its ARN in IAM.
    With it the webhook gets its credentials by IRSA. null: by EKS Pod Identity.
  EOT
  type        = string
  default     = null
}

variable "parameter" {
  description = "The chart's config.roles.ssm.parameter: the name of a tenant's SSM parameter, with {tenant}."
  type        = string
  default     = "/eks-agent-platform/{cluster}/tenant-substrate/{tenant}/session_role_arn"

  validation {
    condition     = strcontains(var.parameter, "{tenant}")
    error_message = "The name of the parameter must contain {tenant}."
  }
}

variable "parameter_region" {
  description = "Region of the SSM parameters. null: the region of the cluster."
  type        = string
  default     = null
}

variable "permissions_boundary" {
  description = "ARN of the permissions boundary of the role."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of all resources of this module."
  type        = map(string)
  default     = {}
}
