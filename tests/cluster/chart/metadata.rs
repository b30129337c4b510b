//! Chart.yaml, as Artifact Hub reads it.

use std::fs;

use harness::{helm::chart, root};
use serde_json::{Value, json};

#[test]
fn the_metadata_is_that_of_the_program_and_its_image() {
    let text = fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    let metadata: Value = serde_saphyr::from_str(&text).unwrap();
    let repository = env!("CARGO_PKG_REPOSITORY");
    assert_eq!(metadata["home"], repository);
    assert_eq!(metadata["sources"], json!([repository]));
    assert_eq!(metadata["appVersion"], env!("CARGO_PKG_VERSION"));
    let annotation = |key: &str| -> Value {
        let text = metadata["annotations"][format!("artifacthub.io/{key}")].as_str().unwrap();
        serde_saphyr::from_str(text).unwrap()
    };
    assert_eq!(annotation("license"), env!("CARGO_PKG_LICENSE"));
    assert_eq!(annotation("category"), "security");
    // The image is the chart's default.
    let values = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let image = values["image"]["repository"].as_str().unwrap();
    let want = format!("{image}:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(annotation("images"), json!([{"name": metadata["name"], "image": want}]));
    // A link to a page of the repository leads to a file.
    for link in annotation("links").as_array().unwrap() {
        let url = link["url"].as_str().unwrap().strip_prefix(repository).unwrap();
        if let Some(page) = url.strip_prefix("/blob/main/") {
            assert!(root().join(page).is_file(), "{page}");
        }
    }
    let keywords: Vec<&str> =
        metadata["keywords"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert!(keywords.is_sorted(), "{keywords:?}");
}
