//! Any text as config and as role file: parsing it again gives the same result.
#![no_main]

use fab_session_injector::{config::Config, roles::file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let [first, again] = [(); 2].map(|()| format!("{:?}", Config::parse(text)));
    assert_eq!(first, again);
    if let Ok(config) = Config::parse(text) {
        let _ = file::parse(text, &config.roles.allowed);
    }
    let [first, again] = [(); 2].map(|()| file::parse(text, &Default::default()).ok());
    assert_eq!(first.map(|roles| roles.len()), again.map(|roles| roles.len()));
});
