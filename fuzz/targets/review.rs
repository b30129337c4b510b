//! Any bytes: each review gets a response, with its uid.
#![no_main]

use fab_session_injector::namespaces::Mode;
use fab_session_injector_fuzz::{WORLD, uid};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    for mode in [Mode::Audit, Mode::Enabled] {
        WORLD.answer(mode, body);
        // Serialised again, so no key appears twice.
        if let Ok(sound) = serde_json::from_slice::<Value>(body) {
            let answer = WORLD.answer(mode, sound.to_string().as_bytes());
            let told = answer.as_ref().and_then(|answer| answer.response["uid"].as_str());
            assert_eq!(told, uid(&sound));
        }
    }
});
