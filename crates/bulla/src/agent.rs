//! `bulla agent`: beside programs that know nothing of Bulla, with an identity of its own.
//!
//! What is decided lies apart from what is done: [`plan`] says when leases are renewed and what is tried again,
//! [`child`] what becomes of the child, [`config`] what the file means. [`keeper`] asks the cluster, [`supervise`] runs
//! the child and takes signals, [`socket`] answers other programs.

mod asking;
mod change;
mod child;
pub mod config;
mod file;
mod gathered;
mod health;
mod keeper;
mod plan;
mod socket;
mod strangers;
mod supervise;
mod wanted;

use crate::exit::{Exit, Failure};
use crate::systemd::Manager;
use bulla_client::Client;
use config::Config;
use gathered::Users;
use health::Health;
use keeper::Keeper;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use supervise::{Signals, Supervisor};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

/// How long a call that is under way at the end may take. A user who is made then is known, and taken away.
const LAST_CALL: Duration = Duration::from_secs(5);

/// What somebody should know before values are written: where others could put another file in the place of one.
pub fn exposed(config: &Config) -> impl Iterator<Item = String> {
    config.templates.iter().filter_map(|template| {
        let destination = &template.destination;
        let why = file::exposed(destination)?;
        Some(format!("{}: {why}, and could put another file in its place", destination.display()))
    })
}

/// Runs until a signal comes or the child ends.
pub async fn run(client: Client, config: Config, manager: Manager) -> Result<Exit, Failure> {
    let signals =
        Signals::new().map_err(|error| Failure::new(Exit::Failed, format!("cannot take signals: {error}")))?;
    supervise::adopt_orphans()?;
    for told in exposed(&config) {
        tracing::warn!("{told}");
    }
    let config = Arc::new(config);
    let (users, health) = (Users::default(), Health::default());
    let socket = match &config.socket {
        None => None,
        Some(socket) => Some(socket::serve(socket, client.clone(), users.clone(), health.clone())?),
    };
    let (stop, stopped) = watch::channel(false);
    let (sender, orders) = mpsc::channel(1);
    let wake = Arc::new(Notify::new());
    let mut keeper = Keeper::new(client, Arc::clone(&config), (users, health), sender, Arc::clone(&wake));
    let mut supervisor = Supervisor::new(config.child.as_ref(), &manager, &stop, &wake);
    let exit = {
        let mut keeping = pin!(keeper.run(stopped));
        let mut supervising = pin!(supervisor.run(orders, signals));
        tokio::select! {
            exit = &mut supervising => {
                // If nothing hears it, it has ended.
                let _ = stop.send(true);
                if timeout(LAST_CALL, keeping).await.is_err() {
                    tracing::warn!("a call was broken off; what it may have begun ends at its time");
                }
                exit
            }
            // It ends when the end has begun, and the child may take its time.
            () = &mut keeping => supervising.await,
        }
    };
    drop(socket);
    keeper.farewell().await;
    exit
}
