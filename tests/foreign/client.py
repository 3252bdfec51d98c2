"""A client of Bulla: signed requests, verified answers, wraps (spec/request.md, wrap.md)."""

import base64
import hashlib
import json
import os
import re
import time

import requests
from agefile import decrypt, demand, digest, encrypt, from_base64, to_base64
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from evidence import Document, read_admission, read_receipts, read_records, read_wrap, sign

ANSWER = re.compile(r'bulla=(\((.*)\);created=\d+;keyid="([^"]+)";alg="ed25519";tag="bulla-res-(open-)?v1")')
STATE = re.compile(r"v1;(\d+);[A-Za-z0-9_-]+;(\d+|-);doc=(\d+);alarms=\d+")
REFUSALS = (ValueError, InvalidSignature, InvalidTag, UnsupportedAlgorithm)


class Denied(Exception):
    """An error that the server signed: its code, and the receipts that prove it."""


def signature_base(parts, parameters):
    return "\n".join(map(": ".join, [*parts.items(), ('"@signature-params"', parameters)])).encode()


def content_digest(body):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


class Request:
    """A request, as it is signed and as its answer is verified. Those to open routes are not signed."""
    def __init__(self, method, path, query="", body=b"", media="application/octet-stream"):
        self.target = {"@method": method, "@path": path, "@query": "?" + query}
        self.body, self.media, self.headers = body, media, {}

    def sign(self, identity, cluster, challenge, nonce, created):
        self.headers = {"Content-Type": self.media, "Content-Digest": content_digest(self.body)}
        self.headers |= {"Bulla-Audience": cluster, "Bulla-Challenge": challenge}
        parts = {f'"{name.lower()}"': value for name, value in (self.target | self.headers).items()}
        parameters = f'({" ".join(parts)});created={created};nonce="{nonce}";keyid="{identity.key_id}"'
        parameters += ';alg="ed25519";tag="bulla-req-v1"'
        signature = base64.b64encode(identity.signing.sign(signature_base(parts, parameters))).decode()
        self.headers |= {"Signature-Input": f"bulla={parameters}", "Signature": f"bulla=:{signature}:"}

    def verify(self, status, headers, body, document):
        """Demands that an active node signed this answer, and to this very request unless it is an error."""
        answer = ANSWER.fullmatch(headers["Signature-Input"])
        demand(answer and headers["Content-Digest"] == content_digest(body), "answer")
        names = ("Content-Type", "Content-Digest", "Bulla-Challenge", "Bulla-State")
        parts = {'"@status"': str(status)} | {f'"{name.lower()}"': headers[name] for name in names}
        parts |= {f'"{name}";req': value for name, value in self.target.items()}
        if not answer[4]:
            parts['"content-digest";req'] = self.headers["Content-Digest"]
            for name in ("Signature-Input", "Signature"):
                parts[f'"{name.lower()}";req;key="bulla"'] = self.headers[name].removeprefix("bulla=")
        demand(not answer[4] or not self.headers or status >= 400, "answer")
        demand(answer[2] == " ".join(parts) and answer[3] in document.nodes, "answer")
        demand(document.states[answer[3]]["state"] == "active", "answer")
        signature = base64.b64decode(headers["Signature"][len("bulla=:") : -len(":")], validate=True)
        document.nodes[answer[3]].verify(signature, signature_base(parts, answer[1]))


class Client:
    def __init__(self, address, cluster, identity):
        self.address, self.cluster, self.identity = address, cluster, identity
        self.documents, self.state = [], (0, 0)
        self.read_documents()
        self.own = self.resolve(self.call("GET", "/v1/whoami")["principal"]["name"])
        demand(identity.key_id in self.own[-1].keys, "a record without my key")

    def send(self, request):
        method, path, query = request.target.values()
        options = {"data": request.body, "headers": request.headers, "verify": False, "timeout": 60}
        answer = requests.request(method, f"https://{self.address}{path}{query}", **options)
        return answer.status_code, answer.headers, answer.content

    def read_documents(self):
        """Follows the chain from the pin; its newest document names the nodes, which sign this answer too."""
        told = {"newest": 0}
        while told["newest"] >= len(self.documents):
            status, headers, body = self.send(request := Request("GET", "/v1/cluster", f"from={len(self.documents)}"))
            told = json.loads(body)
            for envelope in told["documents"]:
                self.documents.append(Document(envelope, self.documents[-1] if self.documents else None))
            demand(told["documents"] and self.documents[0].digest == self.cluster, "other_pin")
        request.verify(status, headers, body, self.documents[-1])
        self.challenge = headers["Bulla-Challenge"]

    def call(self, method, path, query="", body=b"", media="application/json"):
        """The answer, once all of it is verified. After a stale challenge the nonce stays the same."""
        request = Request(method, path, query, body, media if body else "application/octet-stream")
        minute = int.from_bytes(from_base64(self.challenge, b"-_")[3:9]) // 60_000
        nonce, error = to_base64(minute.to_bytes(4) + os.urandom(12), b"-_"), {"code": "stale_challenge"}
        while error.get("code") == "stale_challenge":
            request.sign(self.identity, self.cluster, self.challenge, nonce, int(time.time()))
            status, headers, body = self.send(request)
            epoch, sequence, document = STATE.fullmatch(headers["Bulla-State"]).groups()
            if int(document) >= len(self.documents):
                self.read_documents()
            request.verify(status, headers, body, self.documents[-1])
            state = int(epoch), self.state[1] if sequence == "-" else int(sequence)
            demand(state >= self.state, "an older state")
            self.state, self.challenge = state, headers["Bulla-Challenge"]
            error = json.loads(body)["errors"][0] if status >= 400 else {}
        if error:
            raise Denied(error["code"], *read_receipts(filter(None, [error.get("receipt")]), self.documents))
        return body if headers["Content-Type"] == "application/age" else json.loads(body)

    def resolve(self, name):
        """The records of a principal: chain <- admission <- document <- pin."""
        told = self.call("GET", f"/v1/principal/{name}")
        records, newest = read_records(told["records"]), self.documents[-1]
        demand(records[-1].fields["name"] == name, "another name")
        if told.get("admission"):
            read_admission(told["admission"], records, newest)
        else:
            demand(records[0].digest in self.documents[0].fields["admins"], "no admission")
            demand(newest.records[records[0].digest].digest == records[-1].digest, "no admission")
        return records

    def wrap(self, content, name):
        """The slip of a new wrap for one principal."""
        reader = self.resolve(name)[-1]
        recipients = [digest(recipient.encode()) for recipient in reader.recipients]
        to = {"principal": reader.principal, "record_sha256": reader.digest, "recipients": recipients}
        wrap = base64.b32encode(os.urandom(16)).decode().rstrip("=").lower()
        fields = {"v": 1, "cluster": self.cluster, "wrap": wrap, "from": self.own[0].digest, "to": [to]}
        fields |= {"mode": "first", "nbf_ms": 0, "exp_ms": int(time.time() + 86_400) * 1000, "ack_s": 3600}
        file = encrypt(content, reader.recipients, binding(fields))
        fields["ct"] = {"sha256": digest(file), "len": len(file)}
        statement = sign("application/vnd.bulla.wrap.v1+json", fields, self.identity)
        head, media = json.dumps(statement).encode(), "application/vnd.bulla.wrap"
        told = self.call("POST", "/v1/wrap", "", len(head).to_bytes(4) + head + file, media)
        statement_id = digest(base64.b64decode(statement["payload"]))
        self.demand_receipt(told["receipts"], "created", wrap, statement_id, None)
        return f"bulla:wrap:{self.cluster[7:]}:{wrap}:{statement_id[7:]}"

    def demand_receipt(self, envelopes, kinds, wrap, statement_id, claim_id):
        """One receipt, of what this client did itself."""
        (receipt,) = read_receipts(envelopes, self.documents)
        receipt.demand_fields(wrap=wrap, statement_sha256=statement_id, claim_sha256=claim_id)
        demand(receipt.proof and receipt.fields["kind"] in kinds.split(), "rule kind")
        demand(receipt.fields["actor"]["key"] == self.identity.key_id, "rule actor")

    def wrap_and_statement(self, slip):
        cluster, wrap, statement = slip.rsplit(":", 2)
        demand(cluster == f"bulla:wrap:{self.cluster[7:]}", "not a slip of this cluster")
        return wrap, "sha256:" + statement

    def inspect(self, slip):
        """The writer's statement, and each slot's receipts from the created one on."""
        wrap, statement_id = self.wrap_and_statement(slip)
        view = self.call("GET", f"/v1/wrap/{wrap}")
        slots = [read_receipts([view["created"], *slot["receipts"]], self.documents) for slot in view["slots"]]
        slots[0][0].demand_fields(wrap=wrap, statement_sha256=statement_id)
        writer = slots[0][0].fields["actor"]["principal"]
        (listed,) = self.call("GET", "/v1/principal", f"id={writer}")["principals"]
        statement = read_wrap(view["statement"], self.cluster, self.resolve(listed["name"]))
        demand(statement.digest == statement_id, "another statement")
        return statement.fields, slots

    def open(self, slip, claim):
        """The content. The claim is on the disk before, and the content before it is acknowledged."""
        (fields, _), (wrap, statement_id) = self.inspect(slip), self.wrap_and_statement(slip)
        (place,) = [place for place in fields["to"] if place["principal"] == self.own[0].digest]
        demand(place["record_sha256"] in [record.digest for record in self.own], "to a record of others")
        demand(digest(self.identity.recipient.encode()) in place["recipients"], "to a key of others")
        body = json.dumps({"statement_sha256": statement_id, "claim": claim.recipient}).encode()
        answer = self.call("POST", f"/v1/wrap/{wrap}:open", "", body)
        try:
            parcel, _ = decrypt(answer, claim)
            start, claim_id = 4 + int.from_bytes(parcel[:4]), digest(claim.recipient.encode())
            receipt, file = json.loads(parcel[4:start]), parcel[start:]
            self.demand_receipt([receipt], "opened redelivered", wrap, statement_id, claim_id)
            demand(fields["ct"] == {"sha256": digest(file), "len": len(file)}, "another ciphertext")
            content, bound = decrypt(file, self.identity)
            demand(bound == binding(fields), "bound to another statement")
            return content
        except REFUSALS:
            self.finish(slip, claim, "nack")
            raise

    def finish(self, slip, claim, verb):
        """`ack` says that the content is on the disk, `nack` that it is bad."""
        (wrap, statement_id), claim_id = self.wrap_and_statement(slip), digest(claim.recipient.encode())
        body = json.dumps({"statement_sha256": statement_id, "claim_sha256": claim_id}).encode()
        told = self.call("POST", f"/v1/wrap/{wrap}:{verb}", "", body)
        self.demand_receipt(told["receipts"], f"{verb}ed", wrap, statement_id, claim_id)


def binding(fields):
    """The stanza that ties a ciphertext to its statement."""
    ids = [(to["principal"], to["record_sha256"], each) for to in fields["to"] for each in to["recipients"]]
    lines = "".join(f"{principal[7:]} {record[7:]} {each[7:]}\n" for principal, record, each in ids)
    ends = [fields["cluster"], fields["from"], digest(lines.encode())]
    return " ".join(["bulla-wrap-v1", fields["wrap"], *(each[7:] for each in ends)])
