"""What is signed, and whether it holds (spec/README.md, evidence.md, wrap.md)."""
import hashlib, json, re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from agefile import Refused, b64, hybrid, need, unb64

# ---- README.md: spelling -------------------------------------------------------------------------

def digest(*parts):
    joined = b"".join(p.encode() if isinstance(p, str) else p for p in parts)
    return "sha256:" + b64(hashlib.sha256(joined).digest(), url=True, pad=False)


def bare(name):
    """The 43 characters of a digest."""
    need(re.fullmatch(r"sha256:[A-Za-z0-9_-]{43}", name), f"no digest: {name}")
    return name[7:]


def strict(text, what):
    """JSON without duplicate names and without fractions."""
    def pairs(items):
        need(len({k for k, _ in items}) == len(items), f"{what}: a field twice")
        return dict(items)

    def no(value):
        raise Refused(f"{what}: {value}")
    try:
        return json.loads(text, object_pairs_hook=pairs, parse_float=no, parse_constant=no)
    except ValueError:
        raise Refused(f"{what}: no JSON") from None


NULL = type(None)


def shape(value, what, /, **types):
    """Exactly these fields of these types; one that may be None may be missing."""
    need(type(value) is dict and not set(value) - set(types), f"{what}: unknown field")
    for name, wanted in types.items():
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        need(type(value.get(name)) in wanted, f"{what}: {name}")
        need(wanted != (int,) or value[name] >= 0, f"{what}: {name}")
    return value


# ---- evidence.md ---------------------------------------------------------------------------------

def spki(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key(text):
    """(key id, key) of an spki field."""
    der = unb64(text, url=True, pad=False)
    try:
        key = serialization.load_der_public_key(der)
    except ValueError:
        raise Refused("key") from None
    known = isinstance(key, (ed25519.Ed25519PublicKey, rsa.RSAPublicKey)) or \
        isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size in (256, 384)
    need(known and spki(key) == der, "key")
    return digest(der), key


def verifies(key, signature, message):
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PSS(padding.MGF1(hashes.SHA512()), 64), hashes.SHA512())
        else:
            half = key.curve.key_size // 8
            need(len(signature) == 2 * half, "signature")
            r, s = (int.from_bytes(x, "big") for x in (signature[:half], signature[half:]))
            key.verify(utils.encode_dss_signature(r, s), message,
                       ec.ECDSA(hashes.SHA256() if half == 32 else hashes.SHA384()))
        return True
    except InvalidSignature:
        return False


def media(kind):
    return f"application/vnd.bulla.{kind}.v1+json"


class Signed:
    """A DSSE envelope: its payload, its digest, and who signed it."""
    def __init__(self, envelope, kind, /, **types):
        shape(envelope, kind, payloadType=str, payload=str, signatures=list)
        need(envelope["payloadType"] == media(kind), f"not a {kind}")
        raw = unb64(envelope["payload"])
        need(len(raw) <= 196608, f"{kind}: too large")
        self.body = shape(strict(raw, kind), kind, v=int, **types)
        need(self.body["v"] == 1, f"{kind}: v")
        self.sha = digest(raw)
        self.signatures = [shape(s, kind, keyid=str, sig=str) for s in envelope["signatures"]]
        self.message = f"DSSEv1 {len(media(kind))} {media(kind)} {len(raw)} ".encode() + raw

    def by(self, keys):
        """The ids among `keys` ({id: key}) that signed."""
        return {s["keyid"] for s in self.signatures
                if s["keyid"] in keys and verifies(keys[s["keyid"]], unb64(s["sig"]), self.message)}

    def by_one(self, keys, what):
        need(len(self.signatures) == 1 and self.by(keys), what)
        return self.signatures[0]["keyid"]


def sign(identity, kind, body):
    raw = json.dumps(body, separators=(",", ":")).encode()
    message = f"DSSEv1 {len(media(kind))} {media(kind)} {len(raw)} ".encode() + raw
    return {"payloadType": media(kind), "payload": b64(raw),
            "signatures": [{"keyid": identity.key_id, "sig": identity.signature(message)}]}, digest(raw)


NAME = r"[A-Za-z0-9._~@+=-]{1,128}"


class Record(Signed):
    def __init__(self, envelope):
        super().__init__(envelope, "principal", name=str, version=int, prev=(str, NULL), keys=list)
        self.name, self.version, self.prev = (self.body[x] for x in ("name", "version", "prev"))
        need(re.fullmatch(NAME, self.name) and self.version >= 1, "record: name or version")
        need((self.prev is None) == (self.version == 1), "record: prev")
        self.keys, self.recipients = {}, []
        for key in self.body["keys"]:
            shape(key, "record", spki=str, recipients=list, dual_use=bool)
            key_id, public = public_key(key["spki"])
            need(key_id not in self.keys and 1 <= len(key["recipients"]) <= 8, "record: keys")
            self.keys[key_id] = public
            need(len(set(key["recipients"])) == len(key["recipients"]), "record: a recipient twice")
            self.recipients += [r for r in key["recipients"] if r not in self.recipients]
        need(1 <= len(self.keys) <= 8, "record: keys")
        need(len({hybrid(r) for r in self.recipients}) == 1, "record: hybrid and classical")
        need(self.by(self.keys) == set(self.keys), "record: not signed by all its keys")

    def follows(self, before):
        need(self.prev == before.sha and self.version == before.version + 1 and self.name == before.name
             and self.by(before.keys), "record: does not follow the one before")
        return self


def chain(envelopes):
    """All records of a principal, version 1 first; its id is the digest of the first."""
    records = [Record(e) for e in envelopes]
    need(records and records[0].version == 1, "records: version 1 is missing")
    return [records[0]] + [b.follows(a) for a, b in zip(records, records[1:])]


class Document(Signed):
    def __init__(self, envelope, before=None, held=()):
        super().__init__(envelope, "document", name=str, cluster=(str, NULL), number=int, prev=(str, NULL), random=str,
                         records=list, admins=list, mode=str, k=int, enrollers=list, nodes=list, ingress=str, min_kem=str)
        self.__dict__.update(self.body)
        self.principals = {}
        older = {r.sha: (p, r) for p, r in before.principals.items()} if before else {}
        older.update({r.sha: (records[0].sha, r) for records in held for r in records})
        for record in map(Record, self.records):
            if record.version == 1:
                principal = record.sha
            elif record.sha in older:
                principal = older[record.sha][0]
            else:
                need(record.prev in older, f"document: the records of {record.name} before this one are needed")
                principal = older[record.prev][0]
                record.follows(older[record.prev][1])
            need(principal not in self.principals, "document: records")
            self.principals[principal] = record
        people = list(self.principals.values())
        need(set(self.principals) == {*self.admins, *self.enrollers}, "document: records")
        need(len({r.name for r in people}) == len(people), "document: two of one name")
        need(sum(len(r.keys) for r in people) == len({k for r in people for k in r.keys}), "document: two of one key")
        need(1 <= len(self.admins) <= 16 and len(set(self.admins)) == len(self.admins), "document: admins")
        need(len(set(self.enrollers)) == len(self.enrollers), "document: enrollers")
        need(self.mode == "any" and self.k == 1 or self.mode == "quorum" and 2 <= self.k <= len(self.admins), "document: k")
        need(len(unb64(self.random, url=True, pad=False)) == 32, "document: random")
        self.nodes = {}
        for node in self.body["nodes"]:
            shape(node, "document", spki=str, state=str, since_ms=int)
            key_id, public = public_key(node["spki"])
            need(key_id not in self.nodes and node["state"] in STATES, "document: nodes")
            self.nodes[key_id] = (public, node["state"], node["since_ms"])
        need(any(state == "active" for _, state, _ in self.nodes.values()), "document: no active node")
        texts = [self.ingress] + [r for a in self.admins for r in self.principals[a].recipients]
        need(self.min_kem in ("hybrid", "classical"), "document: min_kem")
        need(all([hybrid(r) for r in texts]) or self.min_kem == "classical", "document: min_kem")
        if before is None:
            need((self.cluster, self.prev, self.number, self.signatures) == (None, None, 0, []), "genesis")
            return
        need(self.number == before.number + 1 and self.prev == before.sha and self.random == before.random
             and self.cluster == (before.cluster or before.sha), "document: does not follow the one before")
        for key_id, (_, state, _) in before.nodes.items():
            need(key_id in self.nodes and STATES[self.nodes[key_id][1]] >= STATES[state], "document: nodes")
        before.by_admins(self)

    def by_admins(self, signed):
        """k admins of this document signed."""
        count = sum(bool(signed.by(self.principals[a].keys)) for a in self.admins)
        need(count >= self.k, "too few admins signed")


STATES = {"active": 0, "retired": 1, "compromised": 2}


def documents(envelopes, pin=None, held=()):
    found = []
    for envelope in envelopes:
        found.append(Document(envelope, found[-1] if found else None, held))
    need(found and pin in (None, found[0].sha), "another cluster than the pinned one")
    return found


def admins_id(genesis):
    ids = sorted(k for a in genesis.admins for k in genesis.principals[a].keys)
    return digest("admins:", "".join(i + "\n" for i in ids), str(genesis.k))


def admission(envelope, docs, records):
    """Groups and serial of a principal; the newest document must know the enroller."""
    newest, record, principal = docs[-1], records[-1], records[0].sha
    if envelope is None:
        need(principal in newest.admins and newest.principals[principal].sha == record.sha, "nobody admitted this record")
        return {"groups": ["admins"], "attributes": {}, "serial": 0}
    signed = Signed(envelope, "admission", scope=str, principal=str, name=str, version=int, record_sha256=str,
                    groups=list, attributes=dict, serial=int, doc=int)
    a = signed.body
    need(a["scope"] in (docs[0].sha, "admins:" + admins_id(docs[0])), "admission: scope")
    need((a["principal"], a["name"], a["version"], a["record_sha256"]) ==
         (principal, record.name, record.version, record.sha), "admission: of another record")
    need(len(set(a["groups"])) == len(a["groups"]) <= 32 and len(a["attributes"]) <= 32, "admission: groups")
    need(a["doc"] <= newest.number, "admission: by a newer document")
    signed.by_one({k: v for e in newest.enrollers for k, v in newest.principals[e].keys.items()}, "admission: signer")
    return a


# ---- wrap.md -------------------------------------------------------------------------------------

def consent(envelope, newest):
    """What k admins of the newest document accepted as lost; no history is named twice."""
    signed = Signed(envelope, "consent", cluster=str, lost=dict, kept=dict, earlier=list)
    lost = [shape(at, "consent", lineage=str, sequence=int)["lineage"] for at in signed.body["earlier"] + [signed.body["lost"]]]
    need(len(lost) <= 2049 and len(set(lost)) == len(lost), "consent: histories")
    newest.by_admins(signed)
    return signed.body


def statement(envelope, cluster, records):
    """A wrap's statement by the principal with these records."""
    signed = Signed(envelope, "wrap", cluster=str, wrap=str, to=list, mode=str, ct=dict, nbf_ms=int, exp_ms=int,
                    ack_s=int, label=(str, NULL), **{"from": str})
    s = signed.body
    need(s["cluster"] == cluster and s["from"] == records[0].sha, "statement: cluster or from")
    for entry in s["to"]:
        shape(entry, "statement", principal=str, record_sha256=str, recipients=list)
        need(0 < len(entry["recipients"]) == len(set(entry["recipients"])), "statement: recipients")
    need(1 <= len(s["to"]) <= 64 and len({e["principal"] for e in s["to"]}) == len(s["to"]), "statement: to")
    shape(s["ct"], "statement", sha256=str, len=int)
    need(re.fullmatch("[a-z2-7]{26}", s["wrap"]) and s["mode"] in ("first", "each"), "statement")
    need(0 < s["ct"]["len"] <= 17039360, "statement: ct")
    need(s["nbf_ms"] < s["exp_ms"] and 10 <= s["ack_s"] <= 86400, "statement: times")
    need(len((s.get("label") or "").encode()) <= 256, "statement: label")
    signed.by_one({k: v for r in records for k, v in r.keys.items()}, "statement: signer")
    return signed


def binding(s):
    """The stanza that ties an envelope to its statement."""
    lines = "".join(f"{bare(e['principal'])} {bare(e['record_sha256'])} {bare(r)}\n" for e in s["to"] for r in e["recipients"])
    return f"bulla-wrap-v1 {s['wrap']} {bare(s['cluster'])} {bare(s['from'])} {bare(digest(lines))}"


def receipt(envelope, docs):
    """A receipt by a node; Refused if it is no proof."""
    signed = Signed(envelope, "receipt", cluster=str, node=str, kind=str, wrap=str, slot=int, statement_sha256=str,
                    actor=(dict, NULL), claim_sha256=(str, NULL), at_ms=int, doc=int, epoch=int, lineage=str, prev=(str, NULL))
    r = signed.body
    need(r["cluster"] == docs[0].sha and r["doc"] < len(docs), "receipt: cluster or doc")
    need((r["prev"] is None) == (r["kind"] == "created"), "receipt: prev")
    need(r["node"] in docs[r["doc"]].nodes, "receipt: unknown node")
    key, state, _ = docs[r["doc"]].nodes[r["node"]]
    signed.by_one({r["node"]: key}, "receipt: signer")
    later = [d.nodes[r["node"]] for d in docs[r["doc"]:]]
    signed.proof = state == "active" and not any(s == "compromised" and since <= r["at_ms"] for _, s, since in later)
    return signed


def parcel(first, rest):
    raw = json.dumps(first, separators=(",", ":")).encode()
    return len(raw).to_bytes(4, "big") + raw + rest


def unparcel(data):
    size = int.from_bytes(data[:4], "big")
    need(4 <= len(data) and size <= 131072 and len(data) >= 4 + size, "parcel")
    return strict(data[4:4 + size], "parcel"), data[4 + size:]
