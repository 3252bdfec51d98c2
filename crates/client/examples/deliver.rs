//! Delivers a secret, with nothing but an address, a cluster id and an identity: the writer is its own reader.
//!
//! ```text
//! cargo run --example deliver -- 127.0.0.1:8250 sha256:… alice.key
//! ```

use bulla_client::{Client, MemoryOutput, Outgoing, Pin, content, identity};
use std::error::Error;
use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, cluster, identity] = arguments.as_slice() else {
        return Err("usage: deliver ADDRESS CLUSTER IDENTITY".into());
    };
    deliver(address, cluster, Path::new(identity)).await
}

/// Makes a wrap, opens it, and sees that it opens only once.
pub async fn deliver(address: &str, cluster: &str, identity: &Path) -> Result<(), Box<dyn Error>> {
    let identity = identity::read(identity, &|| None)?;
    let client = Client::builder(address).identity(identity).pin(Pin::Cluster(cluster.parse()?)).build()?;

    // The name is resolved here: record, admission, document, pin. The server's word is not asked.
    let reader = client.resolve(client.whoami().await?.principal.name.as_str()).await?;
    println!("to {} ({})", reader.name(), reader.principal());
    let made = client.wrap_create(Outgoing::new(vec![reader], 3600), content(b"the launch code".to_vec())).await?;
    println!("slip: {}", made.slip);

    let mut output = MemoryOutput::new();
    let opened = client.wrap_open(&made.slip, &mut output).await?;
    println!("from {}: {:?}", opened.writer.name(), String::from_utf8_lossy(output.content()));
    println!("acknowledged at {} (Unix milliseconds)", opened.acked?.receipt.at_ms);

    // A second attempt is refused, and proves who was first.
    match client.wrap_open(&made.slip, &mut MemoryOutput::new()).await {
        Err(error) => println!("again: {error}"),
        Ok(_) => return Err("a wrap was opened twice".into()),
    }
    Ok(())
}
