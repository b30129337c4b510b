output "session_role_arn" {
  description = "ARN of the session role, the value of the SSM parameter."
  value       = aws_iam_role.session.arn
}

output "session_role_name" {
  description = "Name of the session role."
  value       = aws_iam_role.session.name
}

output "base_role_arns" {
  description = "ARNs of base_roles, by their keys."
  value       = { for key, role in module.base_role : key => role.arn }
}

output "service_account_annotations" {
  description = "Annotations that the service accounts of base_roles need, by their keys: none with EKS Pod Identity."
  value       = { for key, role in module.base_role : key => role.annotations }
}

output "parameter_name" {
  description = "Name of the SSM parameter, if there is one."
  value       = one(aws_ssm_parameter.session_role[*].name)
}

output "base_role_policy" {
  description = "Policy of each base role, as JSON: for other_base_role_arns."
  value       = jsonencode(local.base_role_policy)
}

output "boundary_statement" {
  description = "The statement that the permissions boundary of base roles must allow, as JSON."
  value       = jsonencode(local.boundary_statement)
}
