//! The memory backend against the conformance suite.

use bulla_store::{Kind, Store, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conforms() {
    conformance::run(Store::memory).await;
}

#[test]
fn has_a_kind() {
    assert_eq!(Store::memory().kind(), Kind::Memory);
    assert_eq!(Kind::Memory.to_string(), "memory");
}
