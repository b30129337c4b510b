//! How EKS's own webhook gives pods base credentials, and what keeps it and its gifts away.
//! <https://github.com/aws/amazon-eks-pod-identity-webhook>

use crate::session::base;

/// The volumes that it adds, for Pod Identity and for IAM roles for service accounts.
pub(super) const VOLUMES: [&str; 2] = ["aws-iam-token", "eks-pod-identity-token"];

/// The variables by which SDKs find base credentials. They are taken away and not blanked:
/// an empty AWS_WEB_IDENTITY_TOKEN_FILE breaks an SDK. The chart's guard has the same list, and
/// beside them the two that lead to our endpoint.
pub const VARIABLES: [&str; 5] = [
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    base::WEB_IDENTITY_ROLE,
    "AWS_ROLE_SESSION_NAME",
    base::WEB_IDENTITY_FILE,
];

/// With this label, of any value, the API server does not call it for the pod.
pub(super) const SKIP_LABEL: &str = "eks.amazonaws.com/skip-pod-identity-webhook";

/// The containers that it leaves alone: names joined by ',', without spaces, which it does
/// not trim. One malformed character makes it leave none alone, so the value is always
/// written anew.
pub(super) const SKIP_ANNOTATION: &str = "eks.amazonaws.com/skip-containers";

/// Where the node's Pod Identity agent listens, and which audience it takes.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html>
pub(super) const POD_IDENTITY_URI: &str = "http://169.254.170.23/v1/credentials";
pub(super) const POD_IDENTITY_HOST: &str = "169.254.170.23";
pub(super) const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// The audience of tokens for AssumeRoleWithWebIdentity.
/// <https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html>
pub(super) const WEB_IDENTITY_AUDIENCE: &str = "sts.amazonaws.com";
