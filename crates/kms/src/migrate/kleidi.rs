//! From kleidi: its JSON file for Vault (`-provider=hvault`) or SoftHSM (`-provider=softhsm`).

use super::{Before, Fields, Migration, Target, address, config, encryption, mount, quoted, steps};
use serde_json::Value;

/// Its name in the samples.
pub const NAME: &str = "kleidi-kms-plugin";
/// Where it listens unless `-listen` says otherwise.
pub const ENDPOINT: &str = "unix:///tmp/kleidi/kleidi-kms-plugin.socket";

/// Translates.
///
/// # Errors
/// Which field cannot be read.
pub fn translate(tree: &Value, before: &Before, target: &Target) -> Result<Migration, String> {
    let mut fields = Fields::new(tree)?;
    let mut left = Vec::new();
    let vault = ["transitkey", "transit", "vaultrole"].iter().any(|name| fields.has(name));
    let (members, first): (String, &[&str]) = if vault {
        (hvault(&mut fields, &mut left)?, &[])
    } else if ["tokenlabel", "tokenserial", "slotnumber"].iter().any(|name| fields.has(name)) {
        let first = "put one AES-256 key on the token of every node, the same on all (docs/manual/kms-token.md), or use a member \
                     that is not on the node";
        (softhsm(&mut fields, &mut left)?, &[first])
    } else {
        return Err(
            "expected kleidi's file for Vault (transitkey) or for SoftHSM (tokenLabel); its provider tpm never worked"
                .into(),
        );
    };
    fields.rest(&mut left);
    Ok(Migration {
        config: config(target, "kleidi", &members),
        encryption: encryption(target, before, "v2"),
        left,
        steps: steps(
            before,
            first,
            &["its socket was in a folder of /tmp: remove the folder, and its mount into kube-apiserver"],
        ),
    })
}

fn hvault(fields: &mut Fields, left: &mut Vec<String>) -> Result<String, String> {
    // Two spellings, of before and after 2025.
    let either = |fields: &mut Fields, name: &str, older: &str| match fields.text(name)? {
        Some(text) => Ok(Some(text)),
        None => fields.text(older),
    };
    let key = either(fields, "transitkey", "transit")?.ok_or("transitkey: it is missing")?;
    let at = either(fields, "address", "path")?.ok_or("address: it is missing")?;
    let role = either(fields, "vaultrole", "role")?;
    let mut text = format!("\n[members.vault.vault]\naddress = {}\n", quoted(&address(&at, left)));
    if let Some(namespace) = fields.text("namespace")? {
        text += &format!("namespace = {}\n", quoted(&mount(&namespace)));
    }
    if let Some(transit) = fields.text("transitpath")? {
        text += &format!("mount = {}\n", quoted(&mount(&transit)));
    }
    text += &format!("key = {}\n", quoted(&key));
    let path = fields.text("authpath")?;
    let method = fields.text("authmethod")?.unwrap_or_else(|| "k8s".to_owned());
    text += "\n# Made by somebody: a client certificate that Vault's method cert takes.\n[members.vault.vault.auth.certificate]\n\
             certificate = \"/etc/bulla-kms/vault-client.pem\"\nkey = \"/etc/bulla-kms/vault-client.key\"\n";
    match method.as_str() {
        "cert" => {
            if let Some(path) = path {
                text += &format!("mount = {}\n", quoted(&mount(&path)));
            }
            if let Some(role) = role {
                text += &format!("role = {}\n", quoted(&role));
            }
            left.push(
                "VAULT_CLIENT_CERT, VAULT_CLIENT_KEY and VAULT_CACERT of its environment: name these files in certificate, key and ca"
                    .to_owned(),
            );
        }
        "k8s" => left.push(
            "authmethod k8s: Vault would ask the cluster that needs Vault to start, so neither starts after a full stop; make a role \
             of Vault's method cert for the nodes, or use jwt or approle"
                .to_owned(),
        ),
        _ => return Err("authmethod: expected k8s or cert".to_owned()),
    }
    left.push(format!(
        "the policy of its role: ours needs read of keys/{key}, update of encrypt/{key} and decrypt/{key}, and auth/token/renew-self"
    ));
    Ok(text)
}

fn softhsm(fields: &mut Fields, left: &mut Vec<String>) -> Result<String, String> {
    let module = fields.needed("path")?;
    let token = fields.text("tokenlabel")?;
    if token.is_none() {
        left.push("tokenSerial, slotNumber: a token is named by its label; put it into uri".to_owned());
    }
    for name in ["tokenserial", "slotnumber"] {
        fields.secret(name);
    }
    if fields.secret("pin") {
        left.push(
            "pin: not copied; put it into /etc/bulla-kms/pin, of mode 0400, and change it: it stood in a file in clear"
                .to_owned(),
        );
    }
    left.push(
        "the key: kleidi finds it by a label, and its deployment makes another one on each node under the same label; it still reads \
         what it encrypted, and ours needs a key that is the same on every node, by its id"
            .to_owned(),
    );
    let uri = format!(
        "pkcs11:token={};object=kubernetes;id=%01?module-path={}",
        percent(token.as_deref().unwrap_or("LABEL")),
        percent(&module)
    );
    Ok(format!("\n[members.hsm.pkcs11]\nuri = {}\npin_file = \"/etc/bulla-kms/pin\"\n", quoted(&uri)))
}

/// As RFC 7512 writes values.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
