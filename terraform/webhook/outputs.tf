output "role_arn" {
  description = "ARN of the webhook's role."
  value       = module.role.arn
}

output "role_name" {
  description = "Name of the webhook's role."
  value       = module.role.name
}

output "service_account_annotations" {
  description = "The chart's serviceAccount.annotations: the annotation of IRSA, none with EKS Pod Identity."
  value       = module.role.annotations
}
