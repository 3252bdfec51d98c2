//! Opening a wrap, in the order of `spec/wrap.md`: verify, claim, verify, decrypt, make durable, acknowledge, destroy
//! the claim. Whatever is interrupted goes on with the same claim when it is tried again.

use crate::builder::Client;
use crate::call::Call;
use crate::claim::Claim;
use crate::disk::Turn;
use crate::error::{ClientError, demand};
use crate::memory::Memory;
use crate::output::Output;
use crate::resolve::Resolved;
use crate::wrap::{Inspected, binding};
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{self, Binding, Decrypter, OpenError, Reader};
use bulla_crypto::evidence::{Standing, VerifiedOrigin, VerifiedReceipt, VerifiedStatement};
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{FinishWrap, OpenWrap};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::json;
use bulla_wire::signature::AGE_MEDIA_TYPE;
use bulla_wire::wrap::{Addressee, Ciphertext, MAX_CIPHERTEXT_BYTES, Parcel, ReceiptKind, Slip, Statement};
use std::io::{self, Cursor, Write};

/// Largest answer of `open` in bytes: a parcel of the largest ciphertext inside an age file to one recipient.
const MAX_ANSWER_BYTES: u64 = MAX_CIPHERTEXT_BYTES + 512 * 1024;

/// What is written to the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenedAs {
    /// The content.
    Content,
    /// The age file as the writer made it, to be decrypted elsewhere. Its binding is compared but cannot be
    /// authenticated without the key.
    AgeFile,
}

/// A wrap that was opened. Its content is durable in the output.
#[derive(Debug)]
pub struct Opened {
    /// What the writer signed.
    pub statement: VerifiedStatement,
    /// Who wrote it.
    pub writer: Resolved,
    /// What a node says of where the content is from; none if it is the writer's own.
    pub origin: Option<VerifiedOrigin>,
    /// The cluster's proof that this claim won.
    pub receipt: VerifiedReceipt,
    /// The proof that it was acknowledged. If that failed, opening again tries it again.
    pub acked: Result<VerifiedReceipt, ClientError>,
}

impl Client {
    /// Opens the wrap that `slip` names and writes its content to `output`.
    ///
    /// # Errors
    /// [`ClientError::Input`] before anything is claimed if no key at hand opens it: it was made to an older one
    /// ([`crate::Builder::also_opens`]). [`ClientError::Tampered`] if the content is not what its writer signed: it is then reported to the cluster.
    /// [`ClientError::Refused`] with `already_opened` and its receipt if somebody else was first.
    pub async fn wrap_open(&self, slip: &Slip, output: &mut dyn Output) -> Result<Opened, ClientError> {
        self.open(slip, OpenedAs::Content, output).await
    }

    /// As [`Client::wrap_open`], without decrypting.
    ///
    /// # Errors
    /// As [`Client::wrap_open`].
    pub async fn wrap_open_raw(&self, slip: &Slip, output: &mut dyn Output) -> Result<Opened, ClientError> {
        self.open(slip, OpenedAs::AgeFile, output).await
    }

    /// Tells the cluster that what this client opened is safe, so that it deletes the ciphertext. Opening does so by
    /// itself; this is for an [`Opened::acked`] that failed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with how the wrap stands and the receipt of that, also if this client did not open it:
    /// `not_found` if nobody did.
    pub async fn wrap_ack(&self, slip: &Slip) -> Result<VerifiedReceipt, ClientError> {
        self.report(slip, "ack", ReceiptKind::Acked).await
    }

    /// Tells the cluster and the writer that what this client opened did not arrive or is bad. That is final: nobody
    /// gets the content any more. Opening does so by itself for content that is not what its writer signed.
    ///
    /// # Errors
    /// As [`Client::wrap_ack`].
    pub async fn wrap_nack(&self, slip: &Slip) -> Result<VerifiedReceipt, ClientError> {
        self.report(slip, "nack", ReceiptKind::Nacked).await
    }

    async fn report(&self, slip: &Slip, verb: &str, kind: ReceiptKind) -> Result<VerifiedReceipt, ClientError> {
        self.check_cluster(slip).await?;
        let memory = self.trust().await?.memory;
        let _turn = Claim::turn(&memory, slip).await?;
        let Some(claim) = Claim::find(&memory, slip)? else {
            // Nothing was opened here. The cluster says, and proves, how the wrap stands instead.
            return self.finish(slip, &Claim::of_nothing(slip)?, verb, kind).await;
        };
        let finished = self.finish(slip, &claim, verb, kind).await;
        if finished.as_ref().map_or_else(ends_claim, |_| true) {
            claim.destroy(&memory)?;
        }
        finished
    }

    async fn open(&self, slip: &Slip, opened_as: OpenedAs, output: &mut dyn Output) -> Result<Opened, ClientError> {
        let Inspected { statement, writer, origin, .. } = self.wrap_inspect(slip).await?;
        let mine = self.check_addressed(&statement.statement).await?;
        if opened_as == OpenedAs::Content {
            // A delivery that cannot be read would have to be reported as bad, and that is final.
            check_keys(&self.decrypters()?, mine)?;
        }
        let memory = self.trust().await?.memory;
        let turn = Claim::turn(&memory, slip).await?;
        if turn.as_ref().is_some_and(Turn::waited) && Claim::find(&memory, slip)?.is_none() {
            let what = "another process on this machine was just opening this wrap, and is done with it";
            return Err(ClientError::input(
                what,
                "look there for the content; `bulla wrap inspect` shows how it ended",
            ));
        }
        let claim = Claim::begin(&memory, slip)?;
        let body = OpenWrap { statement_sha256: slip.statement_sha256, claim: claim.recipient()?.to_string() };
        let call = Call {
            limit: usize::try_from(MAX_ANSWER_BYTES).unwrap_or(usize::MAX),
            ..Call::change("POST", format!("/v1/wrap/{}:open", slip.wrap), &body)
        };
        let answer = match self.call(call).await {
            Ok(answer) => answer,
            Err(error) => {
                if ends_claim(&error) {
                    claim.destroy(&memory)?;
                }
                return Err(error);
            }
        };
        demand(answer.media == AGE_MEDIA_TYPE, "the answer is not encrypted to the claim")?;
        let parcel = envelope::open(&[claim.identity()], &answer.body, usize::MAX).await?.plaintext;
        let parcel =
            Parcel::parse(parcel.expose()).map_err(|_| ClientError::contradiction("the delivery is malformed"))?;
        let receipt = self.delivery_receipt(slip, &claim, parcel.document).await?;
        let received = self.receive(&statement.statement, opened_as, parcel.file, output).await;
        if let Err(error @ ClientError::Tampered { .. }) = received {
            // The failure is what the caller must learn; if the report fails too, opening again repeats it.
            if self.finish(slip, &claim, "nack", ReceiptKind::Nacked).await.is_ok() {
                claim.destroy(&memory)?;
            }
            return Err(error);
        }
        received?;
        output.commit().map_err(|error| ClientError::io("cannot make the content durable", None, error))?;
        let acked = self.acknowledge(slip, claim, &memory).await;
        Ok(Opened { statement, writer, origin, receipt, acked })
    }

    async fn acknowledge(&self, slip: &Slip, claim: Claim, memory: &Memory) -> Result<VerifiedReceipt, ClientError> {
        let acked = self.finish(slip, &claim, "ack", ReceiptKind::Acked).await?;
        claim.destroy(memory)?;
        Ok(acked)
    }

    async fn finish(
        &self,
        slip: &Slip,
        claim: &Claim,
        verb: &str,
        kind: ReceiptKind,
    ) -> Result<VerifiedReceipt, ClientError> {
        let body = FinishWrap { statement_sha256: slip.statement_sha256, claim_sha256: claim.digest()? };
        let call = Call::change("POST", format!("/v1/wrap/{}:{verb}", slip.wrap), &body);
        let receipts = self.receipts(slip, call).await?;
        let found = receipts.into_iter().find(|receipt| receipt.receipt.kind == kind);
        found.ok_or_else(|| ClientError::contradiction("the cluster did not confirm what was reported"))
    }

    /// The caller is among the addressees, with a record of its own.
    async fn check_addressed<'a>(&self, statement: &'a Statement) -> Result<&'a Addressee, ClientError> {
        let me = self.me().await?;
        let mine = statement.to.iter().find(|addressee| addressee.principal == me.resolved.principal());
        let mine = mine.ok_or_else(|| {
            ClientError::input("this wrap is not for you", "`bulla wrap inspect` shows for whom it is")
        })?;
        let record = me.resolved.chain.find(&mine.record_sha256);
        demand(record.is_some(), "the wrap was made for a record that is not yours")?;
        Ok(mine)
    }

    /// The receipt says that this caller's claim opened this wrap.
    async fn delivery_receipt(
        &self,
        slip: &Slip,
        claim: &Claim,
        document: &[u8],
    ) -> Result<VerifiedReceipt, ClientError> {
        let envelope: Envelope = json::parse(document, Parcel::MAX_DOCUMENT_BYTES)
            .map_err(|_| ClientError::contradiction("the delivery's receipt is malformed"))?;
        let verified = self.receipt(slip, &envelope).await?;
        demand(verified.standing == Standing::Valid, "the receipt is of a node that is not to be believed")?;
        let receipt = &verified.receipt;
        let kind = matches!(receipt.kind, ReceiptKind::Opened | ReceiptKind::Redelivered);
        demand(kind, "the delivery's receipt does not say that the wrap was opened")?;
        demand(receipt.claim_sha256 == Some(claim.digest()?), "the delivery's receipt names another claim")?;
        let me = self.me().await?.resolved.principal();
        let actor = receipt.actor.as_ref().is_some_and(|actor| actor.principal == me);
        demand(actor, "the delivery's receipt names somebody else")?;
        Ok(verified)
    }

    /// Checks the ciphertext by the statement and writes what is wanted to the output.
    async fn receive(
        &self,
        statement: &Statement,
        opened_as: OpenedAs,
        file: &[u8],
        output: &mut dyn Output,
    ) -> Result<(), ClientError> {
        check_ciphertext(&statement.ct, file)?;
        let expected = binding_of(statement);
        let written = |error| ClientError::io("cannot write the content", None, error);
        if opened_as == OpenedAs::AgeFile {
            let shown = envelope::inspect(file).map_err(unopened)?;
            check_binding(&expected, shown.binding.as_ref())?;
            return output.write_all(file).map_err(written);
        }
        let reader = Reader::begin(&self.decrypters()?, Cursor::new(file)).await.map_err(unopened)?;
        check_binding(&expected, reader.binding())?;
        let mut writer = Writer { output, failed: None };
        let copied = reader.copy_to(&mut writer);
        match (copied, writer.failed) {
            (Ok(_), None) => Ok(()),
            (_, Some(error)) => Err(written(error)),
            (Err(error), None) => Err(unopened(error)),
        }
    }
}

/// Tells an output that failed from content that does not open.
struct Writer<'a> {
    output: &'a mut dyn Output,
    failed: Option<io::Error>,
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output
            .write(bytes)
            .inspect_err(|error| self.failed = Some(io::Error::new(error.kind(), error.to_string())))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.output.flush().inspect_err(|error| self.failed = Some(io::Error::new(error.kind(), error.to_string())))
    }
}

fn binding_of(Statement { wrap, cluster, from, to, .. }: &Statement) -> Binding {
    binding(*wrap, *cluster, *from, to)
}

/// One of these keys is among those that the wrap was made to for this addressee.
fn check_keys(keys: &[&dyn Decrypter], mine: &Addressee) -> Result<(), ClientError> {
    let opens = |key: &&dyn Decrypter| key.recipients().iter().any(|own| mine.recipients.contains(&own.digest()));
    if keys.iter().any(opens) {
        return Ok(());
    }
    if keys.iter().all(|key| key.recipients().is_empty()) {
        return Err(ClientError::SignsOnly);
    }
    Err(ClientError::input(
        "this wrap was made for an older key of yours; nothing was opened",
        "give that key too (--old-identity FILE)",
    ))
}

/// The file is the one that its writer stated.
pub(crate) fn check_ciphertext(stated: &Ciphertext, file: &[u8]) -> Result<(), ClientError> {
    let len = u64::try_from(file.len()).unwrap_or(u64::MAX) == stated.len;
    let digest = *stated.sha256.as_bytes() == sha256(&[file]);
    if len && digest { Ok(()) } else { Err(ClientError::Tampered { what: "it is another ciphertext" }) }
}

pub(crate) fn check_binding(expected: &Binding, found: Option<&Binding>) -> Result<(), ClientError> {
    match found {
        Some(found) if found == expected => Ok(()),
        Some(_) => Err(ClientError::Tampered { what: "it was encrypted for another wrap" }),
        None => Err(ClientError::Tampered { what: "it is not bound to its statement" }),
    }
}

/// A content that cannot be opened is reported; a key that is not at hand is not the content's fault.
pub(crate) fn unopened(error: OpenError) -> ClientError {
    match error {
        OpenError::Key(_) | OpenError::Crypto(_) | OpenError::Io(_) => error.into(),
        OpenError::NoMatch => ClientError::Tampered { what: "it is not encrypted to your key" },
        OpenError::Header(_) | OpenError::Passphrase => ClientError::Tampered { what: "it is no such age file" },
        OpenError::Binding(_) => ClientError::Tampered { what: "its binding cannot be used" },
        OpenError::Mac => ClientError::Tampered { what: "its header was changed" },
        OpenError::Payload | OpenError::TooLarge { .. } => ClientError::Tampered { what: "its content was changed" },
    }
}

/// After this answer the claim will never be delivered to. Anybody's word would take away what was opened and not yet delivered.
fn ends_claim(error: &ClientError) -> bool {
    use Code::{Acked, AlreadyOpened, Expired, Lapsed, Nacked, Revoked};
    matches!(error.proven(), Some(Acked | AlreadyOpened | Expired | Lapsed | Nacked | Revoked))
}

/// What an age file to the caller holds.
pub(crate) async fn open_secret(key: &dyn Decrypter, file: &[u8], limit: usize) -> Result<SecretBytes, ClientError> {
    Ok(envelope::open(&[key], file, limit).await?.plaintext)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::{Pin, Trust};
    use crate::fixture;
    use crate::fixture::World;
    use crate::output::MemoryOutput;
    use crate::resolve::Me;
    use bulla_crypto::evidence::{DocumentDraft, Node, RecordChain, sign_in_memory};
    use bulla_crypto::secret::SecretKey;
    use bulla_crypto::sign::SigningKey;
    use bulla_wire::evidence::{Actor, NodeState};
    use bulla_wire::id::Lineage;
    use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
    use bulla_wire::json::V1;
    use bulla_wire::wrap::Receipt;
    use bulla_wire::wrap::{Ciphertext, Mode};
    use std::sync::Arc;

    fn statement(file: &[u8]) -> Statement {
        Statement {
            v: V1,
            cluster: ClusterId::new([1; 32]),
            wrap: WrapId::new([2; 16]),
            from: PrincipalId::new([3; 32]),
            to: Vec::new(),
            mode: Mode::First,
            ct: Ciphertext { sha256: Digest::new(sha256(&[file])), len: file.len() as u64 },
            nbf_ms: 0,
            exp_ms: 1,
            ack_s: 600,
            label: None,
            origin: None,
        }
    }

    #[test]
    fn the_ciphertext_is_the_stated_one() {
        let good = statement(b"file");
        assert!(check_ciphertext(&good.ct, b"file").is_ok());
        assert!(check_ciphertext(&good.ct, b"fil").is_err());
        assert!(check_ciphertext(&good.ct, b"filf").is_err());
        let mut longer = good;
        longer.ct.len += 1;
        assert!(check_ciphertext(&longer.ct, b"file").is_err());
    }

    #[test]
    fn the_binding_is_the_stated_one() {
        let expected = binding_of(&statement(b""));
        assert!(check_binding(&expected, Some(&expected)).is_ok());
        assert!(check_binding(&expected, None).is_err());
        for other in [
            Binding { wrap: WrapId::new([9; 16]), ..expected.clone() },
            Binding { cluster: ClusterId::new([9; 32]), ..expected.clone() },
            Binding { from: PrincipalId::new([9; 32]), ..expected.clone() },
            Binding { to_sha256: Digest::new([9; 32]), ..expected.clone() },
        ] {
            assert!(matches!(check_binding(&expected, Some(&other)), Err(ClientError::Tampered { .. })));
        }
    }

    #[test]
    fn a_key_at_hand_opens_it_or_nothing_is_claimed() {
        let [old, new] = [("bob", 3), ("bob", 4)].map(|(name, seed)| fixture::person(name, seed));
        let mine = Addressee {
            principal: old.record.principal(),
            record_sha256: old.record.digest(),
            recipients: old.identity.recipients().iter().map(|recipient| recipient.digest()).collect(),
        };
        let refused = check_keys(&[&new.identity], &mine).unwrap_err();
        assert!(refused.hint().contains("--old-identity"), "{refused}");
        assert!(check_keys(&[], &mine).is_err());
        assert!(check_keys(&[&old.identity], &mine).is_ok());
        assert!(check_keys(&[&new.identity, &old.identity], &mine).is_ok());
    }

    #[test]
    fn a_missing_token_is_not_tampering() {
        assert!(matches!(unopened(OpenError::Key("gone".into())), ClientError::Open(_)));
        assert!(matches!(unopened(OpenError::Io(io::Error::other("x"))), ClientError::Open(_)));
        for error in [OpenError::NoMatch, OpenError::Mac, OpenError::Payload, OpenError::Binding("x")] {
            assert!(matches!(unopened(error), ClientError::Tampered { .. }));
        }
    }

    #[test]
    fn a_claim_ends_by_what_the_cluster_said_alone() {
        use bulla_wire::error::ErrorEntry;
        for code in Code::ALL.iter().copied() {
            let refused = |verified| {
                let entry = ErrorEntry { code, message: "no".into(), field: None, hint: None, id: None, receipt: None };
                ClientError::Refused { status: 409, errors: vec![entry], verified, may_have_happened: !verified }
            };
            let final_ones =
                [Code::Acked, Code::AlreadyOpened, Code::Expired, Code::Lapsed, Code::Nacked, Code::Revoked];
            assert_eq!(ends_claim(&refused(true)), final_ones.contains(&code), "{code}");
            assert!(!ends_claim(&refused(false)), "{code}");
            assert!(!ends_claim(&ClientError::UnknownOutcome { cause: Box::new(refused(true)) }), "{code}");
        }
    }

    /// Bob's client, who knows the cluster and himself already, so that nobody is asked.
    fn bob(world: &World) -> Client {
        let identity = Arc::new(fixture::person("bob", 3).identity);
        let builder = Client::builder("https://localhost:1").identity(identity);
        let client = builder.pin(Pin::Cluster(world.view.id())).build().unwrap();
        let chain = RecordChain::open(&[world.bob.record.envelope().clone()]).unwrap();
        let mut held = client.held();
        held.trust = Some(Trust { view: Arc::new(world.view.clone()), memory: Arc::new(Memory::volatile()) });
        held.me = Some(Arc::new(Me { resolved: Resolved { chain, admission: None, disabled: false } }));
        drop(held);
        client
    }

    fn slip(world: &World) -> Slip {
        Slip { cluster: world.view.id(), wrap: WrapId::new([2; 16]), statement_sha256: Digest::new([4; 32]) }
    }

    /// What the node says to Bob's claim.
    fn opened(world: &World, claim: &Claim) -> Receipt {
        let bob = &world.bob;
        let key = bob.identity.signing_key().unwrap().public_key().key_id();
        Receipt {
            v: V1,
            cluster: world.view.id(),
            node: world.node.public_key().key_id(),
            kind: ReceiptKind::Opened,
            wrap: slip(world).wrap,
            slot: 0,
            statement_sha256: slip(world).statement_sha256,
            actor: Some(Actor { principal: bob.record.principal(), key, address: None }),
            claim_sha256: Some(claim.digest().unwrap()),
            at_ms: 7,
            doc: 1,
            epoch: 1,
            lineage: Lineage::new([1; 16]),
            prev: Some(Digest::new([5; 32])),
        }
    }

    /// Whether Bob takes a delivery with this receipt.
    async fn takes(world: &World, claim: &Claim, receipt: &Receipt, node: &SigningKey) -> bool {
        let envelope = sign_in_memory(receipt, &[node]).unwrap();
        bob(world).delivery_receipt(&slip(world), claim, &json::to_vec(&envelope)).await.is_ok()
    }

    /// Of all that a node signs only one thing says that this claim got this wrap; nothing is decrypted by another.
    #[tokio::test]
    async fn a_delivery_is_of_this_wrap_to_this_claim_of_this_caller() {
        let world = fixture::world();
        let claim = Claim::of_nothing(&slip(&world)).unwrap();
        let good = opened(&world, &claim);
        for kind in [ReceiptKind::Opened, ReceiptKind::Redelivered] {
            assert!(takes(&world, &claim, &Receipt { kind, ..good.clone() }, &world.node).await, "{kind:?}");
        }
        let (digest, mut other) = (Some(Digest::new([9; 32])), good.actor.clone().unwrap());
        other.principal = world.alice.record.principal();
        for (what, bad) in [
            ("created", Receipt { kind: ReceiptKind::Created, prev: None, ..good.clone() }),
            ("acked", Receipt { kind: ReceiptKind::Acked, ..good.clone() }),
            ("refused", Receipt { kind: ReceiptKind::Refused, ..good.clone() }),
            ("another claim", Receipt { claim_sha256: digest, ..good.clone() }),
            ("no claim", Receipt { claim_sha256: None, ..good.clone() }),
            ("somebody else", Receipt { actor: Some(other), ..good.clone() }),
            ("nobody", Receipt { actor: None, ..good.clone() }),
            ("another wrap", Receipt { wrap: WrapId::new([3; 16]), ..good.clone() }),
            ("another statement", Receipt { statement_sha256: Digest::new([9; 32]), ..good.clone() }),
            ("another cluster", Receipt { cluster: ClusterId::new([9; 32]), ..good.clone() }),
        ] {
            assert!(!takes(&world, &claim, &bad, &world.node).await, "{what}");
        }
        let stranger = SigningKey::from_seed(&SecretKey::filled(|bytes| bytes.fill(77))).unwrap();
        assert!(!takes(&world, &claim, &good, &stranger).await, "in the node's name");
        let own = Receipt { node: stranger.public_key().key_id(), ..good };
        assert!(!takes(&world, &claim, &own, &stranger).await, "in its own name");
    }

    /// A node whose key was stolen can sign everything, and nothing of it is proof from then on.
    #[tokio::test]
    async fn a_delivery_by_a_node_that_was_compromised_is_none() {
        let mut world = fixture::world();
        let next = SigningKey::from_seed(&SecretKey::filled(|bytes| bytes.fill(77))).unwrap();
        let mut draft = DocumentDraft::of(world.view.newest());
        (draft.nodes[0].state, draft.nodes[0].since_ms) = (NodeState::Compromised, 5);
        draft.nodes.push(Node { key: next.public_key().clone(), state: NodeState::Active, since_ms: 5 });
        let payload = world.view.next_document(&draft).unwrap();
        let document = sign_in_memory(&payload, &[world.alice.identity.signing_key().unwrap()]).unwrap();
        world.view.push(&document).unwrap();
        let claim = Claim::of_nothing(&slip(&world)).unwrap();
        let good = opened(&world, &claim);
        assert!(!takes(&world, &claim, &good, &world.node).await);
        assert!(takes(&world, &claim, &Receipt { at_ms: 4, ..good.clone() }, &world.node).await, "before it was");
        let node = next.public_key().key_id();
        assert!(takes(&world, &claim, &Receipt { node, doc: 2, ..good }, &next).await, "by the next one");
    }

    /// Whoever claims what is not for him loses it for whom it is, or is alarmed about.
    #[tokio::test]
    async fn nothing_is_claimed_that_is_for_somebody_else() {
        let world = fixture::world();
        let client = bob(&world);
        let of = |person: &fixture::Person| Addressee {
            principal: person.record.principal(),
            record_sha256: person.record.digest(),
            recipients: person.identity.recipients().iter().map(|recipient| recipient.digest()).collect(),
        };
        let to = |to: Vec<Addressee>| Statement { to, ..statement(b"file") };
        let both = to(vec![of(&world.alice), of(&world.bob)]);
        let mine = client.check_addressed(&both).await.unwrap();
        assert_eq!(mine.principal, world.bob.record.principal());
        let refused = to(vec![of(&world.alice)]);
        let refused = client.check_addressed(&refused).await.unwrap_err();
        assert!(matches!(refused, ClientError::Input { .. }), "{refused}");
        // For Bob by name, and by the keys of somebody else.
        let keys = Addressee { record_sha256: world.alice.record.digest(), ..of(&world.bob) };
        let refused = to(vec![keys]);
        let refused = client.check_addressed(&refused).await.unwrap_err();
        assert!(matches!(refused, ClientError::Untrusted(_)), "{refused}");
    }

    /// What is not as its writer signed it is told as that, and nothing of it reaches the output, opened or not.
    #[tokio::test]
    async fn content_that_is_another_is_not_written() {
        let world = fixture::world();
        let client = bob(&world);
        let (own, others) = (world.bob.identity.recipients(), world.alice.identity.recipients());
        let bound = binding_of(&statement(b""));
        let elsewhere = Binding { wrap: WrapId::new([9; 16]), ..bound.clone() };
        let sealed = |to, binding: Option<&Binding>| envelope::seal(to, binding, b"content").unwrap();
        let good = sealed(own, Some(&bound));
        let (mut altered, both) = (good.clone(), [OpenedAs::Content, OpenedAs::AgeFile]);
        *altered.last_mut().unwrap() ^= 1;
        for opened_as in both {
            let mut output = MemoryOutput::new();
            client.receive(&statement(&good), opened_as, &good, &mut output).await.unwrap();
            assert_eq!(output.content() == b"content", opened_as == OpenedAs::Content);
        }
        let (moved, unbound, other) = (sealed(own, Some(&elsewhere)), sealed(own, None), sealed(others, Some(&bound)));
        let (content, as_it_is) = (&both[..1], &both[..]);
        for (what, stated, file, how) in [
            ("another file", &good, &altered, as_it_is),
            ("another wrap's", &moved, &moved, as_it_is),
            ("nobody's", &unbound, &unbound, as_it_is),
            ("altered before it was signed", &altered, &altered, content),
            ("to somebody else", &other, &other, content),
        ] {
            for opened_as in how {
                let mut output = MemoryOutput::new();
                let error = client.receive(&statement(stated), *opened_as, file, &mut output).await.unwrap_err();
                assert!(matches!(error, ClientError::Tampered { .. }), "{what}: {error}");
                assert!(output.content().is_empty(), "{what}");
            }
        }
    }

    /// A full disk is not the writer's fault: a report would be final, and nobody would get the content any more.
    #[tokio::test]
    async fn an_output_that_fails_is_not_reported_as_bad_content() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        impl Output for Full {
            fn commit(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let world = fixture::world();
        let client = bob(&world);
        let bound = binding_of(&statement(b""));
        let file = envelope::seal(world.bob.identity.recipients(), Some(&bound), b"content").unwrap();
        for opened_as in [OpenedAs::Content, OpenedAs::AgeFile] {
            let error = client.receive(&statement(&file), opened_as, &file, &mut Full).await.unwrap_err();
            let full = matches!(&error, ClientError::Io { cause, .. } if cause.kind() == io::ErrorKind::StorageFull);
            assert!(full, "{error:?}");
        }
    }
}
