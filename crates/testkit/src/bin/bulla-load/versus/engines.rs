//! Stored secrets, transit keys, databases and leases: what is done on OpenBao, and the run that compares.

use super::calls::{Call, Counter, Seat};
use super::comparison::{Comparison, ENGINES, Figure, Report, Row, SECRETS};
use super::https::Header;
use super::openbao::text;
use super::{Binaries, Both, operations, standing};
use crate::installation::{Class, VALUE_BYTES};
use crate::scale::{REST, fill, resident};
use crate::stock::{self, BATCH, CIPHER, CONNECTIONS, DATABASE, DIRECTORY, LEASE_MAX_S, LEASE_S, ROLE, SIGNER};
use crate::{Fault, Plan, engines, proc, scale, table};
use bulla_testkit::postgres::{ADMIN, PASSWORD, Postgres};
use data_encoding::BASE64;
use http::Method;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What the measured clients may.
const POLICY: &str = r#"
path "secret/data/bench/*" { capabilities = ["create", "update", "read"] }
path "secret/metadata/bench/*" { capabilities = ["list"] }
path "transit/+/bench" { capabilities = ["update"] }
path "transit/+/bench-sign" { capabilities = ["update"] }
path "database/creds/*" { capabilities = ["read"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }
"#;
/// How users are made. It knows places inside quotes.
const CREATION: &str = r#"CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;

/// Makes keys, a database and its role, and lets everybody use them.
async fn furnish(counter: &mut Counter, database: Option<Arc<Postgres>>) -> Result<(), Fault> {
    let server = &counter.server;
    server.set_up("sys/policies/acl/bench", &json!({"policy": POLICY})).await?;
    server.set_up("sys/mounts/transit", &json!({"type": "transit"})).await?;
    server.set_up(&format!("transit/keys/{CIPHER}"), &json!({"type": "aes256-gcm96"})).await?;
    server.set_up(&format!("transit/keys/{SIGNER}"), &json!({"type": "ed25519"})).await?;
    if let Some(database) = &database {
        let ca = server.keep("database.pem", database.ca())?;
        let port = database.port();
        let place = format!("127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert={}", ca.display());
        server.set_up("sys/mounts/database", &json!({"type": "database"})).await?;
        // What is sent in a statement is what the database keeps, not the password, as ours does.
        let connection = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": ROLE,
            "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@{place}"),
            "username": ADMIN,
            "password": PASSWORD,
            "password_authentication": "scram-sha-256",
            "max_open_connections": CONNECTIONS,
        });
        server.set_up(&format!("database/config/{DATABASE}"), &connection).await?;
        let role = json!({
            "db_name": DATABASE,
            "creation_statements": [CREATION],
            "default_ttl": LEASE_S,
            "max_ttl": LEASE_MAX_S,
        });
        server.set_up(&format!("database/roles/{ROLE}"), &role).await?;
    }
    counter.stock.database = database;
    counter.stock.ciphertexts = counter.encrypt(counter.seat(0)?, BATCH).await?;
    Ok(())
}

impl Counter {
    /// Does one of these once. `false` if there is nothing to do.
    pub async fn engine(&self, call: Call, number: usize) -> Result<bool, Fault> {
        let seat = self.seat(number)?;
        match call {
            Call::List => {
                let path = format!("/v1/secret/metadata/{}?list=true", self.stock.secrets.directory());
                let listed = self.ask(seat, Method::GET, &path, None).await?;
                let names = listed.pointer("/data/keys").and_then(Value::as_array).map_or(0, Vec::len);
                if names as u64 != DIRECTORY {
                    return Err(format!("{names} names in a directory").into());
                }
            }
            Call::Encrypt => drop(self.encrypt(seat, 1).await?),
            Call::EncryptMany => drop(self.encrypt(seat, BATCH).await?),
            Call::Decrypt => self.decrypt(seat, 1).await?,
            Call::DecryptMany => self.decrypt(seat, BATCH).await?,
            Call::Sign => self.sign(seat, 1).await?,
            Call::SignMany => self.sign(seat, BATCH).await?,
            Call::Issue => {
                let made = self.ask(seat, Method::GET, &format!("/v1/database/creds/{ROLE}"), None).await?;
                self.stock.hold(number, text(&made, "/lease_id")?.to_owned());
            }
            Call::Renew => {
                let Some(lease) = self.stock.oldest(number) else { return Ok(false) };
                let body = json!({"lease_id": lease, "increment": LEASE_S});
                self.ask(seat, Method::POST, "/v1/sys/leases/renew", Some(&body)).await?;
                self.stock.hold(number, lease);
            }
            Call::Revoke => {
                let Some(lease) = self.stock.oldest(number) else { return Ok(false) };
                let body = json!({"lease_id": lease});
                self.ask(seat, Method::POST, "/v1/sys/leases/revoke", Some(&body)).await?;
            }
            _ => return Err("this is not done by an engine".into()),
        }
        Ok(true)
    }

    async fn encrypt(&self, seat: &Seat, items: usize) -> Result<Vec<String>, Fault> {
        let path = format!("/v1/transit/encrypt/{CIPHER}");
        let items = vec![json!({"plaintext": content()}); items];
        self.batch(seat, &path, items, "ciphertext").await
    }

    async fn decrypt(&self, seat: &Seat, items: usize) -> Result<(), Fault> {
        let path = format!("/v1/transit/decrypt/{CIPHER}");
        let items = self.stock.ciphertexts(items)?.iter().map(|text| json!({"ciphertext": text})).collect();
        let made = self.batch(seat, &path, items, "plaintext").await?;
        let whole = made.iter().all(|text| text.len() == content().len());
        if whole { Ok(()) } else { Err("the content came back otherwise".into()) }
    }

    async fn sign(&self, seat: &Seat, items: usize) -> Result<(), Fault> {
        let path = format!("/v1/transit/sign/{SIGNER}");
        self.batch(seat, &path, vec![json!({"input": content()}); items], "signature").await.map(drop)
    }

    /// One request with these items: a single one stands in the body itself, as is usual there.
    async fn batch(&self, seat: &Seat, path: &str, items: Vec<Value>, field: &str) -> Result<Vec<String>, Fault> {
        let count = items.len();
        let one = |item: &Value| text(item, &format!("/{field}")).map(str::to_owned);
        if let [item] = &*items {
            let made = self.ask(seat, Method::POST, path, Some(item)).await?;
            return Ok(vec![one(made.pointer("/data").unwrap_or(&Value::Null))?]);
        }
        let made = self.ask(seat, Method::POST, path, Some(&json!({"batch_input": items}))).await?;
        let results = made.pointer("/data/batch_results").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if results.len() != count {
            return Err(format!("{} results of {count} items", results.len()).into());
        }
        results.iter().map(one).collect()
    }

    async fn ask(&self, seat: &Seat, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Fault> {
        let token: Header<'_> = ("x-vault-token", &seat.token);
        seat.by_token.send(method, path, &[token], body).await?.json()
    }
}

/// What is encrypted and signed.
fn content() -> String {
    BASE64.encode(&[b'x'; VALUE_BYTES])
}

/// Measures both: tables, and JSON lines.
pub async fn run(ours: &Path, theirs: &Path, core: usize, plan: &Plan) -> Result<(String, String), Fault> {
    let load_before = proc::load_average();
    let binaries = Binaries { ours: ours.to_owned(), theirs: theirs.to_owned(), core };
    let mut conditions = vec![super::versions(&binaries)?];
    let (mut comparisons, mut figures, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let database = stock::postgres().await?;
    if database.is_none() {
        missing.push("databases and leases, which need PostgreSQL".to_owned());
    }
    for class in [Class::Memory, Class::File] {
        eprintln!("keys and databases, store: {}", class.name());
        let mut both = Box::pin(Both::new(&binaries, class)).await?;
        if class == Class::Memory {
            conditions.push(super::tls(&both).await?);
        }
        let (place, counter) = both.alone()?;
        engines::furnish(place, database.clone()).await?;
        furnish(counter, database.clone()).await?;
        let rows: Vec<Row> = ENGINES.into_iter().filter(|row| database.is_some() || !row.work.leases()).collect();
        if plan.operations {
            comparisons.extend(Box::pin(operations(&both, &rows, class, None, plan)).await?);
        }
        let mut secrets = 0;
        for &size in plan.secrets.iter().filter(|size| class == Class::File || **size <= engines::IN_MEMORY_MAX) {
            eprintln!("{size} secrets, store: {}", class.name());
            Box::pin(grow(&both, secrets, size)).await?;
            secrets = size;
            comparisons.extend(Box::pin(operations(&both, &SECRETS, class, Some(size), plan)).await?);
            if class == Class::File {
                figures.extend(Box::pin(measure(&mut both, size)).await?);
            }
        }
    }
    comparisons.sort_by_key(Comparison::place);
    let mut heading = table::heading(&load_before);
    heading.append(&mut conditions);
    let report = Report { heading, comparisons, figures, missing };
    Ok((report.markdown(), report.json()?))
}

/// Writes secrets into both until there are so many.
async fn grow(both: &Both, from: u64, to: u64) -> Result<(), Fault> {
    let began = Instant::now();
    engines::grow(&both.ours, from, to).await?;
    eprintln!("  {to} secrets in ours after {:.0} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let at = both.theirs.clone();
    let write = move |number, index| {
        let counter = at.clone();
        async move { counter.write(number, &stock::secret(from + index)).await }
    };
    fill(to.saturating_sub(from), write).await?;
    both.theirs.stock.secrets.set(to);
    eprintln!("  {to} secrets in OpenBao after {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Memory, files and starts of both with so many secrets.
async fn measure(both: &mut Both, size: u64) -> Result<Vec<Figure>, Fault> {
    tokio::time::sleep(REST).await;
    let with = format!("{size} secrets");
    let (place, counter) = both.alone()?;
    let (memory, files) = (resident(counter.server.pid()?)?, counter.server.files()?);
    let mut figures = vec![
        Figure::new(format!("memory with {with}"), resident(place.installation.pid())?, memory, "MiB"),
        Figure::new(format!("store files with {with}"), scale::files(&place.installation)?, files, "MiB"),
    ];
    place.seats.clear();
    let our_start = Box::pin(scale::start(&mut place.installation)).await?;
    place.seats = place.installation.seats().await?;
    let their_start = standing::start(counter).await?;
    figures.extend(standing::starts(&our_start, &their_start, &with));
    Ok(figures)
}
