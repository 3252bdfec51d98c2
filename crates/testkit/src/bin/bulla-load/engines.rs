//! Stored secrets, transit keys, databases and leases: what is done on ours, and the run that measures it alone.

use crate::installation::{Class, Installation, Seat, VALUE_BYTES, secret};
use crate::primitives::Primitives;
use crate::scale::{self, fill};
use crate::stock::{self, BATCH, CIPHER, CONNECTIONS, DATABASE, DIRECTORY, LEASE_MAX_S, LEASE_S, ROLE, SIGNER};
use crate::table::{self, Report, Single};
use crate::work::{Place, Work};
use crate::{Fault, Plan, operations, proc};
use bulla_client::wire::api::{
    CreateTransitKey, DatabaseEngine, DatabaseTls, Decrypt, DecryptItem, Encrypt, EncryptItem, KeyKind, PutDatabase,
    PutDatabaseRole, Sign, SignItem,
};
use bulla_client::wire::encoding::base64url;
use bulla_testkit::postgres::{ADMIN, PASSWORD, Postgres};
use std::path::Path;
use std::sync::Arc;

/// Lets everybody use keys and databases. Their own leases are theirs by themselves.
const POLICY: &str = r#"
permit (principal, action in Bulla::Action::"transit", resource in Bulla::Transit::"");
permit (principal, action in Bulla::Action::"database", resource in Bulla::Database::"");
"#;
/// Where users are made.
const CREATION: &str = "CREATE ROLE {{name}} LOGIN PASSWORD {{password}} VALID UNTIL {{expiration}}";
/// A role whose users are only talked about, for leases that only have to lie there.
const LYING: (&str, &str) = ("lying", "SELECT 1 AS {{name}}");
/// Above so many secrets only the durable stores are filled.
pub const IN_MEMORY_MAX: u64 = 100_000;

/// Makes keys, a database and its roles, and lets everybody use them.
pub async fn furnish(place: &mut Place, database: Option<Arc<Postgres>>) -> Result<(), Fault> {
    place.installation.permit("engines", POLICY).await?;
    let seat = place.seats.first().ok_or("there are no seats")?;
    for (name, kind) in [(CIPHER, KeyKind::Aes256Gcm), (SIGNER, KeyKind::Ed25519)] {
        let key = CreateTransitKey { kind, exportable: false, deletion_allowed: false };
        seat.client.transit_create(&name.parse()?, &key).await?;
    }
    if let Some(server) = &database {
        let put = PutDatabase {
            engine: DatabaseEngine::Postgres,
            host: "127.0.0.1".to_owned(),
            port: server.port(),
            database: None,
            user: ADMIN.to_owned(),
            password: PASSWORD.to_owned(),
            owner: None,
            tls: DatabaseTls::Verify,
            ca: Some(server.ca().to_owned()),
            connections: CONNECTIONS,
            check: true,
            moved: false,
        };
        seat.client.database_put(&DATABASE.parse()?, &put).await?;
        for (role, creation) in [(ROLE, CREATION), LYING] {
            let (revocation, renewal) = (Vec::new(), Vec::new());
            let creation = vec![creation.to_owned()];
            let body = PutDatabaseRole {
                certificate: false,
                creation,
                revocation,
                renewal,
                ttl_s: LEASE_S,
                max_ttl_s: LEASE_MAX_S,
            };
            seat.client.database_role_put(&DATABASE.parse()?, &role.parse()?, &body).await?;
        }
    }
    let ciphertexts = encrypt(seat, BATCH).await?;
    (place.stock.ciphertexts, place.stock.database) = (ciphertexts, database);
    Ok(())
}

/// Lists a directory.
pub async fn list(place: &Place, seat: &Seat) -> Result<(), Fault> {
    let directory = place.stock.secrets.directory().parse()?;
    let names = seat.client.kv_list(Some(&directory), None, None).await?.names;
    if names.len() as u64 == DIRECTORY { Ok(()) } else { Err(format!("{} names in a directory", names.len()).into()) }
}

/// Encrypts so many things.
pub async fn encrypt(seat: &Seat, items: usize) -> Result<Vec<String>, Fault> {
    let item = EncryptItem { plaintext: base64url(&[b'x'; VALUE_BYTES]), associated_data: None };
    let body = Encrypt { items: vec![item; items], version: None };
    let made = seat.client.transit_encrypt(&CIPHER.parse()?, &body).await?;
    made.items.into_iter().map(|item| item.ciphertext.ok_or_else(|| "an item was not encrypted".into())).collect()
}

/// Decrypts so many things.
pub async fn decrypt(place: &Place, seat: &Seat, items: usize) -> Result<(), Fault> {
    let item = |text: &String| DecryptItem { ciphertext: text.clone(), associated_data: None };
    let body = Decrypt { items: place.stock.ciphertexts(items)?.iter().map(item).collect() };
    let made = seat.client.transit_decrypt(&CIPHER.parse()?, &body).await?;
    let length = base64url(&[b'x'; VALUE_BYTES]).len();
    let whole = made.items.iter().all(|item| item.plaintext.as_ref().is_some_and(|text| text.len() == length));
    if whole { Ok(()) } else { Err("an item was not decrypted".into()) }
}

/// Signs so many things.
pub async fn sign(seat: &Seat, items: usize) -> Result<(), Fault> {
    let item = SignItem { message: Some(base64url(&[b'x'; VALUE_BYTES])), digest: None };
    let body = Sign { items: vec![item; items], version: None, digest_algorithm: None };
    let made = seat.client.transit_sign(&SIGNER.parse()?, &body).await?;
    let whole = made.items.iter().all(|item| item.signature.is_some());
    if whole { Ok(()) } else { Err("an item was not signed".into()) }
}

/// Has a user of the database made, and holds its lease.
pub async fn issue(place: &Place, seat: &Seat, number: usize) -> Result<(), Fault> {
    let made = seat.client.database_issue(&DATABASE.parse()?, &ROLE.parse()?, None).await?;
    place.stock.hold(number, made.lease.to_string());
    Ok(())
}

/// Renews the oldest lease that somebody holds, if there is one.
pub async fn renew(place: &Place, seat: &Seat, number: usize) -> Result<bool, Fault> {
    let Some(lease) = place.stock.oldest(number) else { return Ok(false) };
    seat.client.lease_renew(&lease.parse()?, Some(LEASE_S)).await?;
    place.stock.hold(number, lease);
    Ok(true)
}

/// Revokes the oldest lease that somebody holds, if there is one.
pub async fn revoke(place: &Place, seat: &Seat, number: usize) -> Result<bool, Fault> {
    let Some(lease) = place.stock.oldest(number) else { return Ok(false) };
    seat.client.lease_revoke(&lease.parse()?).await?;
    Ok(true)
}

/// Writes secrets until there are so many.
pub async fn grow(place: &Arc<Place>, from: u64, to: u64) -> Result<(), Fault> {
    let at = place.clone();
    let write = move |number: usize, index| {
        let place = at.clone();
        async move {
            let seat = place.seats.get(number).ok_or("a seat is missing")?;
            seat.client.kv_put(&stock::secret(from + index).parse()?, &secret()).await?;
            Ok(())
        }
    };
    fill(to.saturating_sub(from), write).await?;
    place.stock.secrets.set(to);
    Ok(())
}

/// Measures our server by itself: tables, and JSON lines.
pub async fn run(binary: &Path, core: usize, plan: &Plan) -> Result<(String, String), Fault> {
    let before = proc::load_average();
    eprintln!("cryptography by itself");
    let primitives = Primitives::measure().await?;
    let database = stock::postgres().await?;
    let (mut speeds, mut singles) = (Vec::new(), Vec::new());
    for class in [Class::Memory, Class::File] {
        eprintln!("keys and databases, store: {}", class.name());
        let mut place = Arc::new(furnished(binary, class, core, database.clone()).await?);
        let works: Vec<Work> = Work::ENGINES.into_iter().filter(|work| database.is_some() || !work.leases()).collect();
        if plan.operations {
            speeds.extend(Box::pin(operations(&place, &works, class, plan, &primitives)).await?);
        }
        let mut secrets = 0;
        for &size in plan.secrets.iter().filter(|size| class == Class::File || **size <= IN_MEMORY_MAX) {
            eprintln!("{size} secrets, store: {}", class.name());
            Box::pin(grow(&place, secrets, size)).await?;
            secrets = size;
            let measured = Box::pin(operations(&place, &Work::SECRETS, class, plan, &primitives)).await?;
            speeds.extend(measured.into_iter().map(|speed| speed.with_secrets(size)));
            if class == Class::File {
                let place = Arc::get_mut(&mut place).ok_or("a client still works")?;
                place.seats.clear();
                singles.extend(Box::pin(scale::measure(&mut place.installation, size, "secrets")).await?);
                place.seats = place.installation.seats().await?;
            }
        }
    }
    if database.is_some() {
        singles.extend(Box::pin(leases(binary, core, database, plan.leases)).await?);
    } else {
        eprintln!("not measured: databases and leases, which need PostgreSQL");
    }
    table::sort(&mut speeds);
    let report = Report { heading: table::heading(&before), speeds, primitives, singles };
    Ok((report.markdown(), report.json()?))
}

/// An installation with everything that the engines need.
async fn furnished(binary: &Path, class: Class, core: usize, database: Option<Arc<Postgres>>) -> Result<Place, Fault> {
    let mut installation = Installation::new(binary, class, core).await?;
    installation.admit().await?;
    let mut place = Place::new(installation).await?;
    furnish(&mut place, database).await?;
    Ok(place)
}

/// Memory and start of a durable store with so many leases, none of them due.
async fn leases(binary: &Path, core: usize, database: Option<Arc<Postgres>>, count: u64) -> Result<Vec<Single>, Fault> {
    eprintln!("{count} leases");
    let place = Arc::new(furnished(binary, Class::File, core, database).await?);
    let at = place.clone();
    let begin = move |number: usize, _| {
        let place = at.clone();
        async move {
            let seat = place.seats.get(number).ok_or("a seat is missing")?;
            seat.client.database_issue(&DATABASE.parse()?, &LYING.0.parse()?, None).await?;
            Ok(())
        }
    };
    fill(count, begin).await?;
    let place = Arc::into_inner(place).ok_or("a client still works")?;
    let mut installation = place.installation;
    drop(place.seats);
    Box::pin(scale::measure(&mut installation, count, "leases")).await
}
