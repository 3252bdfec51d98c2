//! What a program does with users of a database: get one that is its own, keep it, give it back; and read the password of
//! a user that others have too, which the cluster rotates. Whoever runs the database has configured it as `app`, with the
//! role `reader` and the static role `billing`, and policy permits `database.issue` and `database.static-creds`.
//!
//! ```text
//! cargo run --example databases -- 127.0.0.1:8250 sha256:… alice.key
//! ```

use bulla_client::wire::error::Code;
use bulla_client::wire::name::Name;
use bulla_client::{Client, Pin, identity};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

/// How often a password is asked for, a second apart, before its absence is an error.
const MAX_TRIES: u32 = 30;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, cluster, identity] = arguments.as_slice() else {
        return Err("usage: databases ADDRESS CLUSTER IDENTITY".into());
    };
    databases(address, cluster, Path::new(identity)).await
}

/// Goes through it once.
pub async fn databases(address: &str, cluster: &str, identity: &Path) -> Result<(), Box<dyn Error>> {
    let identity = identity::read(identity, &|| None)?;
    let client = Client::builder(address).identity(identity).pin(Pin::Cluster(cluster.parse()?)).build()?;
    let (app, reader, billing): (Name, Name, Name) = ("app".parse()?, "reader".parse()?, "billing".parse()?);

    // A user of its own, for half an hour. A request that is repeated, since its answer got lost, finds the same one.
    let made = client.database_issue(&app, &reader, Some(1800)).await?;
    println!("log in as {} with a password of {} characters", made.user, made.password.len());
    // Two thirds of the time are over: for longer, but never beyond `max_ms`. Then another user is asked for.
    let lease = client.lease_renew(&made.lease, None).await?;
    println!("it lives until {} at least, {} at most", lease.expires_ms, lease.max_ms);
    // Given back, it is dropped; without this it is at the end of its lease.
    client.lease_revoke(&made.lease).await?;

    // A user that stays, with the password that it has now. While a rotation is not known to have ended, none is told:
    // usually for a moment, but as long as the database does not answer.
    let mut tries = 0;
    let told = loop {
        match client.database_static_creds(&app, &billing).await {
            Err(error) if error.code() == Some(Code::DatabaseFailed) && tries < MAX_TRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_secs(1)).await
            }
            told => break told?,
        }
    };
    println!("{} has this password until {}", told.user, told.rotates_ms);
    Ok(())
}
