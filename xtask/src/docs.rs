//! Files that are generated, and the tests that write and compare them.
//!
//! A generated file is the golden of a test: it compares, and with `BULLA_BLESS=1` it writes. So the file can never
//! be out of date in a build that passes.

use crate::groups::FAILPOINTS;
use crate::test::linting;
use crate::workspace::{Stop, root};

/// Files that one test generates.
pub struct Generated {
    /// Files, or folders of them, from the root of the workspace.
    pub files: &'static [&'static str],
    /// What cargo needs to find the test that compares: `--lib` or `--test NAME`, and after `--` its name.
    pub compares: &'static [&'static str],
    /// What writes, if that is a function of its own, marked `#[ignore = "writes …"]`.
    pub writes: Option<&'static [&'static str]>,
}

/// All of them. To add one, add a line.
pub const GENERATED: &[Generated] = &[
    Generated { files: &["spec/vectors/evidence"], compares: &["--lib", "--", "evidence::tests"], writes: None },
    Generated { files: &["spec/vectors/audit"], compares: &["--test", "audit", "--", "the_vectors"], writes: None },
    Generated { files: &["spec/vectors/barrier"], compares: &["--test", "barrier"], writes: None },
    Generated {
        files: &["spec/vectors/snapshot"],
        compares: &["--lib", "--", "snapshot::tests::the_vectors"],
        writes: None,
    },
    Generated {
        files: &["spec/vectors/seal"],
        compares: &["--test", "seal", "--", "vectors::"],
        writes: Some(&["--test", "seal", "--", "--ignored", "write_vectors"]),
    },
    Generated {
        files: &[
            "crates/server/tests/golden/routes.txt",
            "docs/openapi.json",
            "docs/reference/errors.md",
            "docs/reference/routes.md",
            "docs/samples/server.toml",
        ],
        compares: &["--test", "routes", "--", "generated_files_are_up_to_date"],
        writes: None,
    },
    Generated {
        files: &["docs/reference/cli.md"],
        compares: &["--bin", "bulla", "--", "reference::the_reference_is_what_the_program_says"],
        writes: None,
    },
    Generated { files: &["crates/core/tests/golden/authorization.txt"], compares: &["--test", "policy"], writes: None },
    Generated {
        files: &["crates/server/tests/golden/answers.txt"],
        compares: &["--test", "e2e", "--", "matrix::"],
        writes: None,
    },
    Generated {
        files: &[
            "packaging/kubernetes/kustomize/daemonset.yaml",
            "packaging/kubernetes/sidecar/bulla-kms.yaml",
            "packaging/kubernetes/static-pod/bulla-kms.yaml",
            "packaging/kubernetes/tmpfiles.conf",
        ],
        compares: &["--bin", "xtask", "--", "kubernetes::tests::generated_files_are_up_to_date"],
        writes: None,
    },
];

/// Writes the generated files, or compares them; whether all went well.
pub fn run(check: bool) -> Result<bool, Stop> {
    let mut good = true;
    for generated in GENERATED {
        // Built as all tests are, so that nothing is built twice.
        let mut command = linting();
        command.args(["test", "--quiet", "--workspace", "--features", FAILPOINTS]);
        command.args(if check { generated.compares } else { generated.writes.unwrap_or(generated.compares) });
        if check {
            command.env_remove("BULLA_BLESS");
        } else {
            command.env("BULLA_BLESS", "1");
        }
        println!("{}", generated.files.join(", "));
        let status = command.status().map_err(|error| Stop(format!("cannot run cargo: {error}")))?;
        good &= status.success();
        for file in generated.files.iter().filter(|file| !root().join(file).exists()) {
            eprintln!("error: {file} does not exist; `cargo xtask docs` should have written it");
            good = false;
        }
    }
    if !good && check {
        eprintln!("hint: `cargo xtask docs` writes them anew; read the diff before you commit it");
    }
    Ok(good)
}
