//! Any text as a value of a type, which the first byte selects: it is written as it was parsed.
#![no_main]

use fab_session_injector::{
    config::{Glob, ParameterTemplate, Quantity, Region, RoleArnTemplate, Selector},
    namespaces::NamespaceName,
    session::{
        ClientId, IssuerUrl, PodUid, RoleArn, RoleSessionName, SessionDuration, SessionName,
        SourceIdentity, StartGate, TenantName,
    },
};
use fab_session_injector_fuzz::{matches, round_trip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((noun, text)) = bytes.split_first() else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    let (left, right) = text.split_once('\n').unwrap_or((text, ""));
    match noun % 14 {
        0 => round_trip::<RoleArn>(text),
        1 => round_trip::<TenantName>(text),
        2 => round_trip::<SourceIdentity>(text),
        3 => round_trip::<SessionDuration>(text),
        4 => round_trip::<Selector>(text),
        5 => round_trip::<StartGate>(text),
        6 => assert_eq!(left.parse::<Glob>().unwrap().matches(right), matches(left, right)),
        7 => drop((text.parse::<Quantity>(), text.parse::<Region>())),
        8 => drop((text.parse::<ParameterTemplate>(), text.parse::<RoleArnTemplate>())),
        9 => assert_eq!(text.parse::<NamespaceName>().is_ok(), text.parse::<TenantName>().is_ok()),
        10 => round_trip::<IssuerUrl>(text),
        11 => round_trip::<ClientId>(text),
        12 => round_trip::<PodUid>(text),
        _ => {
            let (Ok(tenant), Ok(name)) = (left.parse::<TenantName>(), right.parse::<SessionName>())
            else {
                return;
            };
            let role_session_name = RoleSessionName::of(&name);
            assert!(role_session_name.as_str().parse::<SourceIdentity>().is_ok());
            assert!(!role_session_name.as_str().contains('@'));
            if tenant.remaining_length() >= 12 {
                let identity = SourceIdentity::of(&tenant, &name);
                assert_eq!(identity.as_str().parse(), Ok(identity));
            }
        }
    }
});
