variable "name" {
  description = "Name of the role."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9+=,.@_-]{1,64}$", var.name))
    error_message = "The name of a role has 1 to 64 letters, digits and +=,.@_-."
  }
}

variable "path" {
  description = "Path of the role."
  type        = string
  default     = "/"
}

variable "description" {
  description = "Description of the role."
  type        = string
}

variable "cluster_arn" {
  description = "ARN of the EKS cluster."
  type        = string
}

variable "namespace" {
  description = "Namespace of the service accounts."
  type        = string
}

variable "service_accounts" {
  description = "Names of the service accounts. With IRSA a name may have *."
  type        = list(string)

  validation {
    condition = length(var.service_accounts) > 0 && alltrue([
      for account in var.service_accounts : can(regex("^[a-z0-9.*-]*[a-z0-9.-][a-z0-9.*-]*$", account))
    ])
    error_message = "At least one service account is required. The name of a service account must not be only *."
  }
}

variable "oidc_provider" {
  description = "OIDC provider of the cluster, by its URL or its ARN. null: EKS Pod Identity."
  type        = string
  default     = null

  validation {
    condition = var.oidc_provider == null || can(regex(
      "^(https://|arn:[a-z-]+:iam::[0-9]{12}:oidc-provider/)?[A-Za-z0-9.-]+\\.[A-Za-z0-9-]+(/[A-Za-z0-9/_.-]*)?$", var.oidc_provider
    ))
    error_message = "Set the issuer, such as https://oidc.eks.eu-west-1.amazonaws.com/id/ABC, or the ARN of the OIDC provider in IAM."
  }
}

variable "permissions_boundary" {
  description = "ARN of the permissions boundary of the role."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of the role and of the associations."
  type        = map(string)
  default     = {}
}
