//! Delivers a secret from one principal to another, with nothing but an address, a cluster id and two identities:
//!
//! ```text
//! cargo run --example deliver -- https://127.0.0.1:8250 sha256:… alice.key bob.key
//! ```

use bulla_client::{Client, MemoryOutput, Outgoing, Pin, content, identity};
use std::error::Error;
use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, cluster, alice, bob] = arguments.as_slice() else {
        return Err("usage: deliver ADDRESS CLUSTER WRITER.key READER.key".into());
    };
    let pin = Pin::Cluster(cluster.parse()?);
    let client = |file: &str| -> Result<Client, Box<dyn Error>> {
        let identity = identity::read(Path::new(file), &|| None)?;
        Ok(Client::builder(address.as_str()).identity(identity).pin(pin.clone()).build()?)
    };
    let (alice, bob) = (client(alice)?, client(bob)?);

    // The name is resolved here: record, admission, document, pin. The server's word is not asked.
    let reader = alice.resolve(bob.whoami().await?.principal.name.as_str()).await?;
    println!("to {} ({})", reader.name(), reader.principal());
    let made = alice.wrap_create(Outgoing::new(vec![reader], 3600), content(b"the launch code".to_vec())).await?;
    println!("slip: {}", made.slip);

    let mut output = MemoryOutput::new();
    let opened = bob.wrap_open(&made.slip, &mut output).await?;
    println!("from {}: {:?}", opened.writer.name(), String::from_utf8_lossy(output.content()));
    println!("acknowledged at {} (Unix milliseconds)", opened.acked?.receipt.at_ms);

    // A second attempt is refused, and proves who was first.
    match bob.wrap_open(&made.slip, &mut MemoryOutput::new()).await {
        Err(error) => println!("again: {error}"),
        Ok(_) => return Err("a wrap was opened twice".into()),
    }
    Ok(())
}
