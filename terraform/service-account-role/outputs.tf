output "arn" {
  description = "ARN of the role."
  value       = aws_iam_role.this.arn
}

output "name" {
  description = "Name of the role."
  value       = aws_iam_role.this.name
}

output "annotations" {
  description = "Annotations that the service accounts need: those of IRSA, none with EKS Pod Identity."
  value       = local.issuer == null ? {} : { "eks.amazonaws.com/role-arn" = aws_iam_role.this.arn }
}
