//! Clouds as their documentation has them, stricter than the real ones: they check every signature, token, audience and
//! checksum, and remember what was asked. In a test's own process, or in one beside a plugin that is a process too.

pub mod aws;
pub mod azure;
pub mod gcp;
pub mod peer;

use http::Response;
use peer::{Call, Model, Peer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Where a process that is a cloud and nothing else has its folder.
const FOLDER: &str = "BULLA_TEST_CLOUD";

/// A cloud with one key.
pub trait Cloud: Send + 'static {
    /// The kind of a member with its key, as configurations name it.
    const KIND: &'static str;

    /// One whose address this is.
    fn new(origin: &str) -> Self;

    /// Answers a call.
    fn take(&mut self, call: &Call) -> Response<String>;

    /// Makes another version of the key the one that wraps.
    fn rotate(&mut self);

    /// What a member with the key is configured by. Its credentials are in files of the peer.
    fn settings(peer: &Peer) -> String;
}

/// A cloud over TLS, and what is behind it.
pub async fn start<C: Cloud>() -> (Peer, Arc<Mutex<C>>) {
    let mut kept = None;
    let peer = Peer::start(|origin| -> Model {
        let cloud = Arc::new(Mutex::new(C::new(origin)));
        kept = Some(Arc::clone(&cloud));
        Box::new(move |call| cloud.lock().unwrap().take(call))
    })
    .await;
    (peer, kept.expect("a peer has a model"))
}

/// In a process that was started to be a cloud, is that and never comes back; in any other nothing happens. In its folder is
/// then a `member.toml` with the section of a plugin's configuration, and who adds a line to `rotations` rotates the key.
///
/// # Panics
/// If it cannot serve.
pub fn of_this_process<C: Cloud>() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let peer = Peer::start(|origin| rotated_by::<C>(&folder.join("rotations"), origin)).await;
        let section = format!("[members.cloud.{}]\n{}\n", C::KIND, C::settings(&peer));
        let (part, whole) = (folder.join("member.part"), folder.join("member.toml"));
        std::fs::write(&part, section).and_then(|()| std::fs::rename(&part, &whole)).expect("a member");
        std::future::pending::<()>().await;
    });
}

/// A cloud that looks into this file at every call: a rotation is in force when the line is written.
fn rotated_by<C: Cloud>(rotations: &Path, origin: &str) -> Model {
    let (rotations, own) = (rotations.to_owned(), Mutex::new((C::new(origin), 0)));
    Box::new(move |call| {
        let asked = std::fs::read_to_string(&rotations).map_or(0, |text| text.lines().count());
        let mut own = own.lock().unwrap();
        let (cloud, done) = &mut *own;
        while *done < asked {
            cloud.rotate();
            *done += 1;
        }
        cloud.take(call)
    })
}
