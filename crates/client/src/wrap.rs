//! Making wraps, looking at them, taking them back.

use crate::builder::{Client, State};
use crate::call::{Call, CallBody, now_ms};
use crate::error::{ClientError, demand};
use crate::progress::{Metered, Stage};
use crate::resolve::Resolved;
use crate::spool::{self, Content, Place, SpoolError, Spooled};
use crate::transport::Upload;
use bulla_crypto::digest::sha256;
use bulla_crypto::dsse::DsseError;
use bulla_crypto::envelope::{self, Binding};
use bulla_crypto::evidence::{
    self, ClusterView, EvidenceError, Record, RecordChain, Standing, VerifiedOrigin, VerifiedReceipt,
    VerifiedStatement, check_receipt_chain, verify_origin, verify_receipt, verify_statement,
};
use bulla_crypto::random::{SystemRng, draw};
use bulla_crypto::recipient::Recipient;
use bulla_wire::api::{RevokeWrap, Slot, SlotState, WrapReceipts, WrapView};
use bulla_wire::dsse::Envelope;
use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, MAX_JSON_BYTES, V1};
use bulla_wire::wrap::{
    Addressee, Ciphertext, DEFAULT_ACK_S, LABEL_RULE, MAX_CONTENT_BYTES, MAX_LIFE_MS, Mode, PARCEL_MEDIA_TYPE, Parcel,
    ReceiptKind, Slip, Statement, is_label, to_lines,
};
use std::sync::Arc;

/// How many writers are remembered: enough for whoever reads from many, few megabytes.
const MAX_WRITERS: usize = 256;

/// A wrap to be made.
#[derive(Debug)]
pub struct Outgoing {
    /// To whom.
    pub to: Vec<Resolved>,
    /// The first of them who comes, or each of them once.
    pub mode: Mode,
    /// Not to be opened before, Unix milliseconds; 0 for at once.
    pub nbf_ms: u64,
    /// For how many seconds from now it may be opened.
    pub life_s: u64,
    /// Seconds in which whoever opened it must acknowledge.
    pub ack_s: u32,
    /// One line for the recipients, which the server can read: at most 256 bytes, no control characters.
    pub label: Option<String>,
}

impl Outgoing {
    /// To these, the first of whom gets it, for `life_s` seconds.
    pub fn new(to: Vec<Resolved>, life_s: u64) -> Self {
        Self { to, mode: Mode::First, nbf_ms: 0, life_s, ack_s: DEFAULT_ACK_S, label: None }
    }

    /// What can be wrong with it whatever the content is, told before anything happens.
    fn check(&self) -> Result<(), ClientError> {
        if !self.label.as_deref().is_none_or(is_label) {
            let what = format!("the wrap cannot be made: label: {LABEL_RULE}");
            return Err(ClientError::input(what, "choose another label"));
        }
        let life_ms = self.life_s.saturating_mul(1000);
        if life_ms == 0 || life_ms > MAX_LIFE_MS {
            return Err(ClientError::input(
                "the wrap cannot be made: it is to be opened within 1 second to 366 days",
                "choose another time",
            ));
        }
        Ok(())
    }

    fn statement(
        self,
        cluster: ClusterId,
        wrap: WrapId,
        from: PrincipalId,
        to: Vec<Addressee>,
        file: &Spooled,
    ) -> Statement {
        let Self { to: _, mode, nbf_ms, life_s, ack_s, label } = self;
        let ct = Ciphertext { sha256: Digest::new(file.sha256), len: file.len };
        let exp_ms = now_ms().saturating_add(life_s.saturating_mul(1000));
        Statement { v: V1, cluster, wrap, from, to, mode, ct, nbf_ms, exp_ms, ack_s, label, origin: None }
    }
}

/// A wrap that was made.
#[derive(Debug)]
pub struct Wrapped {
    /// Names it; goes to the recipients by any way.
    pub slip: Slip,
    /// The cluster's proof that it has it.
    pub created: VerifiedReceipt,
    /// What was signed.
    pub statement: Envelope,
}

/// A wrap as its parties see it, verified.
#[derive(Debug)]
pub struct Inspected {
    /// What the writer signed.
    pub statement: VerifiedStatement,
    /// Who wrote it.
    pub writer: Resolved,
    /// What a node says of where the content is from; none if it is the writer's own.
    pub origin: Option<VerifiedOrigin>,
    /// The receipt of its creation.
    pub created: VerifiedReceipt,
    /// Its slots.
    pub slots: Vec<InspectedSlot>,
    /// All as it came, and as it was verified.
    pub view: WrapView,
}

/// A slot of an inspected wrap.
#[derive(Debug)]
pub struct InspectedSlot {
    /// For whom; none with mode `first`.
    pub principal: Option<PrincipalId>,
    /// Its state, by the server's word.
    pub state: SlotState,
    /// Its receipts, none missing between.
    pub receipts: Vec<VerifiedReceipt>,
}

impl Client {
    /// Encrypts `content` here, signs what it is and for whom, and hands both in.
    ///
    /// # Errors
    /// [`ClientError::TooLarge`] before anything is sent; [`ClientError::UnknownOutcome`] if no answer came;
    /// [`ClientError::Input`] with the names for recipients of both kinds.
    pub async fn wrap_create(&self, outgoing: Outgoing, content: Content) -> Result<Wrapped, ClientError> {
        outgoing.check()?;
        of_one_kind(&outgoing.to)?;
        let (trust, me) = (self.trust().await?, self.me().await?);
        let (cluster, wrap) = (trust.view.id(), WrapId::new(draw(&mut SystemRng)));
        let from = me.resolved.principal();
        let (to, recipients) = addressees(&outgoing.to);
        let binding = binding(wrap, cluster, from, &to);
        let directory = match &self.0.state {
            State::Memory => std::env::temp_dir(),
            State::Directory(base) => base.clone(),
        };
        let content = Metered(content, self.0.transport.watch.meter(Stage::Encrypting, None));
        let spooled = tokio::task::spawn_blocking(move || spool::seal(&recipients, &binding, content, directory)).await;
        let spooled = match spooled {
            Ok(Ok(spooled)) => spooled,
            Ok(Err(SpoolError::TooLarge)) => return Err(ClientError::TooLarge { limit: MAX_CONTENT_BYTES }),
            Ok(Err(SpoolError::Seal(error))) => return Err(error.into()),
            Err(_) => return Err(ClientError::input("encrypting was interrupted", "try again")),
        };
        self.hand_in(outgoing.statement(cluster, wrap, from, to, &spooled), spooled).await
    }

    /// Asks for something by `call`, whose answer goes to the one recipient in place of this client, and makes a wrap
    /// of it. The node says what it read, which must be `action` on `resource`.
    pub(crate) async fn wrap_read(
        &self,
        call: Call,
        (action, resource): (&str, String),
        outgoing: Outgoing,
    ) -> Result<Wrapped, ClientError> {
        outgoing.check()?;
        let readers = outgoing.to.clone();
        let [reader] = readers.as_slice() else {
            return Err(ClientError::input("the answer goes to one recipient", "name one; ask again for another"));
        };
        let (trust, me) = (self.trust().await?, self.me().await?);
        let (cluster, wrap) = (trust.view.id(), WrapId::new(draw(&mut SystemRng)));
        let from = me.resolved.principal();
        let (to, _) = addressees(std::slice::from_ref(reader));
        let binding = binding(wrap, cluster, from, &to);
        let call = call.with("wrap", Some(wrap)).with("wrap_to", Some(reader.name()));
        let answer = self.call(Call { limit: call.limit.saturating_add(Parcel::MAX_DOCUMENT_BYTES), ..call }).await?;
        demand(answer.media == PARCEL_MEDIA_TYPE, "the answer is not what goes into a wrap")?;
        let malformed = || ClientError::contradiction("what goes into the wrap is malformed");
        let Parcel { document, file } = Parcel::parse(&answer.body).map_err(|_| malformed())?;
        let shown = envelope::inspect(file).map_err(|_| malformed())?;
        // Its recipients nobody can check who is none of them; one that cannot open it says so.
        demand(
            shown.binding.as_ref() == Some(&binding),
            "it is encrypted for others than were named, or their keys changed meanwhile",
        )?;
        let spooled = Spooled::of(file.to_vec());
        let origin = json::parse(document, Parcel::MAX_DOCUMENT_BYTES).map_err(|_| malformed())?;
        let statement = Statement { origin: Some(origin), ..outgoing.statement(cluster, wrap, from, to, &spooled) };
        let told = self.origin(&statement).await?.ok_or_else(malformed)?.origin;
        demand(told.action == action && told.resource == resource, "it is something else than was asked for")?;
        self.hand_in(statement, spooled).await
    }

    /// Verifies what a statement says of its origin.
    pub(crate) async fn origin(&self, statement: &Statement) -> Result<Option<VerifiedOrigin>, ClientError> {
        self.by_a_node("the origin", |view| verify_origin(view, statement)).await
    }

    /// Verifies what a node signed, also if it quotes a document that is newer than those at hand.
    async fn by_a_node<T>(
        &self,
        what: &'static str,
        verify: impl Fn(&ClusterView) -> Result<T, EvidenceError>,
    ) -> Result<T, ClientError> {
        let mut verified = verify(&*self.view().await?);
        if matches!(verified, Err(EvidenceError::DocumentAhead { .. })) {
            verified = verify(&self.cluster().await?.view);
        }
        verified.map_err(ClientError::statement(what))
    }

    /// Signs a statement and hands it in with its age file.
    async fn hand_in(&self, statement: Statement, mut spooled: Spooled) -> Result<Wrapped, ClientError> {
        let (me, cluster, wrap) = (self.me().await?, statement.cluster, statement.wrap);
        let envelope = evidence::sign(&statement, &[&**self.key()?]).await?;
        // The reader's checks, so that a mistake is told before it travels.
        let checked = verify_statement(&envelope, &cluster, me.resolved.record())
            .and_then(|verified| evidence::check_statement_times(&verified.statement, now_ms()).map(|()| verified));
        let checked = checked.map_err(|error| {
            ClientError::input(format!("the wrap cannot be made: {error}"), "choose other times or fewer recipients")
        })?;
        let head = Parcel::head(&json::to_vec(&envelope));
        let sha256 = spooled
            .digest_after(&head)
            .map_err(|error| ClientError::io("cannot read the temporary file", None, error))?;
        let upload = match spooled.place {
            Place::Memory(bytes) => Upload::Bytes([head, bytes].concat().into()),
            Place::File(file) => Upload::File { head: head.into(), file: Arc::new(file), len: spooled.len },
        };
        let call =
            Call { method: "POST", changes: true, body: CallBody::Parcel { upload, sha256 }, ..Call::read("/v1/wrap") };
        let slip = Slip { cluster, wrap, statement_sha256: checked.digest };
        let mut receipts = self.receipts(&slip, call).await?;
        let created = receipts.pop().filter(|receipt| receipt.receipt.kind == ReceiptKind::Created);
        let created =
            created.ok_or_else(|| ClientError::contradiction("the cluster did not answer with a created receipt"))?;
        Ok(Wrapped { slip, created, statement: envelope })
    }

    /// Takes a wrap back. The receipts say whether it was opened before.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wrap_revoke(&self, slip: &Slip) -> Result<Vec<VerifiedReceipt>, ClientError> {
        self.check_cluster(slip).await?;
        let body = RevokeWrap { statement_sha256: slip.statement_sha256 };
        self.receipts(slip, Call::change("POST", format!("/v1/wrap/{}:revoke", slip.wrap), &body)).await
    }

    /// Lets a wrap that waits after a restore be opened again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wrap_release(&self, slip: &Slip) -> Result<(), ClientError> {
        self.check_cluster(slip).await?;
        let body = RevokeWrap { statement_sha256: slip.statement_sha256 };
        let call = Call::change("POST", format!("/v1/wrap/{}:release", slip.wrap), &body);
        self.call(call).await.map(drop)
    }

    /// Looks at a wrap, and verifies statement, writer and receipts.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wrap_inspect(&self, slip: &Slip) -> Result<Inspected, ClientError> {
        self.check_cluster(slip).await?;
        let view = self.wrap_view(&slip.wrap).await?;
        let same = evidence::payload_digest(&view.statement) == slip.statement_sha256;
        demand(same, "the cluster's wrap is not the one that the slip names: compare it with what its writer sent")?;
        let stated: Statement = json::parse(&view.statement.payload, json::MAX_STATEMENT_BYTES)
            .map_err(|_| ClientError::contradiction("the writer's statement is malformed"))?;
        let verify = |cluster: &ClusterId, chain: &RecordChain| statement_of(&view.statement, cluster, chain);
        let (writer, statement) = self.writer(&stated.from, "the writer's statement", verify).await?;
        demand(statement.statement.wrap == slip.wrap, "the writer's statement is about another wrap")?;
        let created = self.receipt(slip, &view.created).await?;
        let mut slots = Vec::with_capacity(view.slots.len());
        for Slot { principal, state, receipts } in &view.slots {
            let mut verified = Vec::with_capacity(receipts.len());
            for receipt in receipts {
                verified.push(self.receipt(slip, receipt).await?);
            }
            check_receipt_chain(&created, &verified).map_err(ClientError::statement("the slot's receipts"))?;
            slots.push(InspectedSlot { principal: *principal, state: *state, receipts: verified });
        }
        let origin = self.origin(&statement.statement).await?;
        Ok(Inspected { statement, writer, origin, created, slots, view })
    }

    /// The slip is of the pinned cluster.
    pub(crate) async fn check_cluster(&self, slip: &Slip) -> Result<(), ClientError> {
        let cluster = self.view().await?.id();
        if slip.cluster == cluster {
            return Ok(());
        }
        Err(ClientError::input(
            format!("this slip is of the cluster {}, not of {cluster}", slip.cluster),
            "choose the context of that cluster",
        ))
    }

    /// The receipts that prove a refusal, such as who opened the wrap before. Those that do not hold are left out.
    pub async fn refusal_receipts(&self, slip: &Slip, refusal: &ClientError) -> Vec<VerifiedReceipt> {
        let errors = match refusal {
            ClientError::Refused { errors, .. } => errors,
            ClientError::UnknownOutcome { cause } => match &**cause {
                ClientError::Refused { errors, .. } => errors,
                _ => return Vec::new(),
            },
            _ => return Vec::new(),
        };
        let mut verified = Vec::new();
        for envelope in errors.iter().filter_map(|entry| entry.receipt.as_ref()) {
            verified.extend(self.receipt(slip, envelope).await.ok());
        }
        verified
    }

    /// Who wrote something, and what `verify` makes of it by their records. A writer that was resolved before is taken if
    /// its admission still holds by the newest document and one of its keys signed; else it is looked up again.
    pub(crate) async fn writer<T>(
        &self,
        from: &PrincipalId,
        what: &'static str,
        verify: impl Fn(&ClusterId, &RecordChain) -> Result<T, EvidenceError>,
    ) -> Result<(Resolved, T), ClientError> {
        let view = self.view().await?;
        let held = self.held().writers.get(from).cloned();
        if let Some(writer) = held.filter(|writer| writer.holds(&view))
            && let Ok(verified) = verify(&view.id(), &writer.chain)
        {
            return Ok((writer, verified));
        }
        let writer = self.resolve_id(from).await?;
        let verified = verify(&view.id(), &writer.chain).map_err(ClientError::statement(what))?;
        let mut held = self.held();
        if held.writers.len() >= MAX_WRITERS {
            held.writers.clear();
        }
        held.writers.insert(*from, writer.clone());
        Ok((writer, verified))
    }

    /// Makes a call that is answered with receipts, and verifies them.
    pub(crate) async fn receipts(&self, slip: &Slip, call: Call) -> Result<Vec<VerifiedReceipt>, ClientError> {
        let WrapReceipts { receipts } = self.json(Call { limit: 8 * MAX_JSON_BYTES, ..call }).await?;
        let mut verified = Vec::with_capacity(receipts.len());
        for receipt in &receipts {
            let receipt = self.receipt(slip, receipt).await?;
            demand(receipt.standing == Standing::Valid, "the receipt is of a node that is not to be believed")?;
            verified.push(receipt);
        }
        Ok(verified)
    }

    /// Verifies a receipt about the wrap of `slip`.
    pub(crate) async fn receipt(&self, slip: &Slip, envelope: &Envelope) -> Result<VerifiedReceipt, ClientError> {
        let verified = self.by_a_node("the receipt", |view| verify_receipt(view, envelope)).await?;
        let about = verified.receipt.wrap == slip.wrap && verified.receipt.statement_sha256 == slip.statement_sha256;
        demand(about, "the receipt is about another wrap")?;
        Ok(verified)
    }
}

/// Verifies a statement by any record of its writer, who may have changed its keys since.
pub(crate) fn statement_of(
    envelope: &Envelope,
    cluster: &ClusterId,
    writer: &RecordChain,
) -> Result<VerifiedStatement, EvidenceError> {
    by_any_record(writer, |record| verify_statement(envelope, cluster, record))
}

/// Verifies something by any record of its signer, newest first, who may have changed its keys since.
pub(crate) fn by_any_record<T>(
    signer: &RecordChain,
    verify: impl Fn(&Record) -> Result<T, EvidenceError>,
) -> Result<T, EvidenceError> {
    let mut last = EvidenceError::Signature(DsseError::NoKnownKey);
    for record in signer.iter().rev() {
        match verify(record) {
            Err(EvidenceError::Signature(DsseError::NoKnownKey)) => {}
            Err(error) => last = error,
            Ok(verified) => return Ok(verified),
        }
    }
    Err(last)
}

/// Recipients of both kinds are refused when the content is encrypted; here they have names still.
pub(crate) fn of_one_kind(to: &[Resolved]) -> Result<(), ClientError> {
    let classical = |resolved: &&Resolved| resolved.recipients().iter().any(|recipient| !recipient.is_hybrid());
    let without: Vec<_> = to.iter().filter(classical).map(|resolved| resolved.name().as_str()).collect();
    let hybrid = to.iter().flat_map(Resolved::recipients).any(Recipient::is_hybrid);
    if without.is_empty() || !hybrid {
        return Ok(());
    }
    Err(ClientError::input(
        format!("mixed_recipients: some have post-quantum keys and some have not; without: {}", without.join(", ")),
        "do it twice: once to the post-quantum keys, once to the classical ones",
    ))
}

/// What binds an age file to its writer's statement. `wrap` is the statement's id.
pub(crate) fn binding(wrap: WrapId, cluster: ClusterId, from: PrincipalId, to: &[Addressee]) -> Binding {
    Binding { wrap, cluster, from, to_sha256: Digest::new(sha256(&[to_lines(to).as_bytes()])) }
}

pub(crate) fn addressees(to: &[Resolved]) -> (Vec<Addressee>, Vec<Recipient>) {
    let mut all = Vec::new();
    let mut addressees = Vec::with_capacity(to.len());
    for resolved in to {
        let recipients = resolved.recipients();
        addressees.push(Addressee {
            principal: resolved.principal(),
            record_sha256: resolved.record().digest(),
            recipients: recipients.iter().map(|recipient| recipient.digest()).collect(),
        });
        all.extend(recipients.into_iter().cloned());
    }
    (addressees, all)
}
