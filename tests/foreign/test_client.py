#!/usr/bin/env python3
"""Tests of the Python client: the vectors of spec/, then against a server. BULLA is the path of `bulla`."""
import glob, json, os, subprocess, sys, tempfile, threading, time, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = os.path.dirname(os.path.abspath(__file__))
VECTORS = os.path.join(HERE, "..", "..", "spec", "vectors")
sys.path.insert(0, HERE)
import agefile, client, evidence  # noqa: E402
import hashlib, requests  # noqa: E402

passed = failed = 0


def check(name, condition, more=""):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    if not condition:
        print(f"FAILED: {name} {more}")


def tell(function, *args):
    """What a function gives, or how it refuses."""
    try:
        return function(*args)
    except agefile.Refused as error:
        return error


def vectors(name):
    with open(os.path.join(VECTORS, name), encoding="utf-8") as file:
        return json.load(file)


def test_identities():
    for v in vectors("identity/identity.json"):
        pq = v["kind"] == "hybrid"
        key = agefile.DecryptionKey(bytes.fromhex(v["seed"]), pq)
        check(f"identity {v['seed'][:8]}", key.recipient == v["recipient"])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "key")
            client.store(path, f"# recipient: {v['recipient']}\n{v['secret']}\n".encode())
            check("identity file", client.Identity(path).key_id == v["key_id"])
            check("digest", evidence.digest(v["recipient"]) == v["recipient_digest"])
            client.store(path, f"# key id: sha256:{'A' * 43}\n{v['secret']}\n".encode())
            check("contradiction", isinstance(tell(client.Identity, path), agefile.Refused))


def test_evidence():
    def genesis(i):
        docs = evidence.documents(i["documents"], i.get("pin"))
        if "admins" in i:
            pinned = sorted(k for a in docs[0].admins for k in docs[0].principals[a].keys)
            evidence.need(i["admins"] == {"k": docs[0].k, "keys": pinned}, "pin")
            keys = [docs[0].principals[a].keys for a in docs[0].admins]
            signed = [evidence.Signed(a, "genesis", cluster=str) for a in i["approvals"]]
            evidence.need(all(s.body["cluster"] == docs[0].sha for s in signed), "approval")
            evidence.need(sum(any(s.by(k) for s in signed) for k in keys) >= docs[0].k, "too few admins")
        return {"admins": evidence.admins_id(docs[0]), "cluster": docs[0].sha, "newest": docs[-1].number}

    def record(i):
        records = evidence.chain(i["records"])
        return {"newest": records[-1].sha, "principal": records[0].sha}

    def admission(i):
        docs, records = evidence.documents(i["documents"]), evidence.chain(i["records"])
        a = evidence.admission(i["admission"], docs, records)
        return {"groups": a["groups"]}

    def receipts(i):
        docs = evidence.documents(i["documents"])
        found = [evidence.receipt(r, docs) for r in i["receipts"]]
        evidence.need(found[0].body["kind"] == "created", "kind")
        for a, b in zip(found, found[1:]):
            evidence.need(b.body["prev"] == a.sha, "prev")
            evidence.need(all(a.body[x] == b.body[x] for x in ("wrap", "slot", "statement_sha256")), "of another")
        return ["Valid" if r.proof else "NotProof" for r in found]

    def statement(i):
        signed = evidence.statement(i["statement"], i["cluster"], evidence.chain(i["records"]))
        evidence.need(i["now_ms"] < signed.body["exp_ms"] <= i["now_ms"] + 366 * 86400000, "exp_ms")
        return {"digest": signed.sha}

    def consent(i):
        docs = evidence.documents(i["documents"])
        body = evidence.consent(i["consent"], docs[-1])
        evidence.need(body["cluster"] == docs[0].sha, "cluster")
        return body

    for name, function in {"record": record, "genesis": genesis, "document": genesis, "admission": admission,
                           "receipt": receipts, "statement": statement, "consent": consent}.items():
        for v in vectors(f"evidence/{name}.json"):
            got = tell(function, v["input"])
            if v["expect"] == "ok":
                right = not isinstance(got, Exception) and (name == "admission" or got == v["output"])
            else:
                right = isinstance(got, agefile.Refused)
            check(f"{name}: {v['name']}", right, f"expected {v['expect']}, got {got!r}")


def test_envelopes():
    """The published age vectors; this profile refuses armor and passphrases."""
    for path in sorted(glob.glob(os.path.join(VECTORS, "age-cctv", "*_*")) + [os.path.join(VECTORS, "age-cctv", "x25519")]):
        head, _, body = open(path, "rb").read().partition(b"\n\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\n")]
        about = dict(fields)
        body = zlib.decompress(body) if about.get("compressed") == "zlib" else body
        keys = []
        for secret in [value for name, value in fields if name == "identity"]:
            pq = secret.startswith("AGE-SECRET-KEY-PQ-1")
            seed = tell(agefile.unbech32, "age-secret-key-pq-" if pq else "age-secret-key-", secret.lower())
            keys.append(agefile.DecryptionKey(seed, pq))
        if not keys:
            continue
        results = [tell(agefile.decrypt, body, key) for key in keys]
        good = [r for r in results if not isinstance(r, Exception)]
        if about["expect"] == "success" and "armored" not in about:
            check(os.path.basename(path), good and hashlib.sha256(good[0][0]).hexdigest() == about["payload"], results)
        else:
            check(os.path.basename(path), not good, results)


def test_exchange():
    """Requests and answers as they went over the wire."""
    v = vectors("exchange/exchange.json")
    with tempfile.TemporaryDirectory() as folder:
        for name, line in v["identities"].items():
            client.store(f"{folder}/{name}", line.encode())
        people = {name: client.Identity(f"{folder}/{name}") for name in v["identities"]}
    bodies = {e["name"]: agefile.unb64(e["response"]["body"]) for e in v["exchanges"]}
    reader = client.Client.__new__(client.Client)
    reader.docs = evidence.documents(json.loads(bodies["an open route"])["documents"], v["cluster"])
    real = client.base
    for e in v["exchanges"]:
        asked, answer, bases = e["request"], client.requests.Response(), []
        client.base = lambda *args, kept=bases: kept.append(real(*args)) or kept[-1]
        answer.status_code, answer._content = e["response"]["status"], bodies[e["name"]]
        answer.headers.update(e["response"]["headers"])
        sent = asked["headers"] or None
        if sent:
            names = [f'"{n}"' for n in client.REQUEST]
            values = [asked["method"], asked["path"], "?" + asked["query"], *list(sent.values())[:4]]
            made = client.base(names, values, sent["Signature-Input"].partition(");")[2])
            check(f"{e['name']}: request base", made.decode() == e["request_base"])
            check(f"{e['name']}: request", sent["Signature"] == f"bulla=:{people[e['signer']].signature(made)}:")
            check(f"{e['name']}: body", sent["Content-Digest"] == client.content_digest(agefile.unb64(asked["body"])))
        told = tell(reader.verify, answer, asked["method"], asked["path"], asked["query"], sent)
        check(f"{e['name']}: answer", told is None and bases[-1].decode() == e["response_base"], told)
        other = tell(reader.verify, answer, asked["method"], asked["path"] + "x", asked["query"], sent)
        check(f"{e['name']}: answer to another", isinstance(other, agefile.Refused))
    client.base = real
    claim = agefile.DecryptionKey(agefile.unbech32("age-secret-key-pq-", v["wrap"]["claim"].lower()), True)
    view = json.loads(bodies["a view"])
    signed = evidence.statement(view["statement"], v["cluster"], evidence.chain(v["wrap"]["writer"]))
    check("binding", evidence.binding(signed.body) == v["wrap"]["binding"])
    opened, ciphertext = evidence.unparcel(agefile.decrypt(bodies["an opening"], claim)[0])
    content, stanzas = agefile.decrypt(ciphertext, people["bob"])
    check("content", content == v["wrap"]["content"].encode() and len(stanzas) == 2)
    acked = json.loads(bodies["an acknowledgement"])["receipts"][0]
    refused = json.loads(bodies["a second claim"])["errors"][0]["receipt"]
    kinds = [evidence.receipt(r, reader.docs) for r in (view["created"], opened, refused, acked)]
    check("receipts", [k.body["kind"] for k in kinds if k.proof] == ["created", "opened", "opened", "acked"])


class Cluster:
    """A transient server with one admin, who is alice; bob and carol are admitted, carol with a classical key."""
    def __init__(self, folder, bulla):
        self.folder, self.bulla = folder, bulla
        self.environment = {"PATH": os.environ["PATH"], "HOME": folder, "XDG_STATE_HOME": folder + "/state",
                            "XDG_CONFIG_HOME": folder + "/config"}
        for name in ("alice", "bob", "carol", "mallory"):
            self.run("", "keygen", "-o", f"{name}.key", "--name", name, *(["--classical"] if name == "carol" else []))
        self.server = subprocess.Popen(
            [bulla, "server", "--transient", "--listen", "127.0.0.1:0", "--admin", "alice.pub", "--audit", "audit.jsonl",
             "--ready-file", "ready.json"], cwd=folder, env=self.environment, stdout=subprocess.DEVNULL,
            stderr=open(folder + "/server.log", "wb"))
        for _ in range(300):
            if os.path.exists(folder + "/ready.json") or self.server.poll() is not None:
                break
            time.sleep(0.1)
        with open(folder + "/ready.json", encoding="utf-8") as file:
            self.address = json.load(file)["address"]
        made = self.run("alice", "init", "--name", "foreign", "--admin", "alice.pub", "--any", "--ready-file", "ready.json",
                        "-o", "json")
        self.environment |= {"BULLA_ADDR": self.address, "BULLA_CLUSTER": json.loads(made.stdout)["cluster"]}
        self.id = self.environment["BULLA_CLUSTER"]
        self.run("alice", "unseal", "--yes")
        for name in ("bob", "carol"):
            self.run("alice", "principal", "add", f"{name}.pub")

    def run(self, who, *args, expect=0):
        """`bulla` as somebody."""
        done = subprocess.run([self.bulla, *args], cwd=self.folder, capture_output=True, timeout=120, check=False,
                              env=self.environment | ({"BULLA_IDENTITY": f"{who}.key"} if who else {}))
        check(f"bulla {args[0]} exits {expect}", done.returncode == expect, (done.returncode, done.stderr.decode()))
        return done

    def python(self, who, command, *args, expect=0, address=None, cluster=None, state=None, data=None):
        """client.py as somebody."""
        done = subprocess.run(
            [sys.executable, os.path.join(HERE, "client.py"), command, "--address", address or self.address, "--cluster",
             cluster or self.id, "--identity", f"{who}.key", *(["--state", state] if state else []), *args],
            cwd=self.folder, capture_output=True, timeout=120, input=data, check=False)
        check(f"client.py {command} {' '.join(args)[:20]} exits {expect}", done.returncode == expect,
              (done.returncode, done.stderr.decode()))
        return done

    def client(self, who):
        return client.Client(self.address, self.id, client.Identity(f"{self.folder}/{who}.key"), f"{self.folder}/{who}.lib.json")

    def states(self, slip):
        shown = self.run("alice", "wrap", "inspect", slip, "-o", "json")
        return [slot["state"] for slot in json.loads(shown.stdout)["slots"]]


def proxy(address, spoil):
    """A man in the middle: passes everything on, and lets `spoil(method, path, reply)` change the reply."""
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
            reply = requests.request(self.command, f"https://{address}{self.path}", data=body, headers=headers, verify=False,
                                     timeout=60)
            told = {"status": reply.status_code, "headers": dict(reply.headers), "body": reply.content}
            told = spoil(self.command, self.path, told) or told
            self.send_response_only(told["status"])
            for name, value in told["headers"].items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(told["body"])))
            self.end_headers()
            self.wfile.write(told["body"])
        do_POST = do_GET

        def log_message(self, *args):
            pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def test_flow(c):
    who = json.loads(c.python("bob", "whoami").stdout)
    told = json.loads(c.run("bob", "whoami", "-o", "json").stdout)
    check("whoami", (who["principal"], who["key"]) == (told["principal"]["id"], told["key"]), (who, told))

    for size in (0, 1, 65536, 65537, 300000):
        content = os.urandom(size)
        slip = c.python("alice", "wrap", "--to", "bob", "-", data=content).stdout.decode().strip()
        check(f"{size} bytes, python to bulla", c.run("bob", "open", slip).stdout == content)
        client.store(f"{c.folder}/content", content)
        slip = c.run("alice", "wrap", "create", "--to", "bob", "content").stdout.decode().strip()
        check(f"{size} bytes, bulla to python", c.python("bob", "open", slip).stdout == content)
        check("acknowledged", c.states(slip) == ["acked"])

    again = c.python("bob", "open", slip, expect=3)
    check("the receipt of the first opening", b"already opened" in again.stderr and who["principal"].encode() in again.stderr)
    c.run("bob", "open", slip, expect=3)
    check("alice has the alarm", b"second_claim" in c.run("alice", "alarms", "-o", "json").stdout)

    slip = c.python("alice", "wrap", "--to", "carol", "content", "--label", "to a classical key").stdout.decode().strip()
    check("classical, python to bulla", c.run("carol", "open", slip).stdout == content)
    slip = c.run("alice", "wrap", "create", "--to", "carol", "content", "--label", "same").stdout.decode().strip()
    check("classical, bulla to python", c.python("carol", "open", slip, "-o", "out").returncode == 0)
    check("the file", open(f"{c.folder}/out", "rb").read() == content)

    slip = c.python("alice", "wrap", "--to", "bob", "--to", "alice", "--each", "content").stdout.decode().strip()
    check("each: bob", c.run("bob", "open", slip).stdout == content)
    check("each: alice", c.python("alice", "open", slip).stdout == content)
    check("each: both", c.states(slip) == ["acked", "acked"])
    slip = c.run("alice", "wrap", "create", "--to", "bob", "--to", "alice", "content").stdout.decode().strip()
    check("first: bob", c.python("bob", "open", slip).stdout == content)
    c.python("alice", "open", slip, expect=3)

    c.python("alice", "wrap", "--to", "bob", "--to", "carol", "content", expect=4)
    c.python("alice", "wrap", "--to", "nobody", "content", expect=1)
    c.python("mallory", "whoami", expect=1)
    c.python("carol", "open", slip, expect=1)


def test_requests(c):
    alice, bob = c.client("alice"), c.client("bob")
    alice.challenge = client.b64(client.unb64(alice.challenge, True, False)[:-1] + b"!", True, False)
    check("another challenge after a bad one", alice.myself())

    nonce = int(time.time() / 60).to_bytes(4, "big") + os.urandom(12)
    slip = bob.wrap(b"once", ["alice"], "first", 600)
    wrap, sha = slip.split(":")[3], "sha256:" + slip.split(":")[4]
    revoke = ("POST", f"/v1/wrap/{wrap}:revoke", "", json.dumps({"statement_sha256": sha}).encode(), "application/json", nonce)
    first, second = bob.call(*revoke), bob.call(*revoke)
    check("a retry gets the recorded outcome", first == second)
    revoked = bob.proof(json.loads(first[1])["receipts"][0], sha, wrap, ["revoked"])
    check("revoked receipt", revoked.body["actor"]["key"] == bob.me.key_id)
    reused = refusal(bob.call, *revoke[:3], revoke[3] + b" ", *revoke[4:])
    check("the nonce for another request", reused == "nonce_reused", reused)
    old = refusal(bob.call, *revoke[:5], (int(time.time() / 60) - 30).to_bytes(4, "big") + os.urandom(12))
    check("an old nonce", old == "nonce_expired", old)
    check("revoked", refusal(alice.open, slip, lambda _: None) == "revoked")

    slip = alice.wrap(b"twice", ["bob"], "first", 600)
    wrap = slip.split(":")[3]

    def crash(_):
        raise KeyboardInterrupt
    for _ in range(2):
        try:
            bob.open(slip, crash)
        except KeyboardInterrupt:
            pass
    kept, got = bob.state["claims"][wrap], []
    bob.open(slip, got.append)
    check("redelivered to the same claim", got == [b"twice"])
    kinds = [bob.proof(r, "sha256:" + slip.split(":")[4], wrap, ["opened", "redelivered", "acked"])
             for r in bob.get(f"/v1/wrap/{wrap}")["slots"][0]["receipts"]]
    check("its receipts", [k.body["kind"] for k in kinds] == ["opened", "redelivered", "redelivered", "acked"])
    check("their chain", all(b.body["prev"] == a.sha for a, b in zip(kinds, kinds[1:])))
    bob.state["claims"][wrap] = kept
    try:
        bob.open(slip, got.append)
    except client.Opened as opened:
        check("acked, to its own claim", "acked" in str(opened), opened)
    except client.Error as error:
        check("acked, to its own claim", error.entry["code"] == "acked", error)


def refusal(function, *args):
    try:
        return function(*args)
    except client.Error as error:
        return error.entry["code"]


def test_secrets(c):
    """request.md, secret bytes: bodies to the ingress recipient, answers to the caller's own."""
    policy = b'permit (principal, action in Bulla::Action::"kv", resource in Bulla::Kv::"app");'
    client.store(f"{c.folder}/app.cedar", policy)
    c.run("alice", "policy", "put", "app", "app.cedar")
    bob = c.client("bob")

    def put(path, data, named=None, **more):
        nonce = int(time.time() / 60).to_bytes(4, "big") + os.urandom(12)
        head = f"bulla-ingress-v1 {c.id} {bob.me.key_id} PUT /v1/kv/{named or path}? {client.b64(nonce, True, False)}\n"
        body = agefile.encrypt(head.encode() + json.dumps({"data": data, **more}).encode(), [bob.docs[-1].ingress])
        return json.loads(bob.call("PUT", f"/v1/kv/{path}", "", body, "application/age", nonce)[1])

    check("put", put("app/db", {"user": "x", "password": "y"}) == {"version": 1})
    check("cas", put("app/db", {"user": "x", "password": "z"}, cas=1) == {"version": 2})
    check("cas again", refusal(lambda: put("app/db", {"user": "x"}, cas=1)) == "version_mismatch")
    moved = refusal(lambda: put("app/other", {"user": "x"}, named="app/db"))
    check("a body for another path", moved == "malformed", moved)
    kind, body = bob.call("GET", "/v1/kv/app/db")
    check("get, encrypted", kind == "application/age" and b"password" not in body)
    check("get", json.loads(agefile.decrypt(body, bob.me)[0])["data"] == {"user": "x", "password": "z"})
    shown = c.run("bob", "kv", "get", "app/db", "-o", "json").stdout
    check("bulla reads the same", json.loads(shown)["data"]["password"] == "z", shown)
    check("no permission", refusal(lambda: put("other", {"user": "x"})) == "denied")


def test_changes(c):
    """Keys, documents and epochs change; what the client remembers goes along."""
    early = c.python("bob", "wrap", "--to", "alice", "-", data=b"old key").stdout.decode().strip()
    late = c.python("alice", "wrap", "--to", "bob", "-", data=b"old record").stdout.decode().strip()
    c.run("", "keygen", "-o", "bob2.key", "--name", "bob")
    c.run("bob", "principal", "rotate", "bob2.key", "-o", "bob2.record")
    c.run("alice", "principal", "add", "bob2.record")
    c.python("bob", "whoami", expect=1)
    check("signed by an older key", c.python("alice", "open", early).stdout == b"old key")
    c.python("bob2", "open", late, expect=1)
    check("not burned by the wrong key", c.states(late) == ["sealed"])
    slip = c.python("alice", "wrap", "--to", "bob", "-", data=b"new record").stdout.decode().strip()
    check("to the new key", c.python("bob2", "open", slip).stdout == b"new record")

    c.run("alice", "enroller", "add", "carol")
    c.run("alice", "principal", "groups", "bob", "admins")
    c.python("carol", "whoami")
    check("a newer document", json.load(open(f"{c.folder}/carol.key.state.json"))["epoch"] == 2)
    c.run("alice", "seal")
    c.python("carol", "whoami", expect=1)
    c.run("alice", "unseal", "--yes")
    c.python("carol", "whoami")
    check("a newer epoch", json.load(open(f"{c.folder}/carol.key.state.json"))["epoch"] == 3)


def test_attacks(c):
    def spoiled(spoil, *args, expect=4, **more):
        c.python("bob", *args, expect=expect, address=proxy(c.address, spoil), **more)

    def changed(part, path, change):
        def spoil(_, where, reply):
            if where.startswith(path):
                if part == "body":
                    reply["body"] = change(reply["body"])
                    reply["headers"]["content-digest"] = client.content_digest(reply["body"])
                elif part == "status":
                    reply["status"] = change(reply["status"])
                else:
                    reply["headers"][part] = change(reply["headers"][part])
        return spoil

    spoiled(lambda *_: None, "whoami", expect=0)
    c.python("bob", "whoami", expect=4, cluster="sha256:" + "A" * 43, state="other.json")
    spoiled(changed("body", "/v1/whoami", lambda b: b.replace(b"bob", b"eve")), "whoami")
    spoiled(changed("body", "/v1/cluster", lambda b: b.replace(b"documents", b"document5")), "whoami")
    spoiled(changed("status", "/v1/whoami", lambda s: s + 1), "whoami")
    spoiled(changed("bulla-state", "/v1/whoami", lambda s: s.replace("alarms=", "alarms=1")), "whoami")
    spoiled(changed("bulla-challenge", "/v1/whoami", lambda s: "B" + s[1:]), "whoami")
    spoiled(changed("signature-input", "/v1/whoami", lambda s: s.replace("res-v1", "res-open-v1")), "whoami")
    first = {}
    spoiled(lambda m, p, reply: first.setdefault(p, reply) if p == "/v1/whoami" else None, "whoami", expect=0)
    spoiled(lambda m, p, reply: first.get(p), "whoami")
    client.store(f"{c.folder}/ahead.json", json.dumps(
        json.load(open(f"{c.folder}/bob.key.state.json")) | {"epoch": 1000}).encode())
    c.python("bob", "whoami", expect=4, state="ahead.json")

    alice = c.client("alice")
    for name, wrong in (("another writer", lambda b: b.replace(b.split(" ")[3], "A" * 43)), ("no binding", lambda b: None),
                        ("two bindings", lambda b: b + "\n\n-> " + b), ("another wrap", lambda b: b.replace(b.split(" ")[1], "a" * 26))):
        right = client.binding
        for opener in (c.python, c.run):
            client.binding = lambda s, right=right, wrong=wrong: wrong(right(s))
            slip = alice.wrap(b"content", ["bob"], "first", 600)
            client.binding = right
            done = opener("bob", "open", slip, expect=4)
            check(f"{name}: nothing comes out", done.stdout == b"" and c.states(slip) == ["nacked"], done)
    slip = alice.wrap(b"content", ["bob"], "first", 600)
    c.python("bob", "open", slip[:-43] + "A" * 43, expect=4)
    c.python("bob", "open", slip, expect=0)


def main():
    test_identities()
    test_evidence()
    test_envelopes()
    test_exchange()
    if os.environ.get("BULLA"):
        with tempfile.TemporaryDirectory() as folder:
            cluster = Cluster(folder, os.path.abspath(os.environ["BULLA"]))
            try:
                for test in (test_flow, test_requests, test_secrets, test_attacks, test_changes):
                    test(cluster)
            finally:
                cluster.server.terminate()
                cluster.server.wait(30)
    else:
        check("BULLA names the program", False)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    import warnings
    warnings.simplefilter("ignore")
    sys.exit(main())
