//! Names by which EKS's pod identity webhook gives pods base credentials, and by which it skips
//! them.
//! <https://github.com/aws/amazon-eks-pod-identity-webhook>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{config::IpFamily, session::base_credentials};

/// Volumes that EKS's webhook adds, for Pod Identity and for IAM roles for service accounts.
pub(super) const VOLUMES: [&str; 2] = ["aws-iam-token", "eks-pod-identity-token"];

/// Variables by which SDKs find base credentials.
///
/// The patch removes them and does not blank them: an empty AWS_WEB_IDENTITY_TOKEN_FILE breaks an
/// SDK. The chart's guard has the same list, and in addition the two variables of the sidecar's
/// endpoint.
pub const VARIABLES: [&str; 5] = [
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    base_credentials::WEB_IDENTITY_ROLE,
    "AWS_ROLE_SESSION_NAME",
    base_credentials::WEB_IDENTITY_FILE,
];

/// Label with which the API server does not call EKS's webhook for a pod. Any value counts.
pub(super) const SKIP_LABEL: &str = "eks.amazonaws.com/skip-pod-identity-webhook";

/// Annotation with the containers that EKS's webhook skips: names joined by ',', without spaces,
/// which it does not trim. With one malformed character it skips none, so the patch always
/// overwrites the value.
pub(super) const SKIP_ANNOTATION: &str = "eks.amazonaws.com/skip-containers";

/// Returns the address of the node's Pod Identity agent.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-agent-setup.html>
pub(super) fn pod_identity_address(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(169, 254, 170, 23).into(),
        IpFamily::V6 => Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23).into(),
    }
}

/// Returns the host of the agent's URI.
pub fn pod_identity_host(family: IpFamily) -> String {
    match pod_identity_address(family) {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Returns the URI at which the agent serves base credentials.
pub(super) fn pod_identity_uri(family: IpFamily) -> String {
    format!("http://{}/v1/credentials", pod_identity_host(family))
}

/// Audience that the agent accepts.
/// <https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html>
pub(super) const POD_IDENTITY_AUDIENCE: &str = "pods.eks.amazonaws.com";

/// Audience of tokens for AssumeRoleWithWebIdentity.
/// <https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html>
pub(super) const WEB_IDENTITY_AUDIENCE: &str = "sts.amazonaws.com";
