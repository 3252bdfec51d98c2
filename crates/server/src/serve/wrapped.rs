//! A read whose answer goes to somebody else (`spec/wrap.md`): encrypted to one principal, as the content of a wrap that
//! the caller is about to make and cannot open, with the node's word on where it is from.

use crate::node::Node;
use crate::reply::internal;
use crate::route::{Endpoint, Matched, Query, ReplyKind};
use bulla_core::action::{Action, Resource};
use bulla_core::audit::Names;
use bulla_core::directory::{Directory, Principal};
use bulla_core::operation::Refusal;
use bulla_crypto::digest::sha256;
use bulla_crypto::envelope::{self, Binding};
use bulla_crypto::evidence::sign_in_memory;
use bulla_crypto::recipient::Recipient;
use bulla_crypto::secret::SecretBytes;
use bulla_wire::api::Kv;
use bulla_wire::error::Code;
use bulla_wire::id::{ClusterId, Digest, PrincipalId, WrapId};
use bulla_wire::json::{self, MAX_JSON_BYTES, V1};
use bulla_wire::name::Name;
use bulla_wire::wrap::{Addressee, Ciphertext, Origin, Parcel, to_lines};
use std::collections::HashSet;

/// Who gets an answer in place of the caller.
#[derive(Debug)]
pub struct WrapTo {
    wrap: WrapId,
    to: Addressee,
    recipients: Vec<Recipient>,
    endpoint: Endpoint,
    action: Action,
    resource: Resource,
}

impl WrapTo {
    /// Reads it from the query, if it is asked for.
    ///
    /// # Errors
    /// Half of it, a name that nobody has, and somebody who could open nothing.
    pub fn of(matched: &Matched<'_>, query: &Query, directory: &Directory) -> Result<Option<Self>, Refusal> {
        if matched.route.reply != ReplyKind::Secret {
            return Ok(None);
        }
        let malformed = |field: &'static str, message: &str| Refusal::new(Code::Malformed, message).field(field);
        let (name, wrap) = match (query.get("wrap_to"), query.get("wrap")) {
            (None, None) => return Ok(None),
            (Some(name), Some(wrap)) => (name, wrap),
            _ => {
                let refusal = malformed("wrap_to", "wrap_to names a principal and wrap a new wrap: one is missing");
                return Err(refusal.hint("draw a wrap id, and give both"));
            }
        };
        let wrap =
            wrap.parse().map_err(|_| malformed("wrap", "no wrap id").hint("26 characters of lower-case base32"))?;
        let known = name.parse::<Name>().ok().and_then(|name| directory.by_name(&name).cloned());
        let nobody = |why: String, hint: &str| Refusal::new(Code::UnknownRecipient, why).field("wrap_to").hint(hint);
        let Some(principal) = known else {
            return Err(nobody(format!("there is no principal {name}"), "`bulla principal list` shows whom there is"));
        };
        if !principal.may_sign() {
            return Err(nobody(format!("{name} is disabled"), "choose another reader"));
        }
        let (to, recipients) = addressee(&principal);
        let Some(action) = matched.route.action.filter(|_| !recipients.is_empty()) else {
            let refusal = Refusal::new(Code::UnknownRecipient, format!("the record of {name} lists no recipient"));
            return Err(refusal.field("wrap_to").hint("it needs a key that decrypts"));
        };
        let (endpoint, resource) = (matched.route.endpoint, matched.resource());
        Ok(Some(Self { wrap, to, recipients, endpoint, action, resource }))
    }

    /// Whether it is still for whom it was when the request came: the request may have waited.
    ///
    /// # Errors
    /// Why not.
    pub fn holds(&self, directory: &Directory) -> Result<(), Refusal> {
        let same = |principal: &Principal| principal.may_sign() && principal.record_sha256 == self.to.record_sha256;
        if directory.by_id(&self.to.principal).is_some_and(|principal| same(principal)) {
            return Ok(());
        }
        let refusal = Refusal::new(Code::UnknownRecipient, "who is to read it was disabled or rotated meanwhile");
        Err(refusal.field("wrap_to").hint("ask again"))
    }

    /// As the audit log tells it.
    pub fn told(&self, names: &Names) -> bulla_core::audit::WrapTo {
        let resource = names.resource(&Resource::Wrap(self.wrap));
        bulla_core::audit::WrapTo { resource, principal: self.to.principal }
    }

    /// The answer: what the node says of it, and the age file.
    ///
    /// # Errors
    /// If the content is sealed to readers, whom nobody here can add to.
    pub fn seal(
        &self,
        node: &Node,
        cluster: ClusterId,
        doc: u32,
        from: PrincipalId,
        body: &SecretBytes,
        id: &str,
    ) -> Result<Vec<u8>, Refusal> {
        let content = self.content(body)?;
        let binding = Binding {
            wrap: self.wrap,
            cluster,
            from,
            to_sha256: Digest::new(sha256(&[to_lines(std::slice::from_ref(&self.to)).as_bytes()])),
        };
        let file =
            envelope::seal(&self.recipients, Some(&binding), content.expose()).map_err(|error| internal(&error, id))?;
        let origin = Origin {
            v: V1,
            cluster,
            node: node.parts.key.public_key().key_id(),
            wrap: self.wrap,
            from,
            to: self.to.principal,
            action: self.action.as_str().to_owned(),
            resource: self.resource.to_string(),
            ct: Ciphertext {
                sha256: Digest::new(sha256(&[&file])),
                len: u64::try_from(file.len()).unwrap_or(u64::MAX),
            },
            at_ms: node.now_ms(),
            doc,
        };
        let signed = sign_in_memory(&origin, &[&node.parts.key]).map_err(|error| internal(&error, id))?;
        let mut parcel = Parcel::head(&json::to_vec(&signed));
        parcel.extend_from_slice(&file);
        Ok(parcel)
    }

    /// What the recipient finds: of a secret its fields or bytes, as in any wrap; else the answer as it is.
    fn content(&self, body: &SecretBytes) -> Result<SecretBytes, Refusal> {
        if self.endpoint != Endpoint::KvGet {
            return Ok(body.copy());
        }
        let parsed = json::parse_secret::<Kv>(body.expose(), MAX_JSON_BYTES * 2, &["data", "bytes"]).ok();
        match parsed {
            Some(Kv { data: Some(data), .. }) => Ok(SecretBytes::new(json::to_vec(&data))),
            Some(Kv { bytes: Some(bytes), .. }) => Ok(SecretBytes::new(bytes.0)),
            _ => {
                let refusal =
                    Refusal::new(Code::Malformed, "the secret is sealed to its readers, and cannot be read here");
                Err(refusal.field("wrap_to").hint("a reader adds others with `bulla kv share`"))
            }
        }
    }
}

fn addressee(principal: &Principal) -> (Addressee, Vec<Recipient>) {
    let mut seen = HashSet::new();
    let all = principal.keys.iter().flat_map(|key| key.reply_to());
    let recipients: Vec<Recipient> = all.filter(|recipient| seen.insert(recipient.digest())).cloned().collect();
    let to = Addressee {
        principal: principal.subject.id,
        record_sha256: principal.record_sha256,
        recipients: recipients.iter().map(Recipient::digest).collect(),
    };
    (to, recipients)
}
