//! Programs of others that tests compare with, and what happens without them.
//!
//! `cargo xtask test` finds or installs them and says where they are in the environment. A test that lacks one says
//! so with [`skip!`](crate::skip), and fails where nothing may be skipped.

use std::path::PathBuf;

/// The first `name` on `PATH`.
pub fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// age 1.3 or newer, which knows post-quantum keys; `age-keygen` lies beside it.
pub fn age() -> Option<PathBuf> {
    named("BULLA_TEST_AGE")
}

/// Debian's age, which knows classical keys only.
pub fn age_of_debian() -> Option<PathBuf> {
    named("BULLA_TEST_AGE_DEBIAN")
}

/// A folder whose `node_modules` holds `age-encryption`.
pub fn age_of_npm() -> Option<PathBuf> {
    named("BULLA_TEST_AGE_NPM")
}

/// A Python that has `cryptography` and `requests`.
pub fn python() -> Option<PathBuf> {
    named("BULLA_TEST_PYTHON")
}

/// A Python that has `moto` and its server, and so `boto3` and `botocore`.
pub fn moto() -> Option<PathBuf> {
    named("BULLA_TEST_MOTO")
}

/// A Python that has `grpc` and `google.protobuf`.
pub fn grpc() -> Option<PathBuf> {
    named("BULLA_TEST_GRPC")
}

/// A Python that has `helm_python`, which is Helm's own code.
pub fn helm() -> Option<PathBuf> {
    named("BULLA_TEST_HELM")
}

/// kubectl as Kubernetes releases it.
pub fn kubectl() -> Option<PathBuf> {
    named("BULLA_TEST_KUBECTL")
}

/// promtool of Prometheus.
pub fn promtool() -> Option<PathBuf> {
    named("BULLA_TEST_PROMTOOL")
}

/// OpenBao's own binary.
pub fn openbao() -> Option<PathBuf> {
    named("BULLA_TEST_OPENBAO")
}

/// The folder with the programs of `tests/apiserver`.
pub fn apiserver() -> Option<PathBuf> {
    named("BULLA_TEST_APISERVER")
}

fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Says that `test` did not run and why, in the line that `cargo xtask test` counts.
///
/// # Panics
/// Where nothing may be skipped (`BULLA_TEST_NO_SKIP=1`).
pub fn skipped(test: &str, why: &str) {
    println!("SKIPPED: {test}: {why}");
    let required = std::env::var_os("BULLA_TEST_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!required, "{test} was skipped: {why}");
}

/// Leaves the test, which did not run because something is missing: `skip!("a_test", "needs age 1.3")`.
/// The name is the test's own, so that it is not counted as passed.
#[macro_export]
macro_rules! skip {
    ($test:expr, $($why:tt)+) => {{
        $crate::tools::skipped($test, &format!($($why)+));
        return;
    }};
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_tool_is_found_on_the_path() {
        assert!(super::find("sh").is_some());
        assert!(super::find("no-such-program-anywhere").is_none());
    }
}
