//! The providers of the clouds against services of the same contract that are stricter than the real ones: they check
//! every signature, token, audience and checksum, and remember what was asked.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]

mod aws;
mod azure;
mod check;
mod gcp;
mod moto;

use bulla_kms::config::{Config, Written};

/// What the manual's page says is configured so, and together they have room in an envelope.
#[test]
fn members_of_three_clouds_are_configured() {
    let page = include_str!("../../../../docs/manual/kms-cloud.md");
    let samples: Vec<&str> = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(samples.len(), 3);
    let text = format!("cluster = 'prod'\n[combine]\npolicy = 'all'\n{}", samples.concat())
        .replace("keys/k8s\"", "keys/k8s\"\nbits = 2048");
    Config::new(toml::from_str::<Written>(&text).unwrap()).unwrap();
}
