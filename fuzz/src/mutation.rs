//! Mutations of a pod that keep it JSON, and mostly a pod: they insert parts of the goldens at
//! fields of the same name.

use std::{collections::BTreeSet, fs, path::Path, sync::LazyLock};

use fab_session_injector::manifest::{self, PodIn};
use libfuzzer_sys::fuzzer_mutate;
use serde_json::Value;

/// The mutator for `fuzz_mutator!`.
pub fn mutate_pod(data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    let Ok(mut pod) = serde_json::from_slice::<Value>(&data[..size]) else {
        return fuzzer_mutate(data, size, most);
    };
    let mut random = Random(seed.into());
    for _ in 0..=random.below(4) {
        change(&mut pod, &mut random);
    }
    let text = pod.to_string();
    if text.len() > most {
        return size;
    }
    data[..text.len()].copy_from_slice(text.as_bytes());
    text.len()
}

fn change(pod: &mut Value, random: &mut Random) {
    let mut places = Vec::new();
    collect(pod, "", &mut places);
    let place = random.of(&places).clone();
    let elsewhere = random.of(&places).clone();
    let other = pod.pointer(&elsewhere).cloned().unwrap_or_default();
    let Some(value) = pod.pointer_mut(&place) else { return };
    match (random.below(5), value) {
        // A part of a golden with this name.
        (0 | 1, value) => {
            let named = parts_of(field(&place));
            *value = if named.is_empty() { other } else { random.of(&named).1.clone() };
        }
        (2, Value::Object(entries)) => {
            let (name, part) = random.of(&PARTS);
            entries.insert(name.clone(), part.clone());
        }
        (2, Value::Array(items)) => {
            let at = random.below(items.len() + 1);
            let named = parts_of(field(&place));
            let part = if named.is_empty() { other } else { random.of(&named).1.clone() };
            // The part is a list with this name, or an item of one.
            match part {
                Value::Array(parts) => items.extend(parts),
                part => items.insert(at, part),
            }
        }
        (3, Value::Object(entries)) => {
            let names: Vec<String> = entries.keys().cloned().collect();
            if !names.is_empty() {
                entries.shift_remove(random.of(&names));
            }
        }
        (3, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.below(items.len()));
        }
        (4, Value::Array(items)) if !items.is_empty() => {
            let item = random.of(items).clone();
            items.push(item);
        }
        (_, Value::String(text)) => {
            let mut bytes = text.clone().into_bytes();
            let size = bytes.len();
            bytes.resize(size + 16, 0);
            let most = bytes.len();
            let size = fuzzer_mutate(&mut bytes, size, most);
            *text = String::from_utf8_lossy(&bytes[..size]).into_owned();
        }
        (_, value) => *value = other,
    }
}

/// Collects the paths of all parts of `value`.
fn collect(value: &Value, at: &str, places: &mut Vec<String>) {
    places.push(at.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &format!("{at}/{index}"), places);
            }
        }
        Value::Object(entries) => {
            for (name, entry) in entries {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect(entry, &format!("{at}/{name}"), places);
            }
        }
        _ => {}
    }
}

/// Returns the field of a path; for an item of a list, the field of the list.
fn field(place: &str) -> &str {
    let is_name = |part: &&str| part.parse::<usize>().is_err();
    place.rsplit('/').find(is_name).unwrap_or_default()
}

fn parts_of(field: &str) -> Vec<&'static (String, Value)> {
    PARTS.iter().filter(|(name, _)| name == field).collect()
}

/// Every part of every golden, with its field.
static PARTS: LazyLock<Vec<(String, Value)>> = LazyLock::new(|| {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut parts = BTreeSet::new();
    for entry in fs::read_dir(goldens).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let objects = manifest::read(&text).unwrap_or_default();
        for PodIn { pod, .. } in objects.iter().flat_map(PodIn::find) {
            let mut places = Vec::new();
            collect(&pod, "", &mut places);
            for place in places {
                let part = pod.pointer(&place).unwrap();
                parts.insert((field(&place).to_owned(), part.to_string()));
            }
        }
    }
    assert!(parts.len() > 500, "{} parts of goldens", parts.len());
    let read = |(name, text): (String, String)| (name, serde_json::from_str(&text).unwrap());
    parts.into_iter().map(read).collect()
});

/// Random numbers from libFuzzer's seed, so that a run can be repeated (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from(mixed >> 33).unwrap() % bound
    }

    fn of<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        &items[self.below(items.len())]
    }
}
