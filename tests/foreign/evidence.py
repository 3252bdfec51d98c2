"""Signed statements (spec/evidence.md, wrap.md). Ed25519 keys only; limits are left to the server."""

import base64
import json

from agefile import demand, digest, from_base64
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

FIELDS = {
    "principal": "name version prev keys",
    "document": "name cluster number prev random records admins mode k enrollers nodes ingress min_kem",
    "admission": "scope principal name version record_sha256 groups attributes serial doc",
    "wrap": "cluster wrap from to mode ct nbf_ms exp_ms ack_s",
    "receipt": "cluster node kind wrap slot statement_sha256 actor claim_sha256 at_ms doc epoch lineage prev",
}


def load_keys(holders, field):
    """The public keys of a list, by id."""
    ders = [from_base64(holder["spki"], b"-_") for holder in holders]
    keys = {digest(der): load_der_public_key(der) for der in ders}
    demand(keys, f"rule {field}")
    demand(len(keys) == len(ders), f"rule {field}.spki")
    demand(all(isinstance(key, Ed25519PublicKey) for key in keys.values()), "key")
    return keys


def signed_bytes(media_type, payload):
    return f"DSSEv1 {len(media_type)} {media_type} {len(payload)} ".encode() + payload


def sign(media_type, fields, identity):
    payload = json.dumps(fields).encode()
    signature = base64.b64encode(identity.signing.sign(signed_bytes(media_type, payload))).decode()
    signatures, payload = [{"keyid": identity.key_id, "sig": signature}], base64.b64encode(payload).decode()
    return {"payloadType": media_type, "payload": payload, "signatures": signatures}


class Statement:
    """A DSSE envelope whose payload has its fields. It is believed only once its signers are."""
    def __init__(self, envelope, kind):
        payload = base64.b64decode(envelope["payload"], validate=True)
        demand(envelope["payloadType"] == f"application/vnd.bulla.{kind}.v1+json", "payload")
        self.message, self.digest = signed_bytes(envelope["payloadType"], payload), digest(payload)
        self.fields, self.signatures = json.loads(payload), envelope["signatures"]
        demand(isinstance(self.fields, dict), "payload")
        demand(self.fields.pop("v", 0) == 1, "payload")
        demand(self.fields.keys() - {"label"} == {*FIELDS[kind].split()}, "payload")

    def signers(self, keys):
        """Which of these keys signed. Signatures by others are passed over."""
        known = [signature for signature in self.signatures if signature["keyid"] in keys]
        for signature in known:
            keys[signature["keyid"]].verify(base64.b64decode(signature["sig"], validate=True), self.message)
        return {signature["keyid"] for signature in known}

    def demand_signer(self, keys):
        demand(len(self.signatures) == 1, "rule signatures")
        demand(self.signers(keys), "no_known_key")

    def demand_fields(self, **expected):
        for name, value in expected.items():
            demand(self.fields[name] == value, f"rule {name}")


class Record(Statement):
    """A principal's record; `earlier` has records by digest, among them the one before this."""
    def __init__(self, envelope, earlier):
        super().__init__(envelope, "principal")
        version, prev, keys = self.fields["version"], self.fields["prev"], self.fields["keys"]
        demand(version >= 1, "rule version")
        self.keys = load_keys(keys, "keys")
        self.recipients = list(dict.fromkeys(text for key in keys for text in key["recipients"]))
        demand(version == 1 or earlier, "previous_needed")
        demand(prev in earlier if version > 1 else prev is None, "rule prev")
        previous = earlier[prev] if prev else self
        signers = self.signers(previous.keys | self.keys)
        demand(signers, "no_known_key")
        demand(signers >= self.keys.keys(), "not_signed_by")
        demand(signers & previous.keys.keys(), "rule signatures")
        self.principal = previous.principal if prev else self.digest
        self.demand_fields(name=previous.fields["name"], version=previous.fields["version"] + bool(prev))


def read_records(envelopes):
    """All records of a principal, version 1 first."""
    records = []
    for envelope in envelopes:
        records.append(Record(envelope, {record.digest: record for record in records[-1:]}))
        records[-1].demand_fields(version=len(records))
    demand(records, "rule records")
    return records


class Document(Statement):
    """A cluster document, judged by the one before. Genesis has none: its digest is the pin."""
    def __init__(self, envelope, previous=None):
        super().__init__(envelope, "document")
        self.demand_fields(number=previous.fields["number"] + 1 if previous else 0)
        self.demand_fields(cluster=previous and previous.scopes[0], prev=previous and previous.digest)
        self.demand_fields(random=(previous or self).fields["random"])
        earlier = {record.digest: record for record in previous.records.values()} if previous else {}
        standing = [earlier.get(Statement(each, "principal").digest) for each in self.fields["records"]]
        records = [old or Record(each, earlier) for old, each in zip(standing, self.fields["records"])]
        self.records = {record.principal: record for record in records}
        demand(self.records.keys() == {*self.fields["admins"], *self.fields["enrollers"]}, "rule records")
        owned = [each for old in records for each in (old.fields["name"], *old.keys, *old.recipients)]
        demand(len(owned) == len(set(owned)), "rule records")
        self.nodes = load_keys(self.fields["nodes"], "nodes")
        self.states = dict(zip(self.nodes, self.fields["nodes"]))
        demand(any(node["state"] == "active" for node in self.states.values()), "rule nodes")
        if not previous:
            demand(not self.signatures, "rule signatures")
            key_ids = sorted(key_id for admin in self.fields["admins"] for key_id in self.records[admin].keys)
            text = "".join(["admins:", *(f"{key_id}\n" for key_id in key_ids), str(self.fields["k"])])
            self.scopes, self.founders = (self.digest, "admins:" + digest(text.encode())), set(key_ids)
        else:
            self.scopes, self.founders = previous.scopes, previous.founders
            demand(previous.nodes.keys() <= self.nodes.keys(), "rule nodes")
            admins = [previous.records[admin].keys for admin in previous.fields["admins"]]
            demand(sum(bool(self.signers(keys)) for keys in admins) >= previous.fields["k"], "too_few_admins")


def read_admission(envelope, records, newest):
    """An enroller's word that these are the records of this principal and name."""
    admission, record = Statement(envelope, "admission"), records[-1]
    enrollers = [newest.records[principal].keys for principal in newest.fields["enrollers"]]
    keys = {key_id: key for keys in enrollers for key_id, key in keys.items()}
    admission.demand_signer(keys)
    demand(admission.fields["scope"] in newest.scopes, "rule scope")
    here = admission.fields["scope"] == newest.scopes[0]
    demand(here or admission.signers(keys) <= newest.founders, "rule signatures")
    admission.demand_fields(principal=record.principal, record_sha256=record.digest)
    admission.demand_fields(name=record.fields["name"], version=record.fields["version"])
    demand(not here or admission.fields["doc"] <= newest.fields["number"], "document_ahead")


def read_wrap(envelope, cluster, writer):
    """A wrap's statement, signed with a key of any of its writer's records."""
    wrap = Statement(envelope, "wrap")
    wrap.demand_signer({key_id: key for record in writer for key_id, key in record.keys.items()})
    wrap.demand_fields(cluster=cluster, **{"from": writer[0].digest})
    return wrap


def read_receipts(envelopes, documents):
    """Receipts of nodes, each after the one before; `proof` is false where the node is not believed."""
    receipts = [Statement(envelope, "receipt") for envelope in envelopes]
    for before, receipt in zip([None, *receipts], receipts):
        fields, node = receipt.fields, receipt.fields["node"]
        receipt.demand_fields(cluster=documents[0].digest)
        demand(since := documents[fields["doc"] :], "document_ahead")
        demand(node in since[0].nodes, "unknown_node")
        receipt.demand_signer({node: since[0].nodes[node]})
        states = [document.states[node] for document in since]
        lost = any(each["state"] == "compromised" and each["since_ms"] <= fields["at_ms"] for each in states)
        receipt.proof = states[0]["state"] == "active" and not lost
        demand((fields["prev"] is None) == (fields["kind"] == "created"), "rule prev")
        if before:
            same = {name: before.fields[name] for name in ("wrap", "statement_sha256")}
            receipt.demand_fields(prev=before.digest, **same)
            demand(before.fields["kind"] == "created" or before.fields["slot"] == fields["slot"], "rule slot")
    demand(len(receipts) < 2 or receipts[0].fields["kind"] == "created", "rule kind")
    return receipts
