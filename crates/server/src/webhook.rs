//! Alarms on their way to a webhook: each is posted, signed by the node, until it is taken (`spec/webhook.md`).
//!
//! What waits lies in the store, in a list that the commit of the alarm itself writes, so neither a crash nor a seal
//! loses any; it is deleted once the receiver took it. What a sealed node notices waits in memory. Only the configured
//! address is ever called, and a redirect is a refusal: what answers there must not send the node elsewhere.

mod noticed;
mod schedule;

pub use noticed::Noticed;

use crate::config;
use crate::drive::DriveError;
use crate::node::{Node, Phase};
use crate::run::RunError;
use crate::unsealed::{Unsealed, lock};
use bulla_core::barrier::{Query, Record};
use bulla_core::engine::alarm::{self, Counts, Listed};
use bulla_crypto::digest::sha256;
use bulla_crypto::random::{Rng, SystemRng};
use bulla_wire::encoding::base64;
use bulla_wire::json::{self, MAX_JSON_BYTES};
use bulla_wire::webhook::{
    ALARM_TYPE, ID_HEADER, Message, SIGNATURE_HEADER, SIGNATURE_PREFIX, TIMESTAMP_HEADER, id, signed,
};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use schedule::{Failure, Place, Schedule};
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the list is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the receiver may take: longer than a slow one needs, and the others wait behind it.
const PATIENCE: Duration = Duration::from_secs(10);
/// First wait after a failure; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait: a receiver that is back is told within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Alarms in one look.
const AT_ONCE: usize = 16;

/// An address that may be called. Its path may hold a secret, so it does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Uri);

/// Why a text is none. It does not repeat the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookUrlError(pub &'static str);

impl FromStr for WebhookUrl {
    type Err = WebhookUrlError;

    fn from_str(text: &str) -> Result<Self, WebhookUrlError> {
        let uri: Uri = text.parse().map_err(|_| WebhookUrlError("no address"))?;
        let authority = uri.authority().ok_or(WebhookUrlError("an address without a host"))?;
        if authority.as_str().contains('@') {
            return Err(WebhookUrlError("an address with a name or password; put a secret into its path"));
        }
        match (uri.scheme_str(), authority.host()) {
            (Some("https"), _) | (Some("http"), "localhost" | "127.0.0.1" | "[::1]") => Ok(Self(uri)),
            (Some("http"), _) => Err(WebhookUrlError("http to another machine, where everybody on the way reads it")),
            _ => Err(WebhookUrlError("an address of another scheme")),
        }
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({})", self.host())
    }
}

impl WebhookUrl {
    /// What may be shown of it.
    fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }
}

/// The webhook and when to call it next.
pub struct Webhook {
    url: WebhookUrl,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    schedule: Schedule,
    /// The next of the list, and the number of the last one that was told, be it taken or not.
    page: VecDeque<(u64, Option<Listed>)>,
    listed: u64,
    /// The number of the last one in memory that was told.
    noticed: u64,
    /// What the list counts, as far as is known: a sealed node cannot look.
    counts: Option<Counts>,
}

impl Webhook {
    /// Makes ready to call whom the configuration names, if anybody.
    ///
    /// # Errors
    /// [`RunError`] if there are no authorities to judge its certificate by.
    pub fn open(settings: &config::Alarms) -> Result<Option<Self>, RunError> {
        let Some(url) = &settings.webhook else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        let what = match &settings.webhook_ca {
            Some(path) => {
                let hint = "alarms.webhook_ca names a PEM file of certificates";
                let unfit = |error: &dyn fmt::Display| RunError::unfit(path.display(), error.to_string(), hint);
                for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unfit(&error))? {
                    roots.add(certificate.map_err(|error| unfit(&error))?).map_err(|error| unfit(&error))?;
                }
                path.display().to_string()
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                "alarms.webhook".to_owned()
            }
        };
        if roots.is_empty() && url.0.scheme_str() == Some("https") {
            let hint = "install the package ca-certificates, or name the authorities with alarms.webhook_ca";
            return Err(RunError::unfit(what, "there is no authority to judge the webhook's certificate by", hint));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| RunError::unfit("TLS", error.to_string(), "this is a fault of the program: report it"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Some(Self {
            url: url.clone(),
            client,
            schedule: Schedule::default(),
            page: VecDeque::new(),
            listed: 0,
            noticed: 0,
            counts: None,
        }))
    }

    /// Calls until the process ends.
    pub async fn run(mut self, node: Arc<Node>) {
        let mut faults = 0;
        loop {
            tokio::time::sleep(PERIOD).await;
            let unsealed = if let Phase::Unsealed(unsealed) = node.phase() { Some(unsealed) } else { None };
            let told = self.round(&node, unsealed.as_deref()).await;
            // Its keys must not outlive a seal for as long as this sleeps.
            drop(unsealed);
            match told {
                Ok(()) => faults = 0,
                Err(error) => {
                    tracing::warn!(%error, "alarms for the webhook wait");
                    self.begin_anew();
                    tokio::time::sleep(back_off(faults)).await;
                    faults = faults.saturating_add(1);
                }
            }
        }
    }

    /// Tells whatever may be told now.
    async fn round(&mut self, node: &Node, unsealed: Option<&Unsealed>) -> Result<(), DriveError> {
        self.look(node, unsealed).await?;
        loop {
            let fresh = lock(&node.noticed).after(self.noticed);
            let fresh = fresh.or_else(|| self.page.front().map(|(number, _)| Place::Listed(*number)));
            let Some(place) = self.schedule.next(Instant::now(), fresh) else { return Ok(()) };
            let stays = match self.message(node, unsealed, place).await? {
                Some(message) => !self.tell(node, place, message).await,
                None => false,
            };
            if !stays {
                self.done(node, unsealed, place).await?;
            }
            if self.page.is_empty() {
                self.look(node, unsealed).await?;
            }
        }
    }

    /// Looks at what the list holds.
    async fn look(&mut self, node: &Node, unsealed: Option<&Unsealed>) -> Result<(), DriveError> {
        match unsealed {
            None => self.begin_anew(),
            Some(unsealed) => {
                let query = alarm::waiting(self.listed, AT_ONCE);
                let mut records = unsealed.read(&node.parts.store, &query).await?;
                let counts = alarm::counts(&records)?;
                let before = self.counts.replace(counts).map_or(counts.dropped, |before| before.dropped);
                if counts.dropped > before {
                    let count = counts.dropped - before;
                    tracing::error!(count, "alarms came while too many waited for the webhook, and are not told");
                }
                let [scan, ..] = &query;
                let (page, _) = records.take_page(scan).unwrap_or_default();
                let listed = |record: &Record| -> Result<_, DriveError> {
                    Ok((alarm::number_of(&record.cursor)?, parse(record.bytes.expose())))
                };
                self.page = page.iter().map(listed).collect::<Result<_, _>>()?;
            }
        }
        let (held, dropped) = lock(&node.noticed).counts();
        let listed = self.counts.map_or((0, 0), |counts| (counts.waiting(), counts.dropped));
        node.parts.metrics.set_webhook_waiting(held.saturating_add(listed.0));
        node.parts.metrics.set_webhook_dropped(dropped.saturating_add(listed.1));
        Ok(())
    }

    /// As if nothing of the list had been told yet.
    fn begin_anew(&mut self) {
        self.schedule.forget_listed();
        self.page.clear();
        self.listed = 0;
    }

    /// What is told of an alarm; `None` if there is nothing to tell any more.
    async fn message(
        &mut self,
        node: &Node,
        unsealed: Option<&Unsealed>,
        place: Place,
    ) -> Result<Option<Message>, DriveError> {
        let number = match place {
            Place::Noticed(number) => {
                self.noticed = self.noticed.max(number);
                let told = lock(&node.noticed).get(number).cloned();
                return Ok(told.map(|told| told.message(node.id(), number)));
            }
            Place::Listed(number) => number,
        };
        let Some(unsealed) = unsealed else { return Ok(None) };
        let listed = match self.page.pop_front_if(|(front, _)| *front == number) {
            Some((_, listed)) => {
                self.listed = number;
                listed
            }
            None => {
                let query = [Query::Get(alarm::listed_key(number))];
                let records = unsealed.read(&node.parts.store, &query).await?;
                records.get(&alarm::listed_key(number)).flatten().and_then(|record| parse(record.bytes.expose()))
            }
        };
        let Some(Listed { lineage, dropped, alarm }) = listed else {
            // A newer server wrote it, perhaps. It must not hold up all others.
            tracing::error!(number, "an alarm cannot be read, and is not told");
            return Ok(None);
        };
        let (kind, lineage) = (ALARM_TYPE.to_owned(), Some(lineage));
        Ok(Some(Message { kind, cluster: unsealed.keys.cluster, node: node.id(), lineage, number, dropped, alarm }))
    }

    /// It waits no more: an alarm in the store is deleted.
    async fn done(&mut self, node: &Node, unsealed: Option<&Unsealed>, place: Place) -> Result<(), DriveError> {
        self.schedule.forget(place);
        match (place, unsealed) {
            (Place::Noticed(number), _) => lock(&node.noticed).done(number),
            (Place::Listed(number), Some(unsealed)) => {
                // As a request: sealing waits until it is committed.
                let _under_way = unsealed.in_flight.acquire().await;
                unsealed.drive(node.machine(), &alarm::Delivered { number }, None, None).await?;
            }
            (Place::Listed(_), None) => {}
        }
        Ok(())
    }

    /// Tells of one alarm. True if it need not be told again: it was taken, or is given up.
    async fn tell(&mut self, node: &Node, place: Place, message: Message) -> bool {
        let (host, number, metrics) = (self.url.host(), message.number, &node.parts.metrics);
        let Err(problem) = self.post(node, json::to_vec(&message)).await else {
            metrics.webhook_called("taken");
            self.schedule.taken(place);
            return true;
        };
        match self.schedule.failed(place, Instant::now()) {
            Failure::Refused(wait) => {
                tracing::warn!(host, number, problem, wait_s = wait.as_secs(), "the webhook did not take an alarm");
            }
            Failure::Down(wait) => {
                let wait_s = wait.as_secs();
                tracing::warn!(host, number, problem, wait_s, "the webhook takes no alarms; all of them wait");
            }
            Failure::GivenUp => {
                tracing::error!(host, number, problem, "the webhook never took an alarm; it is given up");
                metrics.webhook_called("given_up");
                return true;
            }
        }
        metrics.webhook_called("failed");
        false
    }

    /// Posts a message. The error is for the log: it holds nothing of the address but its host.
    async fn post(&self, node: &Node, body: Vec<u8>) -> Result<(), String> {
        let (id, timestamp) = (id(&sha256(&[&body])), node.now_ms() / 1000);
        let signature = node.parts.key.sign(&signed(&id, timestamp, &body)).map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.0.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("bulla/", env!("CARGO_PKG_VERSION")))
            .header(ID_HEADER, id)
            .header(TIMESTAMP_HEADER, timestamp)
            .header(SIGNATURE_HEADER, format!("{SIGNATURE_PREFIX}{}", base64(&signature)))
            .body(Full::new(body.into()))
            .map_err(|error| error.to_string())?;
        // The body of the answer is not read, so there is nothing that the receiver could fill memory with.
        match tokio::time::timeout(PATIENCE, self.client.request(request)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(refused(response.status())),
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// An alarm of the list, if it can be read.
fn parse(bytes: &[u8]) -> Option<Listed> {
    json::parse(bytes, MAX_JSON_BYTES).ok()
}

fn refused(status: StatusCode) -> String {
    if status.is_redirection() {
        return format!("it answered {status}; redirects are not followed, give the address where it leads to");
    }
    format!("it answered {status}")
}

/// An error and its causes, since the first says little.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Doubles with each failure, less up to a quarter by chance, so that many nodes do not call at once.
fn back_off(failures: u32) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << failures.min(16)).min(LONGEST_WAIT);
    let mut chance = [0; 1];
    SystemRng.fill(&mut chance);
    wait - wait.mul_f64(f64::from(chance[0]) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_crypto::secret::SecretKey;
    use bulla_crypto::sign::SigningKey;
    use bulla_wire::encoding::base64_decode;

    #[test]
    fn only_addresses_that_may_be_called_are_addresses() {
        for good in [
            "https://alerts.example/bulla/s3cret?x=1",
            "https://alerts.example:8443",
            "http://localhost:9000/x",
            "http://127.0.0.1:9/",
            "http://[::1]:9/",
        ] {
            let url: WebhookUrl = good.parse().unwrap();
            assert!(!format!("{url:?}").contains("s3cret"));
        }
        for bad in [
            "",
            "/x",
            "alerts.example",
            "ftp://alerts.example/",
            "http://alerts.example/",
            "http://127.0.0.1.example/",
            "https://me:secret@alerts.example/",
            "https://",
        ] {
            assert!(bad.parse::<WebhookUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn waits_grow_to_a_limit() {
        for (failures, least, most) in [(0, 0.75, 1.0), (3, 6.0, 8.0), (9, 225.0, 300.0), (u32::MAX, 225.0, 300.0)] {
            let wait = back_off(failures).as_secs_f64();
            assert!((least..=most).contains(&wait), "{failures}: {wait}");
        }
    }

    /// The published vector: its signature is what a node would write, and each change of it verifies no more.
    #[test]
    fn the_vector() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors/webhook/webhook.json");
        let vector: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let seed = base64_decode(&text(&vector["seed"])).unwrap();
        let key = SigningKey::from_seed(&SecretKey::from_slice(&seed).unwrap()).unwrap();
        assert_eq!(base64_decode(&text(&vector["spki"])).unwrap(), key.public_key().spki());
        let body = text(&vector["body"]);
        let message: Message = json::parse(body.as_bytes(), MAX_JSON_BYTES).unwrap();
        assert_eq!(String::from_utf8(json::to_vec(&message)).unwrap(), body);
        assert_eq!(id(&sha256(&[body.as_bytes()])), text(&vector["id"]));
        let over = signed(&text(&vector["id"]), vector["timestamp"].as_u64().unwrap(), body.as_bytes());
        let signature = format!("{SIGNATURE_PREFIX}{}", base64(&key.sign(&over).unwrap()));
        assert_eq!(signature, text(&vector["signature"]));
        let refused = vector["refused"].as_array().unwrap();
        assert_eq!(refused.len(), 5);
        for case in refused {
            let field = |name: &str| case.get(name).unwrap_or(&vector[name]).clone();
            let over =
                signed(&text(&field("id")), field("timestamp").as_u64().unwrap(), text(&field("body")).as_bytes());
            let signature = text(&field("signature"));
            let verified = signature
                .strip_prefix(SIGNATURE_PREFIX)
                .is_some_and(|signature| key.public_key().verify(&over, &base64_decode(signature).unwrap()).is_ok());
            assert!(!verified, "{}", case["why"]);
        }
    }
}
