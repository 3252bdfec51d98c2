#!/usr/bin/env python3
"""A client for Bulla in another language, written from spec/ alone.

Page names in the comments are those of spec/. TLS proves nothing here: every answer is believed for
its signature, from the pinned cluster id on.
"""
import argparse, base64, hashlib, json, os, re, secrets, sys, time, warnings

import requests
from cryptography.hazmat.primitives.asymmetric import ed25519

from agefile import DecryptionKey, Refused, b64, decrypt, encrypt, hkdf, hybrid, need, unb64, unbech32
from evidence import (NULL, Signed, admission, bare, binding, chain, consent, digest, documents, parcel, receipt, shape, sign, spki,
                      statement, strict, unparcel, verifies)


class Failed(Exception):
    """The server, or the machine, says no."""


class Again(Exception):
    """The answer is older than what was known when the request was sent."""


# ---- identity-file.md -----------------------------------------------------------------------------

class Identity(DecryptionKey):
    def __init__(self, path):
        try:
            with open(path, encoding="utf-8") as file:
                need(os.fstat(file.fileno()).st_mode & 0o077 == 0, "the identity file must have mode 0600")
                lines = file.read(65537).split("\n")
        except OSError as error:
            raise Failed(str(error)) from None
        lines = [line.removesuffix("\r") for line in lines]
        keys = [line for line in lines if line and not line.startswith("#")]
        need(len(keys) == 1 and keys[0] == keys[0].upper(), "an identity file has exactly one key line")
        pq = keys[0].startswith("AGE-SECRET-KEY-PQ-1")
        seed = unbech32("age-secret-key-pq-" if pq else "age-secret-key-", keys[0].lower())
        need(len(seed) == 32, "the key line is damaged")
        super().__init__(seed, pq)
        self.sign_key = ed25519.Ed25519PrivateKey.from_private_bytes(hkdf(b"", "bulla/v1/identity/sign", seed))
        self.key_id = digest(spki(self.sign_key.public_key()))
        for line in lines:
            name, _, value = line.removeprefix("#").strip().partition(": ")
            wanted = {"key id": self.key_id, "recipient": self.recipient, "public key": self.recipient}.get(name)
            need(wanted in (None, value) or not line.startswith("#"), f"the comment {name} contradicts the key")

    def signature(self, message):
        return b64(self.sign_key.sign(message))


# ---- request.md ----------------------------------------------------------------------------------

REQUEST = ("@method", "@path", "@query", "content-type", "content-digest", "bulla-audience", "bulla-challenge")
OPEN = ('"@status"', '"content-type"', '"content-digest"', '"bulla-challenge"', '"bulla-state"',
        '"@method";req', '"@path";req', '"@query";req')
BOUND = OPEN + ('"content-digest";req', '"signature-input";req;key="bulla"', '"signature";req;key="bulla"')
STATE = r"v1;(\d+);([A-Za-z0-9_-]{22}|-);(\d+|-);doc=(\d+|-);alarms=(\d+)"


def content_digest(body):
    return f"sha-256=:{b64(hashlib.sha256(body).digest())}:"


def base(names, values, parameters):
    """The signature base of RFC 9421, 2.5."""
    lines = [f"{n}: {v}" for n, v in zip(names, values)]
    return "\n".join(lines + [f'"@signature-params": ({" ".join(names)});{parameters}']).encode()


class Client:
    def __init__(self, address, cluster, identity, state_file):
        self.url = address if "://" in address else "https://" + address
        self.cluster, self.me, self.file = cluster, identity, state_file
        self.http = requests.Session()
        self.http.verify, self.http.trust_env = False, False
        self.state = {"cluster": cluster, "epoch": 0, "lineage": "-", "sequence": 0, "names": {}, "claims": {}}
        if os.path.exists(state_file):
            with open(state_file, encoding="utf-8") as file:
                self.state = json.load(file)
            need(self.state["cluster"] == cluster, "the state file is of another cluster")
        self.docs, self.challenge = [], None
        self.refresh()

    def save(self):
        store(self.file, json.dumps(self.state).encode())

    def refresh(self):
        """All documents from the pin on; the answers are signed by a node of the newest."""
        envelopes, answers, newest = [], [], 0
        while len(envelopes) <= newest:
            query = f"from={len(envelopes)}"
            answers.append((query, self.http.get(f"{self.url}/v1/cluster?{query}", timeout=30)))
            if answers[-1][1].status_code != 200:
                raise Failed(f"/v1/cluster: {answers[-1][1].text[:200]}")
            about = shape(strict(answers[-1][1].content, "cluster"), "cluster", documents=list, newest=int,
                          approvals=list, lineages=list, consents=list)
            need(about["documents"], "cluster: no documents")
            envelopes, newest = envelopes + about["documents"], about["newest"]
        docs = documents(envelopes, self.cluster)
        need(len(docs) >= len(self.docs), "the server forgot documents")
        self.docs = docs
        for query, answer in answers:
            self.verify(answer, "GET", "/v1/cluster", query, None)
            self.notice(answer.headers["Bulla-State"], about)

    def verify(self, answer, method, path, query, sent):
        """The node's signature over the answer, and over the request if it was valid."""
        need(answer.headers.get("Content-Digest") == content_digest(answer.content), "answer: digest")
        seen = answer.headers.get("Signature-Input", "")
        node = re.search(r';created=(\d+);keyid="(sha256:[A-Za-z0-9_-]{43})";', seen)
        signature = re.fullmatch("bulla=:([A-Za-z0-9+/=]+):", answer.headers.get("Signature", ""))
        need(node and signature, "answer: not signed")
        key, state, _ = self.docs[-1].nodes.get(node[2], (None, None, None))
        need(state == "active", "answer: signed by no active node")
        headers = [answer.headers.get(h, "") for h in ("Content-Type", "Content-Digest", "Bulla-Challenge", "Bulla-State")]
        values = [answer.status_code, *headers, method, path, "?" + query]
        for names, tag in ((BOUND, "bulla-res-v1"), (OPEN, "bulla-res-open-v1")):
            parameters = f'created={node[1]};keyid="{node[2]}";alg="ed25519";tag="{tag}"'
            if seen != f'bulla=({" ".join(names)});{parameters}':
                continue
            if names is BOUND:
                need(sent, "answer: bound to a request that was not signed")
                values += [sent["Content-Digest"], sent["Signature-Input"][6:], sent["Signature"][6:]]
            else:
                need(sent is None or answer.status_code >= 400, "answer: not bound to the request")
            need(verifies(key, unb64(signature[1]), base(names, values, parameters)), "answer: signature")
            self.challenge = answer.headers["Bulla-Challenge"]
            return
        raise Refused("answer: Signature-Input")

    def notice(self, header, about=None, known=None):
        """Keep the highest state; refuse an older one."""
        found = re.fullmatch(STATE, header)
        need(found, "answer: state")
        epoch, lineage, sequence, doc, _ = found.groups()
        epoch, mine = int(epoch), self.state
        if doc != "-" and int(doc) >= len(self.docs):
            self.refresh()
        need(epoch >= mine["epoch"], "the server went back to an older epoch")
        if lineage == "-":
            return
        if epoch > mine["epoch"]:
            if mine["lineage"] != "-":
                self.accept(about or self.get("/v1/cluster"))
            mine.update(epoch=epoch, lineage=lineage, sequence=0)
        need(lineage == mine["lineage"], "the server's history is another one")
        if sequence != "-":
            if int(sequence) < (known or 0):
                raise Again("the answer is older than what is known")
            mine["sequence"] = max(mine["sequence"], int(sequence))
        self.save()

    def accept(self, about):
        """A newer epoch: our lineage is listed and ended above what we saw, or k admins consent."""
        mine = self.state
        ids = [entry["lineage"] for entry in about["lineages"]]
        at = ids.index(mine["lineage"]) if mine["lineage"] in ids else -1
        if 0 <= at < len(ids) - 1 and about["lineages"][at + 1]["first_sequence"] > mine["sequence"]:
            return
        for envelope in about["consents"]:
            body = consent(envelope, self.docs[-1])
            named = [at["lineage"] for at in body["earlier"] + [body["lost"], body["kept"]]]
            if body["cluster"] == self.cluster and mine["lineage"] in named:
                return
        raise Refused("the server lost what it had told us")

    def call(self, method, path, query="", body=b"", kind="application/octet-stream", nonce=None):
        """Send a signed request until its outcome is known; gives media type and body."""
        for attempt in range(4):
            issued = int.from_bytes(unb64(self.challenge, url=True, pad=False)[3:9], "big")
            nonce = nonce or (issued // 60000).to_bytes(4, "big") + secrets.token_bytes(12)
            sent = {"Content-Type": kind, "Content-Digest": content_digest(body), "Bulla-Audience": self.cluster,
                    "Bulla-Challenge": self.challenge}
            names = [f'"{n}"' for n in REQUEST]
            parameters = (f'created={int(time.time())};nonce="{b64(nonce, url=True, pad=False)}";'
                          f'keyid="{self.me.key_id}";alg="ed25519";tag="bulla-req-v1"')
            message = base(names, [method, path, "?" + query, *sent.values()], parameters)
            sent["Signature-Input"] = f'bulla=({" ".join(names)});{parameters}'
            sent["Signature"] = f"bulla=:{self.me.signature(message)}:"
            known = self.state["sequence"]
            try:
                answer = self.http.request(method, self.url + path + (f"?{query}" if query else ""), data=body,
                                           headers=sent, allow_redirects=False, timeout=60)
                self.verify(answer, method, path, query, sent)
                self.notice(answer.headers["Bulla-State"], known=known)
            except (Again, requests.RequestException):
                if attempt == 3:
                    raise
                continue
            if answer.status_code < 400:
                return answer.headers["Content-Type"], answer.content
            error = strict(answer.content, "error")["errors"][0]
            if error["code"] not in ("stale_challenge", "unknown", "overloaded"):
                break
        raise Error(error)

    def get(self, path, query=""):
        return strict(self.call("GET", path, query)[1], path)

    def post(self, path, **body):
        return self.call("POST", path, "", json.dumps(body).encode(), "application/json")

    # -- names and wraps --

    def resolve(self, who):
        """A principal's records by name or id: records <- admission <- document <- pin."""
        name = who
        if who.startswith("sha256:"):
            listed = self.get("/v1/principal", f"id={who}")["principals"]
            need(len(listed) == 1, f"nobody has the id {who}")
            name = listed[0]["name"]
        told = shape(self.get(f"/v1/principal/{name}"), "principal", id=str, name=str, disabled=bool, records=list,
                     admission=(dict, NULL))
        records = chain(told["records"])
        serial = admission(told.get("admission"), self.docs, records)["serial"]
        need(records[-1].name == name and who in (name, records[0].sha), f"{who}: the server names another")
        principal, version, before = self.state["names"].get(name, (records[0].sha, 0, 0))
        need(principal == records[0].sha, f"{name} is another principal than before")
        need([version, before] <= [records[-1].version, serial], f"{name}: older than before")
        self.state["names"][name] = [principal, records[-1].version, serial]
        self.save()
        return records

    def myself(self):
        records = self.resolve(self.get("/v1/whoami")["principal"]["name"])
        need(self.me.key_id in records[-1].keys, "the server takes us for another")
        return records

    def proof(self, envelope, sha, wrap, kinds, **actor):
        """A receipt about this wrap, of one of these kinds."""
        signed = receipt(envelope, self.docs)
        need(signed.proof and signed.body["kind"] in kinds, f"receipt: not {kinds[0]}")
        need((signed.body["statement_sha256"], signed.body["wrap"]) == (sha, wrap), "receipt: of another wrap")
        need(all((signed.body["actor"] or {}).get(k) == v for k, v in actor.items()), "receipt: of another actor")
        return signed

    def wrap(self, content, names, mode, seconds, label=None):
        me, people = self.myself(), [self.resolve(n) for n in names]
        now = int(time.time() * 1000)
        s = {"v": 1, "cluster": self.cluster, "wrap": base64.b32encode(secrets.token_bytes(16)).decode().lower().rstrip("="),
             "from": me[0].sha, "to": [{"principal": p[0].sha, "record_sha256": p[-1].sha,
                                        "recipients": [digest(r) for r in p[-1].recipients]} for p in people],
             "mode": mode, "nbf_ms": now, "exp_ms": now + seconds * 1000, "ack_s": 600} | ({"label": label} if label else {})
        texts = [r for p in people for r in p[-1].recipients]
        need(len({hybrid(r) for r in texts}) == 1, "hybrid and classical recipients in one wrap")
        ciphertext = encrypt(content, texts, binding(s))
        s["ct"] = {"sha256": digest(ciphertext), "len": len(ciphertext)}
        envelope, sha = sign(self.me, "wrap", s)
        answer = self.call("POST", "/v1/wrap", "", parcel(envelope, ciphertext), "application/vnd.bulla.wrap")[1]
        self.proof(strict(answer, "wrap")["receipts"][0], sha, s["wrap"], ["created"], principal=me[0].sha, key=self.me.key_id)
        return f"bulla:wrap:{bare(self.cluster)}:{s['wrap']}:{bare(sha)}"

    def open(self, slip, keep):
        """Open a wrap; `keep` stores the content durably before it is acknowledged."""
        found = re.fullmatch("bulla:wrap:([A-Za-z0-9_-]{43}):([a-z2-7]{26}):([A-Za-z0-9_-]{43})", slip)
        need(found and "sha256:" + found[1] == self.cluster, "no slip of this cluster")
        wrap, sha, me = found[2], "sha256:" + found[3], self.myself()
        view = self.get(f"/v1/wrap/{wrap}")
        signed = statement(view["statement"], self.cluster, self.resolve(strict(unb64(view["statement"]["payload"]), "wrap")["from"]))
        s, mine = signed.body, {r.sha: {digest(text) for text in r.recipients} for r in me}
        need((signed.sha, s["wrap"]) == (sha, wrap), "the slip is for another statement")
        entries = [e for e in s["to"] if e["principal"] == me[0].sha and set(e["recipients"]) <= mine.get(e["record_sha256"], set())]
        need(entries, "the wrap is not for us")
        if digest(self.me.recipient) not in entries[0]["recipients"]:
            raise Failed("the wrap is for another key of ours; opening it with this one would lose it")
        claims = self.state["claims"]
        seed = claims.setdefault(wrap, secrets.token_hex(32))
        self.save()
        claim = DecryptionKey(bytes.fromhex(seed), True)
        try:
            kind, body = self.post(f"/v1/wrap/{wrap}:open", statement_sha256=sha, claim=claim.recipient)
        except Error as error:
            if error.entry["code"] != "already_opened":
                raise
            opened = self.proof(error.entry.get("receipt"), sha, wrap, ["opened"])
            del claims[wrap]
            self.save()
            raise Opened(opened.body) from None
        finish = {"statement_sha256": sha, "claim_sha256": digest(claim.recipient)}
        try:
            need(kind == "application/age", "answer: media type")
            envelope, ciphertext = unparcel(decrypt(body, claim)[0])
            opened = self.proof(envelope, sha, wrap, ["opened", "redelivered"], principal=me[0].sha, key=self.me.key_id)
            need(opened.body["claim_sha256"] == finish["claim_sha256"], "receipt: of another claim")
            need(s["ct"] == {"sha256": digest(ciphertext), "len": len(ciphertext)}, "another ciphertext than the statement's")
            content, stanzas = decrypt(ciphertext, self.me)
            bound = [" ".join([kind, *args]) for kind, args, rest in stanzas if kind == "bulla-wrap-v1" and not rest]
            need(bound == [binding(s)], "the envelope is not bound to the statement")
        except Refused:
            self.post(f"/v1/wrap/{wrap}:nack", **finish)
            raise
        keep(content)
        acked = strict(self.post(f"/v1/wrap/{wrap}:ack", **finish)[1], "ack")["receipts"][0]
        acked = self.proof(acked, sha, wrap, ["acked"], principal=me[0].sha)
        need(acked.body["claim_sha256"] == finish["claim_sha256"], "receipt: of another claim")
        del claims[wrap]
        self.save()


class Error(Failed):
    """An error that the server signed."""
    def __init__(self, entry):
        super().__init__(f"{entry['code']}: {entry['message']}")
        self.entry = entry


class Opened(Exception):
    """Somebody opened it before; proven by the receipt."""
    def __init__(self, proof):
        super().__init__(f"already opened: {json.dumps(proof)}")


def store(path, data):
    """Write a file so that it survives a power cut, with mode 0600."""
    with open(os.open(path + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".part", path)
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def main():
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("whoami", "wrap", "open"):
        command = commands.add_parser(name)
        for option in ("--address", "--cluster", "--identity"):
            command.add_argument(option, required=True)
        command.add_argument("--state", help="what this client remembers; default: beside the identity")
        if name == "wrap":
            command.add_argument("--to", action="append", required=True)
            command.add_argument("--each", action="store_true")
            command.add_argument("--seconds", type=int, default=86400)
            command.add_argument("--label")
            command.add_argument("content", help="a file, or - for standard input")
        if name == "open":
            command.add_argument("-o", dest="out", help="a file; otherwise standard output")
            command.add_argument("slip")
    args = parser.parse_args()
    try:
        try:
            me = Identity(args.identity)
        except Refused as error:
            raise Failed(f"{args.identity}: {error}") from None
        client = Client(args.address, args.cluster, me, args.state or args.identity + ".state.json")
        if args.command == "whoami":
            records = client.myself()
            print(json.dumps({"principal": records[0].sha, "name": records[-1].name, "key": client.me.key_id}))
        elif args.command == "wrap":
            content = sys.stdin.buffer.read() if args.content == "-" else open(args.content, "rb").read()
            print(client.wrap(content, args.to, "each" if args.each else "first", args.seconds, args.label))
        else:
            out = sys.stdout.buffer
            client.open(args.slip, lambda c: store(args.out, c) if args.out else (out.write(c), out.flush()))
    except Opened as proof:
        return proof, 3
    except Refused as error:
        return f"does not verify: {error}", 4
    except (Failed, Again, OSError, requests.RequestException) as error:
        return error, 1
    return None, 0


if __name__ == "__main__":
    message, code = main()
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)
