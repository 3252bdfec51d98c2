//! What is behind the measured plugins: a real cluster with a transit key, OpenBao, a token of SoftHSM, a key file, a TPM in
//! software; and how they are put together. Clouds are not measured: what answered here would be no cloud.

use crate::Fault;
use crate::installation::Class;
use crate::versus::openbao::{LIFE, OpenBao, text};
use bulla_testkit::softhsm::{CONFIGURATION, SoftHsm};
use bulla_testkit::tpm::{self, Tpm};
use bulla_testkit::{Cli, Options, Server};
use serde_json::{Value, json};
use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PIN: &str = "1234";
/// The transit key, on either server.
const KEY: &str = "kubernetes";
/// What the plugin may on the cluster.
const POLICY: &[u8] = b"permit (principal in Bulla::Group::\"admins\", action in Bulla::Action::\"transit\", resource);
permit (principal in Bulla::Group::\"nodes\", action in [Bulla::Action::\"transit.read\", Bulla::Action::\"transit.encrypt\",
    Bulla::Action::\"transit.decrypt\"], resource);\n";
/// What it may on OpenBao.
const POLICY_OF_OPENBAO: &str = r#"
path "transit/keys/kubernetes" { capabilities = ["read"] }
path "transit/encrypt/kubernetes" { capabilities = ["update"] }
path "transit/decrypt/kubernetes" { capabilities = ["update"] }
"#;

/// A member of a plugin, and what it needs to live.
pub struct Member {
    kind: &'static str,
    /// Its section of the configuration.
    section: String,
    environment: Vec<(OsString, OsString)>,
    /// The process of its server, whose CPU time is told beside the plugin's.
    backend: Option<u32>,
    _keeps: Box<dyn Any + Send>,
}

/// All that there is on this machine.
pub struct Members {
    each: Vec<Member>,
    /// A key file that a TPM opens. A TPM has place for one program, so it is measured alone.
    pub bound: Option<(Member, Arc<Tpm>)>,
    /// What is not measured, and why.
    pub missing: Vec<String>,
}

/// What a plugin with certain members is started with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    /// The members, as tables name them.
    pub name: String,
    /// What stands in the configuration behind everything else.
    pub sections: String,
    /// What the plugin's process needs in its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The servers behind it.
    pub backends: Vec<u32>,
}

impl Members {
    /// Sets up whatever can be had.
    pub async fn new(binary: &Path, openbao: Option<&Path>, core: usize) -> Result<Self, Fault> {
        let own = binary.to_owned();
        // Everything here waits for other programs.
        let local = tokio::task::spawn_blocking(move || -> Result<_, Fault> {
            Ok((central(&own, core)?, token(&own)?, key_file(&own)?, bound(&own)?))
        });
        let (central, token, file, bound) = local.await??;
        let (mut each, mut missing) = (vec![central], Vec::new());
        match openbao {
            Some(openbao) => each.push(Box::pin(vault(openbao, core)).await?),
            None => missing.push("a key of OpenBao, which is not installed".to_owned()),
        }
        match token {
            Some(token) => each.push(token),
            None => missing.push("a key on a token, which needs softhsm2 and opensc of Debian".to_owned()),
        }
        each.push(file);
        if bound.is_none() {
            missing.push(format!("a key file that a TPM opens, which {}", tpm::NEEDS));
        }
        Ok(Self { each, bound, missing })
    }

    /// Each alone, a token beside the cluster so that either may be away, and all of them for every seed.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings: Vec<_> = self.each.iter().map(Setting::of_one).collect();
        let named = |kind: &str| self.each.iter().find(|member| member.kind == kind);
        if let (Some(central), Some(token)) = (named("bulla"), named("pkcs11")) {
            settings.push(Setting::of_many(&[central, token], "policy = 'degraded'\nminimum = 1"));
        }
        if self.each.len() > 2 {
            settings.push(Setting::of_many(&self.each.iter().collect::<Vec<_>>(), "policy = 'all'"));
        }
        settings
    }
}

impl Setting {
    /// One member.
    pub fn of_one(member: &Member) -> Self {
        let Member { kind, section, environment, backend, .. } = member;
        Self {
            name: (*kind).to_owned(),
            sections: section.clone(),
            environment: environment.clone(),
            backends: backend.iter().copied().collect(),
        }
    }

    /// Several of them, in this policy.
    fn of_many(members: &[&Member], policy: &str) -> Self {
        let each: Vec<Self> = members.iter().map(|member| Self::of_one(member)).collect();
        let names: Vec<&str> = each.iter().map(|one| one.name.as_str()).collect();
        Self {
            name: names.join(" + "),
            sections: format!(
                "[combine]\n{policy}\n{}",
                each.iter().map(|one| one.sections.as_str()).collect::<String>()
            ),
            environment: each.iter().flat_map(|one| one.environment.iter().cloned()).collect(),
            backends: each.iter().flat_map(|one| one.backends.iter().copied()).collect(),
        }
    }
}

/// A transit key of a durable cluster on the measured core, with everything on.
fn central(binary: &Path, core: usize) -> Result<Member, Fault> {
    let (mut admin, node) = (Cli::new(binary), Cli::new(binary));
    let server = Server::with_admin(Options::durable(binary).core(core), &mut admin);
    node.run(["keygen", "-q", "-o", "node.key", "--name", "node"]).ok();
    let record = node.work().join("node.pub");
    let add: [&OsStr; 5] =
        ["principal".as_ref(), "add".as_ref(), record.as_os_str(), "--group".as_ref(), "nodes".as_ref()];
    admin.run(add).ok();
    admin.file("kms.cedar", POLICY);
    admin.run(["policy", "put", "kms", "kms.cedar"]).ok();
    admin.run(["transit", "create", KEY]).ok();
    let context: Value = serde_json::from_str(&admin.run(["context", "show", "-o", "json"]).ok())?;
    let cluster = context.pointer("/cluster").and_then(Value::as_str).ok_or("a context without a cluster")?;
    let section = format!(
        "[members.central.bulla]\naddress = 'https://{}'\ncluster = '{cluster}'\nkey = '{KEY}'\nidentity = '{}'\n",
        server.address(),
        node.work().join("node.key").display(),
    );
    let backend = Some(server.ready().pid);
    Ok(Member { kind: "bulla", section, environment: Vec::new(), backend, _keeps: Box::new((server, admin, node)) })
}

/// A transit key of OpenBao: never in dev mode, on raft, with its audit file, as where both are compared.
async fn vault(binary: &Path, core: usize) -> Result<Member, Fault> {
    let server = OpenBao::new(binary, Class::File, core).await?;
    server.set_up("sys/mounts/transit", &json!({"type": "transit"})).await?;
    server.set_up(&format!("transit/keys/{KEY}"), &json!({"type": "aes256-gcm96"})).await?;
    server.set_up("sys/policies/acl/kms", &json!({"policy": POLICY_OF_OPENBAO})).await?;
    let made = server.set_up("auth/token/create-orphan", &json!({"policies": ["kms"], "period": LIFE})).await?;
    let token = server.keep("kms.token", text(&made, "/auth/client_token")?)?;
    fs::set_permissions(&token, Permissions::from_mode(0o600))?;
    let ca = server.keep("kms-ca.pem", server.authority.pem())?;
    let section = format!(
        "[members.vault.vault]\naddress = 'https://{}'\nca = '{}'\nkey = '{KEY}'\nauth.token.file = '{}'\n",
        server.address(),
        ca.display(),
        token.display(),
    );
    let backend = Some(server.pid()?);
    Ok(Member { kind: "vault", section, environment: Vec::new(), backend, _keeps: Box::new(server) })
}

/// A key on a token of SoftHSM, which works within the plugin's process.
fn token(binary: &Path) -> Result<Option<Member>, Fault> {
    let Some(hsm) = SoftHsm::new() else { return Ok(None) };
    hsm.token("kms", PIN);
    let mut cli = Cli::new(binary);
    let configuration = (CONFIGURATION.into(), hsm.configuration().into());
    cli.env(CONFIGURATION, hsm.configuration());
    private(&cli, "pin", PIN)?;
    let uri = format!("pkcs11:token=kms;object=k8s?module-path={}", hsm.module());
    // What it prints is the member.
    let section = format!("{}\n", cli.run(["kms", "keygen", &uri, "--pin-file", "pin"]).ok());
    let environment = vec![configuration];
    Ok(Some(Member { kind: "pkcs11", section, environment, backend: None, _keeps: Box::new((hsm, cli)) }))
}

/// A key file that an identity in another file opens.
fn key_file(binary: &Path) -> Result<Member, Fault> {
    let cli = Cli::new(binary);
    cli.run(["keygen", "-q", "-o", "node.key", "--name", "node"]).ok();
    cli.run(["kms", "keyfile", "create", "keys.age", "--node", "node=node.pub"]).ok();
    let section =
        format!("[members.node.age]\nfile = '{0}/keys.age'\nidentity = '{0}/node.key'\n", cli.work().display());
    Ok(Member { kind: "age", section, environment: Vec::new(), backend: None, _keeps: Box::new(cli) })
}

/// A key file whose identity a TPM in software opens, at the plugin's start and then no more.
fn bound(binary: &Path) -> Result<Option<(Member, Arc<Tpm>)>, Fault> {
    let Some(tpm) = Tpm::start(PIN) else { return Ok(None) };
    tpm.pair(PIN, "rsa:2048", "node", "07", "--usage-decrypt");
    let mut cli = Cli::new(binary);
    for (name, value) in tpm.environment() {
        cli.env(name, value);
    }
    let pin = private(&cli, "pin", PIN)?;
    let uri = format!("pkcs11:token=tpm;object=node?module-path={}&pin-source=file:{}", tpm.module(), pin.display());
    tpm.forget();
    let recipient = cli.run(["kms", "bind", "-o", "node.bound", "--to", &uri]).ok();
    cli.run(["kms", "keyfile", "create", "keys.age", "--node", &format!("node={}", recipient.trim_end())]).ok();
    let section = format!(
        "[members.node.age]\nfile = '{0}/keys.age'\nidentity = '{0}/node.bound'\nbound_to = '{uri}'\n",
        cli.work().display()
    );
    let environment = tpm.environment().iter().map(|(name, value)| (OsString::from(name), value.clone())).collect();
    let member = Member { kind: "age in a TPM", section, environment, backend: None, _keeps: Box::new(cli) };
    Ok(Some((member, Arc::new(tpm))))
}

/// A file that nobody else may read, as those of secrets have to be.
fn private(cli: &Cli, name: &str, content: &str) -> Result<PathBuf, Fault> {
    let path = cli.file(name, content.as_bytes());
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(kind: &'static str) -> Member {
        let section = format!("[members.{kind}]\n");
        let environment = vec![(OsString::from("OF"), OsString::from(kind))];
        Member { kind, section, environment, backend: (kind != "age").then_some(7), _keeps: Box::new(()) }
    }

    fn names(kinds: &[&'static str]) -> Vec<String> {
        let each = kinds.iter().map(|kind| member(kind)).collect();
        let members = Members { each, bound: None, missing: Vec::new() };
        members.settings().into_iter().map(|setting| setting.name).collect()
    }

    #[test]
    fn members_are_put_together_as_far_as_they_are_there() {
        let all = ["bulla", "vault", "pkcs11", "age", "bulla + pkcs11", "bulla + vault + pkcs11 + age"];
        assert_eq!(names(&["bulla", "vault", "pkcs11", "age"]), all);
        assert_eq!(names(&["bulla", "vault", "age"]), ["bulla", "vault", "age", "bulla + vault + age"]);
        assert_eq!(names(&["bulla", "age"]), ["bulla", "age"]);
    }

    #[test]
    fn several_have_a_policy_and_what_each_needs() {
        let (one, other) = (member("bulla"), member("age"));
        let both = Setting::of_many(&[&one, &other], "policy = 'all'");
        assert_eq!(both.sections, "[combine]\npolicy = 'all'\n[members.bulla]\n[members.age]\n");
        assert_eq!((both.environment.len(), both.backends), (2, vec![7]));
        assert_eq!(Setting::of_one(&other).sections, "[members.age]\n");
    }
}
