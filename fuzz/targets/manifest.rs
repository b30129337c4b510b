//! Any text as manifest: `inject` parses it, finds its pods, and writes the same manifest.
#![no_main]

use fab_session_injector::manifest::{self, PodIn};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for object in manifest::read(text).unwrap_or_default() {
        let _ = (PodIn::find(&object), manifest::title(&object));
        let written = manifest::write(&object).expect("what was read can be written");
        let again = manifest::read(&written).expect("what was written can be read");
        assert_eq!(again, [object], "{written}");
    }
});
