//! Any pod: a second injection changes nothing, and the SourceIdentity has the tenant's name.
#![no_main]

use fab_session_injector_fuzz::{OPERATOR, TENANT, WORLD, mutate_pod};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::Value;

fuzz_target!(|pod: &[u8]| {
    let Ok(pod) = serde_json::from_slice::<Value>(pod) else { return };
    for creator in [OPERATOR, TENANT] {
        let mut pod = pod.clone();
        let first = WORLD.create(creator, &pod);
        let Some(patch) = first.patch else { continue };
        json_patch::patch(&mut pod, &patch).expect("the patch applies");
        let second = WORLD.create(creator, &pod);
        assert!(second.patch.is_none(), "again: {}", serde_json::to_string(&second.patch).unwrap());
        let said = |response: &Value| response["auditAnnotations"].clone();
        assert_eq!(said(&first.response), said(&second.response));
        let identity = said(&first.response)["source-identity"].take();
        assert!(identity.is_null() || identity.as_str().unwrap().starts_with("agent.acme."));
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| {
    mutate_pod(data, size, most, seed)
});
