//! The routes, one method each. Routes that need more than a request and an answer have modules of their own.

use crate::answer::{OpenRequest, refused, verify_open};
use crate::builder::Client;
use crate::call::{Call, CallBody};
use crate::error::{ClientError, GENESIS, Untrusted};
use bulla_crypto::digest::sha256;
use bulla_crypto::evidence::{self, ClusterView, EvidenceError::TooFewAdmins, payload_digest};
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::{
    Alarms, AuditPage, CheckPolicy, ExplainPolicy, Health, NextIngress, Policies, Policy, PolicyDecision,
    PolicyExplanation, Principal, Principals, PutPolicy, RecoverPolicies, ReplacedPolicies, Seal, SealState,
    SeenAlarms, Signed, Whoami, WrapView, Wraps,
};
use bulla_wire::dsse::Envelope;
use bulla_wire::error::Code;
use bulla_wire::evidence::{Document, PolicyRecovery};
use bulla_wire::id::{Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, MAX_JSON_BYTES, V1};
use bulla_wire::name::Name;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// Largest page of an audit log or listing in bytes: a thousand lines of a few kilobytes.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Which lines of the audit log are wanted; all of them by default.
#[derive(Debug, Clone, Default)]
pub struct AuditOf {
    /// About this resource, such as `kv/app/db`.
    pub resource: Option<String>,
    /// By this principal.
    pub principal: Option<String>,
    /// Of this action, such as `kv.get`.
    pub action: Option<String>,
}

impl Client {
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        self.call(call).await?.json()
    }

    /// A call whose body goes to the ingress key.
    pub(crate) async fn to_ingress<T: DeserializeOwned>(
        &self,
        body: &SecretBytes,
        call: impl Fn(CallBody) -> Call,
    ) -> Result<T, ClientError> {
        match self.json(call(CallBody::Ingress(body.copy()))).await {
            // Refused before any effect, so it may be sent anew to the key of the newest document.
            Err(error) if error.proven() == Some(Code::IngressChanged) => {
                self.cluster().await?;
                self.json(call(CallBody::Ingress(body.copy()))).await
            }
            other => other,
        }
    }

    /// A call whose answer says nothing more than that it was done.
    async fn done(&self, call: Call) -> Result<(), ClientError> {
        self.call(call).await.map(drop)
    }

    /// Whether the node serves, and whether a node of the pinned cluster said so. Needs no identity. While the pinned
    /// admins have not approved their new cluster yet, nobody can say so that it is sealed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn health(&self) -> Result<(Health, bool), ClientError> {
        let request = OpenRequest { method: "GET", path: "/v1/health", query: "", limit: MAX_JSON_BYTES };
        let received = self.exchange_open(&request).await?;
        let Ok(health) = json::parse::<Health>(&received.body, MAX_JSON_BYTES) else {
            return Err(refused(&received, false));
        };
        if health.state == SealState::Uninitialised || self.0.pin.is_none() {
            return Ok((health, false));
        }
        let view = match self.view().await {
            Err(ClientError::Untrusted(Untrusted::Statement { what: GENESIS, cause: TooFewAdmins { .. } }))
                if health.state == SealState::Sealed =>
            {
                // Its admins are about to unseal it first, and until then there is nothing to verify it by.
                return Ok((health, false));
            }
            view => view?,
        };
        let verified = verify_open(&request, &received, |key| view.active_node(key).cloned());
        if verified.is_err() {
            // A node that joined since is in a newer document.
            let view = self.cluster().await?.view;
            verify_open(&request, &received, |key| view.active_node(key).cloned())?;
        }
        Ok((health, true))
    }

    /// Who the caller is to the cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn whoami(&self) -> Result<Whoami, ClientError> {
        self.json(Call::read("/v1/whoami")).await
    }

    /// A page of the principals, by name, or those with an id or a recipient's digest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn principals(
        &self,
        id: Option<&PrincipalId>,
        recipient: Option<&Digest>,
        after: Option<&str>,
        limit: Option<u32>,
    ) -> Result<Principals, ClientError> {
        let call = Call { limit: MAX_PAGE_BYTES, ..Call::read("/v1/principal") };
        let call = call.with("id", id).with("recipient", recipient).with("after", after).with("limit", limit);
        self.json(call).await
    }

    /// What the server holds about a name. [`Client::resolve`] also verifies it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn principal(&self, name: &Name) -> Result<Principal, ClientError> {
        self.json(Call { limit: MAX_PAGE_BYTES, ..Call::read(format!("/v1/principal/{name}")) }).await
    }

    /// Has the server refuse a principal's keys, all generations of them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn principal_disable(&self, name: &Name) -> Result<(), ClientError> {
        let path = format!("/v1/principal/{name}");
        self.done(Call { method: "DELETE", changes: true, ..Call::read(path) }).await
    }

    /// Has the server take them again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn principal_enable(&self, name: &Name) -> Result<(), ClientError> {
        self.done(Call::action(format!("/v1/principal/{name}:enable"))).await
    }

    /// All policies.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policies(&self) -> Result<Policies, ClientError> {
        self.json(Call { limit: MAX_PAGE_BYTES, ..Call::read("/v1/policy") }).await
    }

    /// One policy.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy(&self, name: &Name) -> Result<Policy, ClientError> {
        self.json(Call::read(format!("/v1/policy/{name}"))).await
    }

    /// Stores a policy.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy_put(&self, name: &Name, body: &PutPolicy) -> Result<Policy, ClientError> {
        self.json(Call::change("PUT", format!("/v1/policy/{name}"), body)).await
    }

    /// Removes a policy.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy_delete(&self, name: &Name) -> Result<(), ClientError> {
        self.done(Call { method: "DELETE", changes: true, ..Call::read(format!("/v1/policy/{name}")) }).await
    }

    /// Asks whether somebody may do something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy_check(&self, body: &CheckPolicy) -> Result<PolicyDecision, ClientError> {
        let call = Call::change("POST", "/v1/policy:check", body);
        self.json(Call { changes: false, ..call }).await
    }

    /// The approval of a new policy set (JSON text), signed by the caller. Other admins add their signatures with
    /// [`bulla_crypto::dsse::add_signature`] within ten minutes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy_recovery_sign(&self, policies: &str) -> Result<Envelope, ClientError> {
        let cluster = self.view().await?.id();
        let ReplacedPolicies { sha256: replaces } = self.json(Call::read("/v1/policy:recover")).await?;
        let policies_sha256 = Digest::new(sha256(&[policies.as_bytes()]));
        let recovery = PolicyRecovery { v: V1, cluster, policies_sha256, replaces, at_ms: crate::call::now_ms() };
        Ok(evidence::sign(&recovery, &[&**self.key()?]).await?)
    }

    /// Why an earlier request was allowed or denied.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy_explain(&self, id: &str) -> Result<PolicyExplanation, ClientError> {
        let call = Call::change("POST", "/v1/policy:explain", &ExplainPolicy { id: id.to_owned() });
        self.json(Call { changes: false, ..call }).await
    }

    /// Replaces the whole policy set by k admins' word.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn policy_recover(&self, policies: String, approval: Envelope) -> Result<(), ClientError> {
        self.done(Call::change("POST", "/v1/policy:recover", &RecoverPolicies { policies, approval })).await
    }

    /// A page of the audit log.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn audit(&self, after: Option<&str>, limit: Option<u32>, of: &AuditOf) -> Result<AuditPage, ClientError> {
        let AuditOf { resource, principal, action } = of;
        let call = Call { limit: MAX_PAGE_BYTES, ..Call::read("/v1/audit") }.with("after", after).with("limit", limit);
        let call = call.with("resource", resource.as_ref()).with("principal", principal.as_ref());
        self.json(call.with("action", action.as_ref())).await
    }

    /// A page of the caller's alarms: those not marked as seen, or with `all` every one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn alarms(&self, after: Option<&str>, limit: Option<u32>, all: bool) -> Result<Alarms, ClientError> {
        let call = Call { limit: MAX_PAGE_BYTES, ..Call::read("/v1/alarms") };
        self.json(call.with("after", after).with("limit", limit).with("all", all.then_some("true"))).await
    }

    /// Marks the caller's alarms as seen up to the one with this id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn alarms_seen(&self, up_to: &str) -> Result<(), ClientError> {
        self.done(Call::change("POST", "/v1/alarms:seen", &SeenAlarms { up_to: up_to.to_owned() })).await
    }

    /// The seal as the admins made it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn seal_status(&self) -> Result<Seal, ClientError> {
        self.json(Call::read("/v1/seal").of_seal()).await
    }

    /// Drops all keys from the node's memory.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn seal(&self) -> Result<(), ClientError> {
        self.done(Call::action("/v1/seal:seal").of_seal()).await
    }

    /// Tells the cluster that its clock is right after a step.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn seal_confirm_clock(&self) -> Result<(), ClientError> {
        self.done(Call::action("/v1/seal:confirm-clock")).await
    }

    /// Hands in a consent.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn consent_send(&self, envelope: Envelope) -> Result<(), ClientError> {
        // By it the cluster goes on without documents that are known here, so the node is believed by those that it shows.
        let view = Some(Box::pin(self.shown()).await?.view);
        let call = Call::change("POST", "/v1/seal:consent", &Signed { envelope }).of_seal();
        self.done(Call { view, ..call }).await
    }

    /// The ingress key that the next document must name if it changes the seal: the same until one does.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Input`] if what came is weaker than the cluster takes.
    pub async fn next_ingress(&self) -> Result<Recipient, ClientError> {
        let NextIngress { ingress } = self.json(Call::action("/v1/seal:rekey")).await?;
        match ingress.parse::<Recipient>() {
            Ok(recipient) if recipient.is_hybrid() => Ok(recipient),
            _ => Err(ClientError::input(
                "the server named no hybrid ingress key",
                "no share may lie under a weaker key: update the server",
            )),
        }
    }

    /// The next document, signed by the caller. Other admins add their signatures.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn document_sign(&self, document: &Document) -> Result<Envelope, ClientError> {
        Ok(evidence::sign(document, &[&**self.key()?]).await?)
    }

    /// The newest documents to be had, to build the next one on: also from a node that none of them names, whose key
    /// may be about to enter, and without any answer those that are known here.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn view_to_build_on(&self) -> Result<Arc<ClusterView>, ClientError> {
        match self.cluster().await {
            Ok(facts) => facts.whole().cloned(),
            Err(ClientError::Unreachable { .. } | ClientError::Untrusted(Untrusted::Signature(_))) => self.view().await,
            Err(error) => Err(error),
        }
    }

    /// Hands in the next document. It is verified here first, so that a mistake is told before it travels. The node
    /// that takes it is believed by this document: k admins signed it, and a node's new key may enter by it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn document_put(&self, envelope: Envelope) -> Result<(), ClientError> {
        // It follows what the cluster has, and after a restore that may be less than is known here.
        let view = Box::pin(self.shown_to_build_on()).await?;
        if view.newest().digest() == payload_digest(&envelope) {
            // Documents prove themselves, and that the cluster has them does not: a node says so.
            return Box::pin(self.shown()).await.map(drop);
        }
        let mut next = ClusterView::clone(&view);
        next.push(&envelope).map_err(|error| {
            let hint = match error {
                TooFewAdmins { .. } => "another admin signs it first: `bulla document sign FILE`",
                _ => "make it from the newest document, and have k admins sign it",
            };
            ClientError::input(format!("the document does not hold: {error}"), hint)
        })?;
        let call = Call::change("POST", "/v1/document", &Signed { envelope }).of_seal();
        self.done(Call { view: Some(Arc::new(next)), ..call }).await?;
        // It holds, whatever comes of looking at it.
        drop(Box::pin(self.cluster()).await);
        Ok(())
    }

    /// A page of the caller's wraps, sent and received.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wraps(&self, after: Option<&str>, limit: Option<u32>) -> Result<Wraps, ClientError> {
        let call = Call { limit: MAX_PAGE_BYTES, ..Call::read("/v1/wrap") };
        self.json(call.with("after", after).with("limit", limit)).await
    }

    /// A wrap as one of its parties sees it. [`Client::wrap_inspect`] also verifies it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wrap_view(&self, wrap: &WrapId) -> Result<WrapView, ClientError> {
        self.json(Call { limit: MAX_PAGE_BYTES, ..Call::read(format!("/v1/wrap/{wrap}")) }).await
    }
}
