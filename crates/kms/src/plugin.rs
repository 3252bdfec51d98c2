//! What kube-apiserver asks for: a key id, a seed encrypted, a seed decrypted. Status and Encrypt answer of one
//! snapshot, so a key id is never told with another key's ciphertext.

use crate::combine::{self, Combination, NoSnapshot, Policy, Snapshot};
use crate::envelope::{self, Envelope, EnvelopeError, MAX_SEED_BYTES, Mode, Part, Place};
use crate::flight::Flights;
use crate::key::{KeyId, KeyRef};
use crate::member::Member;
use crate::metrics::Metrics;
use crate::provider::{Class, Context, ProviderError};
use crate::state::StateFile;
use bulla_crypto::digest::{framed, sha256};
use bulla_crypto::random::{SystemRng, secret_key};
use bulla_crypto::secret::{SecretBytes, SecretKey};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

/// Seeds that are worked on at once. kube-apiserver asks one after the other; a flood would be somebody else's.
const AT_ONCE: usize = 64;
/// How long a member may take before another is asked as well.
const HEDGE: Duration = Duration::from_millis(200);
/// How long the first look at members may take before the others are used without one that hangs.
pub(crate) const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How often it is seen who was looked at, right after the start.
const POLL: Duration = Duration::from_millis(20);
/// A key that nobody knows is asked for at most this often.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why kube-apiserver gets no answer. The text is public: it names members and classes, no address and no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of failure it is.
    pub class: Class,
    /// What happened.
    pub text: String,
}

impl Refusal {
    fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        Self::new(Class::Corrupt, error.to_string())
    }
}

/// A seed that was encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// What is stored.
    pub ciphertext: Vec<u8>,
    /// By which keys.
    pub key_id: KeyId,
    /// Who wrapped.
    pub members: Vec<String>,
}

/// A seed that was decrypted.
#[derive(Debug, Clone)]
pub struct Decrypted {
    /// The seed.
    pub seed: Arc<SecretBytes>,
    /// Who unwrapped.
    pub members: Vec<String>,
}

/// What a plugin is made of.
pub struct Parts {
    /// The name of the Kubernetes cluster.
    pub cluster: String,
    /// The epoch of the configuration.
    pub epoch: u32,
    /// How members are combined.
    pub combination: Combination,
    /// The members.
    pub members: Vec<Arc<Member>>,
    /// What outlives the process.
    pub state: Option<StateFile>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The plugin.
pub struct Plugin {
    parts: Parts,
    published: watch::Sender<Option<Arc<Snapshot>>>,
    /// Held while something is published.
    publishing: Mutex<()>,
    began: Instant,
    places: Semaphore,
    flights: Flights<[u8; 32], Decrypted, Refusal>,
    asked: Mutex<Option<Instant>>,
}

impl Plugin {
    /// Nothing was looked at yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            published: watch::Sender::new(None),
            publishing: Mutex::default(),
            began: Instant::now(),
            places: Semaphore::new(AT_ONCE),
            flights: Flights::default(),
            asked: Mutex::default(),
        }
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }

    /// The members.
    pub fn members(&self) -> &[Arc<Member>] {
        &self.parts.members
    }

    /// What kube-apiserver is told, whether or not the members are well.
    pub fn published(&self) -> Option<Arc<Snapshot>> {
        self.published.borrow().clone()
    }

    /// The key id, from memory. Right after the start it is waited for until `until`, so that a request which a held socket
    /// kept meanwhile is answered.
    ///
    /// # Errors
    /// [`Refusal`] if too few members are well for new seeds. kube-apiserver then writes nothing after three minutes, while
    /// it would go on for ever if it were told of ill health in the answer (kubernetes#138950).
    pub async fn status(&self, until: Instant) -> Result<KeyId, Refusal> {
        self.snapshot(until).await?;
        self.ready()
    }

    /// As [`Plugin::status`], without a wait.
    ///
    /// # Errors
    /// The same.
    pub fn ready(&self) -> Result<KeyId, Refusal> {
        let snapshot = self.published().ok_or_else(|| self.unpublished())?;
        let well = self.well();
        let needed = self.parts.combination.needed(self.parts.members.len());
        if well < needed {
            let text = format!("{well} members are well, and {needed} are needed{}", self.ill());
            return Err(Refusal::new(Class::Unavailable, text));
        }
        Ok(snapshot.key_id.clone())
    }

    /// Encrypts a seed, by `until` at the latest.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn encrypt(&self, seed: SecretBytes, until: Instant) -> Result<Encrypted, Refusal> {
        let length = seed.expose().len();
        if length == 0 || length > MAX_SEED_BYTES {
            let text =
                format!("plaintext has {length} bytes; this plugin encrypts seeds of 1 to {MAX_SEED_BYTES} bytes");
            return Err(Refusal::new(Class::Corrupt, text));
        }
        let _place = self.place()?;
        let snapshot = self.snapshot(until).await?;
        let mode = self.parts.combination.mode();
        let context = Context::new(&self.parts.cluster, snapshot.key_id.as_str());
        let key = secret_key(&mut SystemRng);
        let shares = match mode {
            Mode::Any => snapshot.members.iter().map(|_| key.copy()).collect(),
            Mode::Split => envelope::split(&key, snapshot.members.len(), &mut SystemRng),
        };
        let mut tasks = JoinSet::new();
        for ((place, by), share) in snapshot.members.iter().cloned().zip(shares) {
            let Some(member) = self.parts.members.get(place).cloned() else { continue };
            tasks.spawn(async move {
                let wrapped = member.wrap(&by, &share, &context, until).await;
                (place, member, wrapped.map(|wrapped| Part { tag: by.digest().tag(), wrapped }))
            });
        }
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok((place, member, Ok(part))) => done.push((place, member, part)),
                Ok((_, member, Err(error))) => failed.push((member, error)),
                Err(error) => {
                    tracing::error!(%error, "a member's task ended; this is a fault of the program: report it")
                }
            }
        }
        if done.len() < snapshot.needed {
            return Err(self.too_few(&failed));
        }
        done.sort_by_key(|(place, _, _)| *place);
        let members = done.iter().map(|(_, member, _)| member.name().to_owned()).collect();
        let parts: Vec<Part> = done.into_iter().map(|(_, _, part)| part).collect();
        let place = Place { cluster: &self.parts.cluster, key_id: &snapshot.key_id };
        let ciphertext = envelope::seal(place, mode, &parts, &key, &seed, &mut SystemRng)?;
        Ok(Encrypted { ciphertext, key_id: snapshot.key_id.clone(), members })
    }

    /// Too few members wrapped. If others may do without them, from now on they do: kube-apiserver asks again.
    fn too_few(&self, failed: &[(Arc<Member>, ProviderError)]) -> Refusal {
        for (member, error) in failed {
            tracing::warn!(member = member.name(), class = %error.class, %error, "the member did not wrap a seed");
            if matches!(self.parts.combination, Combination::Any(Policy::Degraded(_))) {
                member.leave_out();
            }
        }
        self.publish();
        refused("wrapped", failed.iter().map(|(member, error)| (member.name(), error.class)))
    }

    /// Decrypts what [`Plugin::encrypt`] made, by `until` at the latest.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn decrypt(&self, key_id: &str, ciphertext: &[u8], until: Instant) -> Result<Decrypted, Refusal> {
        let key_id: KeyId =
            key_id.parse().map_err(|text| Refusal::new(Class::UnknownKey, format!("key_id: {text}")))?;
        let envelope = Envelope::parse(ciphertext)?;
        let _place = self.place()?;
        let same = sha256(&[&framed(&[key_id.as_str().as_bytes(), ciphertext])]);
        let done = self.flights.join(same, until, || self.opened(&key_id, &envelope, until)).await;
        let late = || Refusal::new(Class::Unavailable, "another request for the same seed has no answer in time");
        done.unwrap_or_else(|| Err(late()))
    }

    async fn opened(&self, key_id: &KeyId, envelope: &Envelope, until: Instant) -> Result<Decrypted, Refusal> {
        let needed = envelope.mode.needed_to_read(envelope.parts.len());
        let mut holders = self.looked_at(envelope, needed, until).await;
        if holders.len() < needed && self.ask_again() {
            // Another node may be ahead of this one.
            // Whoever is not done in time, or when the others have the key, is left.
            let enough = || self.holders(envelope).len() >= needed;
            let _ = timeout_at(until.into(), self.look_at_all(false, enough)).await;
            self.publish();
            holders = self.holders(envelope);
        }
        if holders.len() < needed {
            let text = "the seed was wrapped by keys that the members do not have, or have no more";
            return Err(Refusal::new(Class::UnknownKey, text));
        }
        let place = Place { cluster: &self.parts.cluster, key_id };
        match envelope.mode {
            Mode::Any => self.by_any(place, envelope, holders, until).await,
            Mode::Split => self.by_all(place, envelope, holders, until).await,
        }
    }

    /// Who has the keys. Right after the start they are waited for: whether there is a key id is no matter for who reads.
    async fn looked_at(&self, envelope: &Envelope, needed: usize, until: Instant) -> Vec<Holder> {
        let first = self.began.checked_add(FIRST_LOOK).map_or(until, |end| end.min(until));
        loop {
            let holders = self.holders(envelope);
            let all_tried = self.published().is_some();
            if holders.len() >= needed || all_tried || Instant::now() >= first {
                return holders;
            }
            sleep_until((Instant::now() + POLL).into()).await;
        }
    }

    /// Who has the keys, the quickest first.
    fn holders(&self, envelope: &Envelope) -> Vec<Holder> {
        let of = |part: &Part| {
            let members = self.parts.members.iter();
            let found = members.filter_map(|member| Some((Arc::clone(member), member.key(part.tag)?)));
            found.map(|(member, key)| Holder { member, key, wrapped: part.wrapped.clone() }).collect::<Vec<_>>()
        };
        let mut holders: Vec<Holder> = match envelope.mode {
            Mode::Any => envelope.parts.iter().flat_map(of).collect(),
            Mode::Split => envelope.parts.iter().filter_map(|part| of(part).into_iter().next()).collect(),
        };
        if envelope.mode == Mode::Any {
            holders.sort_by(|a, b| a.member.cost().total_cmp(&b.member.cost()));
        }
        holders
    }

    /// The first one whose answer opens the seal; the next is asked when one failed, or did not answer soon.
    async fn by_any(
        &self,
        place: Place<'_>,
        envelope: &Envelope,
        holders: Vec<Holder>,
        until: Instant,
    ) -> Result<Decrypted, Refusal> {
        let context = Context::new(&self.parts.cluster, place.key_id.as_str());
        let (mut waiting, mut tasks, mut failed) = (holders.into_iter(), JoinSet::new(), Vec::new());
        loop {
            if let Some(holder) = waiting.next() {
                if !tasks.is_empty() {
                    self.parts.metrics.hedged();
                }
                tasks.spawn(holder.unwrap(context, until));
            }
            let soon = if waiting.as_slice().is_empty() { until } else { Instant::now() + HEDGE };
            let joined = tokio::select! {
                joined = tasks.join_next() => joined,
                () = sleep_until(soon.min(until).into()) => {
                    if Instant::now() >= until {
                        failed.push((String::from("nobody"), Class::Unavailable));
                        break;
                    }
                    continue;
                }
            };
            match joined {
                Some(Ok((name, Ok(key)))) => match envelope.open(place, &key) {
                    Ok(seed) => return Ok(Decrypted { seed: Arc::new(seed), members: vec![name] }),
                    Err(_) => failed.push((name, Class::Corrupt)),
                },
                Some(Ok((name, Err(error)))) => {
                    tracing::warn!(member = name, class = %error.class, %error, "the member did not unwrap a seed");
                    failed.push((name, error.class));
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "a member's task ended; this is a fault of the program: report it")
                }
                None if waiting.as_slice().is_empty() => break,
                None => {}
            }
        }
        Err(refused("unwrapped", failed.iter().map(|(name, class)| (name.as_str(), *class))))
    }

    /// All of them.
    async fn by_all(
        &self,
        place: Place<'_>,
        envelope: &Envelope,
        holders: Vec<Holder>,
        until: Instant,
    ) -> Result<Decrypted, Refusal> {
        let context = Context::new(&self.parts.cluster, place.key_id.as_str());
        let mut tasks = JoinSet::new();
        holders.into_iter().for_each(|holder| drop(tasks.spawn(holder.unwrap(context, until))));
        let (mut shares, mut members) = (Vec::new(), Vec::new());
        while let Some(joined) = tasks.join_next().await {
            match joined {
                Ok((name, Ok(share))) => {
                    shares.push(share);
                    members.push(name);
                }
                Ok((name, Err(error))) => {
                    tracing::warn!(member = name, class = %error.class, %error, "the member did not unwrap its share");
                    return Err(refused("unwrapped", [(name.as_str(), error.class)]));
                }
                Err(_) => return Err(Refusal::new(Class::Protocol, "a member's task ended")),
            }
        }
        let seed = envelope.open(place, &envelope::join(&shares))?;
        members.sort();
        Ok(Decrypted { seed: Arc::new(seed), members })
    }

    /// What is published, or will be once the members were looked at for the first time.
    async fn snapshot(&self, until: Instant) -> Result<Arc<Snapshot>, Refusal> {
        let mut published = self.published.subscribe();
        let first = self.began.checked_add(FIRST_LOOK).map_or(until, |end| end.min(until));
        // Both errors mean that there is none.
        let waited = timeout_at(first.into(), published.wait_for(Option::is_some)).await;
        let snapshot = waited.ok().and_then(Result::ok).and_then(|snapshot| snapshot.clone());
        snapshot.ok_or_else(|| self.unpublished())
    }

    fn unpublished(&self) -> Refusal {
        let why = self.compute().err().unwrap_or(NoSnapshot::Starting);
        Refusal::new(Class::Unavailable, format!("{why}{}", self.ill()))
    }

    /// Who is not well, and of which class that is; nothing if all are.
    fn ill(&self) -> String {
        let ill = self.parts.members.iter().filter(|member| !member.is_well());
        let each = ill.filter_map(|member| {
            let (class, unopened) = (member.error()?.class, if member.is_unopened() { "not opened, " } else { "" });
            Some(format!("{}: {unopened}{class}", member.name()))
        });
        let each: Vec<String> = each.collect();
        if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
    }

    fn place(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Refusal> {
        let full = |_| Refusal::new(Class::Throttled, format!("{AT_ONCE} requests are under way already"));
        self.places.try_acquire().map_err(full)
    }

    fn well(&self) -> usize {
        self.parts.members.iter().filter(|member| member.is_well()).count()
    }

    fn ask_again(&self) -> bool {
        let mut asked = lock(&self.asked);
        let due = asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN);
        if due {
            *asked = Some(Instant::now());
        }
        due
    }

    fn compute(&self) -> Result<Snapshot, NoSnapshot> {
        let standings: Vec<_> = self.parts.members.iter().map(|member| member.standing()).collect();
        let waited = self.began.elapsed() >= FIRST_LOOK;
        combine::publish(&self.parts.cluster, self.parts.epoch, self.parts.combination, &standings, waited)
    }

    /// Publishes what the members' standing says, after it was written where it outlives the process.
    pub(crate) fn publish(&self) {
        let _one = lock(&self.publishing);
        let (well, count) = (self.well(), self.parts.members.len());
        self.parts.metrics.margin(well, self.parts.combination.needed(count));
        let Ok(snapshot) = self.compute() else { return };
        // A quorum keeps its key id, whoever of its members is away.
        let fewer = matches!(self.parts.combination, Combination::Any(Policy::Quorum(_))) && well < count;
        self.parts.metrics.degraded(!snapshot.whole || fewer);
        let before = self.published();
        if before.as_deref() == Some(&snapshot) {
            return;
        }
        self.save();
        tracing::info!(
            key_id = %snapshot.key_id,
            hash = snapshot.key_id.hash(),
            before = before.map(|before| before.key_id.to_string()),
            whole = snapshot.whole,
            "a key id comes into use"
        );
        self.parts.metrics.published(snapshot.key_id.hash());
        self.published.send_replace(Some(Arc::new(snapshot)));
    }

    fn save(&self) {
        let Some(state) = &self.parts.state else { return };
        let members = self.parts.members.iter().map(|member| (member.name().to_owned(), member.remembered())).collect();
        if let Err(error) = state.save(members) {
            // What is used now is right all the same; what is lost is to notice that a later start goes back.
            tracing::error!(path = %state.path().display(), %error, "what is to outlive a restart could not be written");
            self.parts.metrics.state_failed();
        }
    }
}

/// Who has a key.
struct Holder {
    member: Arc<Member>,
    key: KeyRef,
    wrapped: Vec<u8>,
}

impl Holder {
    async fn unwrap(self, context: Context, until: Instant) -> (String, Result<SecretKey, ProviderError>) {
        let Self { member, key, wrapped } = self;
        (member.name().to_owned(), member.unwrap(&key, &wrapped, &context, until).await)
    }
}

/// What is said of members that failed: each with its class, and for all one that passes by itself if there is any,
/// since the same request may then succeed in a moment.
fn refused<'a>(deed: &str, failed: impl IntoIterator<Item = (&'a str, Class)>) -> Refusal {
    let failed: Vec<(&str, Class)> = failed.into_iter().collect();
    let first = failed.first().map(|(_, class)| *class);
    let class = failed.iter().map(|(_, class)| *class).find(|class| class.passes()).or(first);
    let each: Vec<String> = failed.iter().map(|(name, class)| format!("{name}: {class}")).collect();
    Refusal::new(class.unwrap_or(Class::Unavailable), format!("not {deed} ({})", each.join(", ")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
