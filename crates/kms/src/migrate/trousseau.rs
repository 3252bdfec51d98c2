//! From Trousseau: the YAML file of each of its providers.

use super::{Before, Fields, MAX_VALUE_BYTES, Migration, Target, address, config, encryption, mount, quoted, steps};
use serde_json::Value;

/// Its name in the manual.
pub const NAME: &str = "vaultprovider";
/// Where its proxy listens in the samples.
pub const ENDPOINT: &str = "unix:///opt/trousseau-kms/proxy.socket";

/// Translates the files of its providers into members.
///
/// # Errors
/// Which field cannot be read.
pub fn translate(trees: &[Value], before: &Before, target: &Target) -> Result<Migration, String> {
    let mut left = Vec::new();
    let mut members = String::new();
    let mut names: Vec<&str> = Vec::new();
    for tree in trees {
        let mut fields = Fields::new(tree)?;
        let (name, text) = if fields.has("keynames") {
            ("vault", vault(&mut fields, &mut left)?)
        } else if fields.has("keyarn") {
            ("aws", aws(&mut fields, &mut left)?)
        } else if fields.has("keyvaultname") {
            ("azure", azure(&mut fields, &mut left)?)
        } else {
            return Err(
                "expected a file of Trousseau's providers vault (keyNames), awskms (keyArn) or azurekms (keyVaultName)"
                    .into(),
            );
        };
        if names.contains(&name) {
            return Err(format!("two files of its provider {name}; give one of each"));
        }
        names.push(name);
        members += &text;
        fields.rest(&mut left);
    }
    if names.len() > 1 {
        // Trousseau refuses to encrypt while one of them is away; the first to be there decrypts.
        members = format!("\n[combine]\nmode = \"any\"\npolicy = \"degraded\"\nminimum = 1\n{members}");
        left.push(
            "encrypting by all providers or not at all: policy degraded goes on while one is away; policy all does not"
                .to_owned(),
        );
    }
    let first = [
        "it speaks KMS v1 alone: from Kubernetes 1.29 on set --feature-gates=KMSv1=true on every kube-apiserver until everything is \
         rewritten; before an upgrade to 1.29, do all of this first",
        "plugins of v1 and v2 have to have different names; bulla is the new one",
    ];
    let last = ["take the feature gate KMSv1 away again"];
    Ok(Migration {
        config: config(target, "Trousseau", &members),
        encryption: encryption(target, before, "v1"),
        left,
        steps: steps(before, &first, &last),
    })
}

fn vault(fields: &mut Fields, left: &mut Vec<String>) -> Result<String, String> {
    let keys = match fields.fields.remove("keynames") {
        Some(Value::Array(keys)) => keys,
        _ => return Err("keyNames: expected a list of names".to_owned()),
    };
    let first = keys
        .first()
        .and_then(Value::as_str)
        .filter(|key| key.len() <= MAX_VALUE_BYTES && !key.chars().any(char::is_control));
    let key = first.ok_or("keyNames: expected a list of names")?;
    if keys.len() > 1 {
        left.push("keyNames: Trousseau uses the first alone, and so does the translation".to_owned());
    }
    let mut text =
        format!("\n[members.vault.vault]\naddress = {}\n", quoted(&address(&fields.needed("address")?, left)));
    if let Some(ca) = fields.text("vaultcacert")? {
        text += &format!("ca = {}\n", quoted(&ca));
    }
    if let Some(transit) = fields.text("transitpath")? {
        text += &format!("mount = {}\n", quoted(&mount(&transit)));
    }
    if fields.secret("tlsservername") {
        left.push("tlsServerName: the certificate is judged by the host of address; use a name that it has".to_owned());
    }
    text += &format!("key = {}\n", quoted(key));
    text += &auth(fields, left)?;
    Ok(text)
}

/// In Trousseau's order: a token, then a certificate, then AppRole.
fn auth(fields: &mut Fields, left: &mut Vec<String>) -> Result<String, String> {
    let base = fields.text("authpath")?.map_or_else(|| "auth".to_owned(), |path| mount(&path));
    let below = match base.strip_prefix("auth/").map(|rest| rest.trim_start_matches('/')) {
        _ if base == "auth" => None,
        Some(rest) => Some(rest.to_owned()),
        None => {
            left.push("authPath: it is not below auth; put the path of the method into mount".to_owned());
            None
        }
    };
    let at = |method: &str| {
        below.as_ref().map_or_else(String::new, |below| format!("mount = {}\n", quoted(&format!("{below}/{method}"))))
    };
    let (token, secret) = (fields.secret("token"), fields.secret("secretid"));
    let (certificate, key, role) = (fields.text("clientcert")?, fields.text("clientkey")?, fields.text("roleid")?);
    if token {
        left.push(
            "token: not copied, and it stood in a file in clear: revoke it, and have another way to log in".to_owned(),
        );
    }
    if let (Some(certificate), Some(key)) = (certificate, key) {
        return Ok(format!(
            "\n[members.vault.vault.auth.certificate]\ncertificate = {}\nkey = {}\n{}",
            quoted(&certificate),
            quoted(&key),
            at("cert")
        ));
    }
    if let Some(role) = role {
        if secret {
            left.push(
                "secretID: not copied; put another one into /etc/bulla-kms/secret-id, and destroy this".to_owned(),
            );
        }
        return Ok(format!(
            "\n[members.vault.vault.auth.approle]\nrole_id = {}\nsecret_id = \"/etc/bulla-kms/secret-id\"\n{}",
            quoted(&role),
            at("approle")
        ));
    }
    if !token {
        return Err("expected one of token, clientCert with clientKey, and roleID".to_owned());
    }
    Ok("\n# Better: approle or certificate, which are renewed for ever.\n[members.vault.vault.auth.token]\n\
        file = \"/etc/bulla-kms/vault-token\"\n"
        .to_owned())
}

fn aws(fields: &mut Fields, left: &mut Vec<String>) -> Result<String, String> {
    let mut text = format!("\n[members.aws.aws]\nkey = {}\n", quoted(&fields.needed("keyarn")?));
    if let Some(endpoint) = fields.text("endpoint")? {
        text += &format!("endpoint = {}\n", quoted(&address(&endpoint, left)));
    }
    let profile = fields.text("profile")?.unwrap_or_else(|| "default".to_owned());
    if fields.secret("rolearn") {
        left.push(
            "roleArn: no role is taken by keys of a file; use credentials.web_identity or credentials.instance"
                .to_owned(),
        );
    }
    if fields.secret("assumerolemfatoken") {
        left.push("assumeRoleMFAToken: not copied; a service has no second factor".to_owned());
    }
    if fields.secret("encryptioncontext") {
        left.push("encryptionContext: ours is the cluster and the key id; a key policy that demands another has to be changed".to_owned());
    }
    text += &format!(
        "\n[members.aws.aws.credentials.file]\npath = \"/etc/bulla-kms/aws-credentials\"\nprofile = {}\n",
        quoted(&profile)
    );
    left.push(
        "the credentials: not copied; put them into /etc/bulla-kms/aws-credentials, or name another source".to_owned(),
    );
    Ok(text)
}

fn azure(fields: &mut Fields, left: &mut Vec<String>) -> Result<String, String> {
    let (vault, key) = (fields.needed("keyvaultname")?, fields.needed("keyname")?);
    let hsm = fields.fields.remove("managedhsm").is_some_and(|value| value == Value::Bool(true));
    let domain = if hsm { "managedhsm.azure.net" } else { "vault.azure.net" };
    if fields.text("keyversion")?.is_some() {
        left.push("keyVersion: the newest that is enabled wraps, and every enabled one unwraps; add /VERSION to key to keep to one".to_owned());
    }
    if fields.secret("configfilepath") {
        left.push(
            "configFilePath: its file has a secret, and is not read; put tenant and client into credentials".to_owned(),
        );
    }
    let url = format!("https://{vault}.{domain}/keys/{key}");
    Ok(format!(
        "\n[members.azure.azure]\nkey = {}\n\n# To be filled in: `bulla kms check` refuses what is empty.\n\
         [members.azure.azure.credentials.client_secret]\ntenant = \"\"\nclient = \"\"\nsecret_file = \"/etc/bulla-kms/azure-secret\"\n",
        quoted(&url)
    ))
}
