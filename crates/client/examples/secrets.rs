//! What a program does with stored secrets and a transit key: write, read, hear of the next version, encrypt, decrypt.
//! Policy has to permit it the action groups `kv` and `transit`.
//!
//! ```text
//! cargo run --example secrets -- 127.0.0.1:8250 sha256:… alice.key
//! ```

use bulla_client::wire::api::{CreateTransitKey, Decrypt, DecryptItem, Encrypt, EncryptItem, KeyKind, PatchKv, PutKv};
use bulla_client::wire::encoding::{base64url, base64url_decode};
use bulla_client::wire::json::StrictMap;
use bulla_client::wire::name::{Name, SecretPath};
use bulla_client::{Client, Pin, identity};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, cluster, identity] = arguments.as_slice() else {
        return Err("usage: secrets ADDRESS CLUSTER IDENTITY".into());
    };
    secrets(address, cluster, Path::new(identity)).await
}

/// Goes through it once.
pub async fn secrets(address: &str, cluster: &str, identity: &Path) -> Result<(), Box<dyn Error>> {
    let identity = identity::read(identity, &|| None)?;
    let client = Client::builder(address).identity(identity).pin(Pin::Cluster(cluster.parse()?)).build()?;

    // Only if nothing is there yet: what somebody else wrote meanwhile is not overwritten.
    let path: SecretPath = "app/db".parse()?;
    let fields =
        [("user", "app"), ("password", "correct horse")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    client.kv_put(&path, &PutKv { cas: Some(0), ..PutKv::fields(StrictMap(fields.into())) }).await?;

    // The mark first, then the secret, then the watch: so no version is missed.
    let known = client.kv_watch(&path, None, Duration::ZERO).await?;
    let secret = client.kv_get(&path).await?;
    println!("version {} has {} fields", secret.version, secret.data.map_or(0, |data| data.0.len()));
    let (watcher, watched) = (client.clone(), path.clone());
    let next =
        tokio::spawn(async move { watcher.kv_watch(&watched, Some(&known.mark), Duration::from_secs(30)).await });
    let data = StrictMap([("password".to_owned(), Some("battery staple".to_owned()))].into());
    client.kv_patch(&path, &PatchKv { data, cas: Some(secret.version), ttl_s: None }).await?;
    println!("heard of version {}", next.await??.version);

    // The key never leaves the cluster. What is encrypted opens only with the same associated data.
    let key: Name = "orders".parse()?;
    let create = CreateTransitKey { kind: KeyKind::Aes256Gcm, exportable: false, deletion_allowed: false };
    client.transit_create(&key, &create).await?;
    let associated_data = Some(base64url(b"order 7"));
    let item = EncryptItem { plaintext: base64url(b"4111 1111"), associated_data: associated_data.clone() };
    let made = client.transit_encrypt(&key, &Encrypt { items: vec![item], version: None }).await?;
    let ciphertext = made.items.into_iter().find_map(|item| item.ciphertext).ok_or("nothing was encrypted")?;
    println!("ciphertext: {} characters", ciphertext.len());
    let item = DecryptItem { ciphertext, associated_data };
    let opened = client.transit_decrypt(&key, &Decrypt { items: vec![item] }).await?;
    let plaintext = opened.items.into_iter().find_map(|item| item.plaintext).ok_or("nothing was decrypted")?;
    let plaintext = base64url_decode(&plaintext).ok_or("it is no base64url")?;
    println!("plaintext: {}", String::from_utf8_lossy(&plaintext));
    Ok(())
}
