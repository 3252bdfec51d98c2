"""Without arguments the vectors of spec/vectors; with ADDRESS CLUSTER ALICE BOB both programs at a server.

ALICE and BOB are identity files of admitted principals. BULLA in the environment is the program, which is to
find the server by itself.
"""

import base64
import collections
import hashlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import zlib
from unittest import mock

import urllib3
from agefile import Identity, Refused, decrypt, digest, to_bech32
from client import REFUSALS, Client, Denied, Request, binding
from evidence import Document, read_admission, read_receipts, read_records, read_wrap

VECTORS = pathlib.Path(__file__).parents[2] / "spec/vectors"
# Limits and forms that the server and the admins hold, and this client does not check again.
LEFT_OUT = re.compile(
    "recipient|rule (keys.recipients|random|admins|k|enrollers|nodes.state|ingress|min_kem|groups|attributes)"
    "|rule (to|to.principal|to.recipients|ct.len|exp_ms|ack_s|label)"
)


def records(case):
    return read_records(case["records"])


def documents(case):
    chain = []
    for envelope in case["documents"]:
        chain.append(Document(envelope, chain[-1] if chain else None))
    if case.get("pin", chain[0].digest) != chain[0].digest:
        raise Refused("other_pin")
    return chain


EVIDENCE = {
    "record": records,
    "genesis": documents,
    "document": documents,
    "admission": lambda case: read_admission(case["admission"], records(case), documents(case)[-1]),
    "statement": lambda case: read_wrap(case["statement"], case["cluster"], records(case)),
    "receipt": lambda case: read_receipts(case["receipts"], documents(case)),
}


def outcome(function, *arguments):
    """`ok`, or why it was refused; the libraries have words of their own."""
    try:
        function(*arguments)
        return "ok"
    except (Refused, Denied) as refusal:
        return refusal.args[0]
    except REFUSALS:
        return "a library refused"


def changed(answer, name):
    """An answer with one bit the other way in this header, or in the body."""
    status, headers, body = answer[0], answer[1].copy(), answer[2]
    value = bytearray(headers[name].encode() if name else body)
    value[len(value) // 2] ^= 1
    if name:
        headers[name], value = value.decode(), body
    return status, headers, bytes(value)


def check_evidence():
    for name, judge in EVIDENCE.items():
        for case in json.loads((VECTORS / f"evidence/{name}.json").read_text()):
            if LEFT_OUT.fullmatch(case["expect"]) or "admins" in case["input"]:
                continue
            expected = "a library refused" if case["expect"] == "key" else case["expect"]
            assert outcome(judge, case["input"]) == expected, (name, case["name"])
            if name == "receipt" and expected == "ok":
                proofs = ["Valid" if receipt.proof else "NotProof" for receipt in judge(case["input"])]
                assert proofs == case["output"], case["name"]
            yield name
            text = json.dumps(case["input"])
            if expected == "ok" and '"sig": "' in text:
                forged = re.sub('(?<="sig": ")(.)', lambda sig: "B" if sig[1] == "A" else "A", text, count=1)
                assert outcome(judge, json.loads(forged)) == "a library refused", (name, case["name"])
                yield "forged"


def check_keys():
    for case in json.loads((VECTORS / "identity/identity.json").read_text()):
        if case["kind"] == "hybrid":
            identity = Identity(case["secret"])
            assert (identity.recipient, identity.key_id) == (case["recipient"], case["key_id"])
            yield "identity"
    for path in (VECTORS / "age-cctv").iterdir():
        head, _, file = path.read_bytes().partition(b"\n\n")
        facts = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        if facts.get("identity", "").startswith("AGE-SECRET-KEY-PQ") and "armored" not in facts:
            file = zlib.decompress(file) if "compressed" in facts else file
            identity = Identity(facts["identity"])
            assert (outcome(decrypt, file, identity) == "ok") == (facts["expect"] == "success"), path
            if facts["expect"] == "success":
                assert hashlib.sha256(decrypt(file, identity)[0]).hexdigest() == facts["payload"], path
            yield "age"


def check_exchanges():
    vectors = json.loads((VECTORS / "exchange/exchange.json").read_text())
    (newest,) = documents(json.loads(base64.b64decode(vectors["exchanges"][0]["response"]["body"])))
    for case in vectors["exchanges"]:
        sent, got = case["request"], case["response"]
        request = Request(sent["method"], sent["path"], sent["query"], base64.b64decode(sent["body"]))
        if sent["headers"]:
            request.media, identity = sent["headers"]["Content-Type"], vectors["identities"][case["signer"]]
            parameters = re.search('created=(.*?);nonce="(.*?)"', sent["headers"]["Signature-Input"])
            challenge = sent["headers"]["Bulla-Challenge"]
            request.sign(Identity(identity), vectors["cluster"], challenge, parameters[2], parameters[1])
            assert request.headers == sent["headers"], case["name"]
        answer = got["status"], got["headers"], base64.b64decode(got["body"])
        request.verify(*answer, newest)
        yield "exchange"
        for name in [None, *got["headers"]]:
            assert outcome(request.verify, *changed(answer, name), newest) != "ok", (case["name"], name)
            yield "changed exchange"
        if not request.headers:
            request.headers = {"Signature": "A request that was signed is answered as such."}
            assert outcome(request.verify, *answer, newest) == "answer"
        if case["name"] == "an opening":
            parcel, _ = decrypt(answer[2], Identity(vectors["wrap"]["claim"]))
            file, reader = parcel[4 + int.from_bytes(parcel[:4]) :], Identity(vectors["identities"]["bob"])
            assert decrypt(file, reader) == (vectors["wrap"]["content"].encode(), vectors["wrap"]["binding"])
            mac = file.index(b"\n--- ") + len(b"\n--- ")
            assert outcome(decrypt, file[:mac] + file[mac:].swapcase(), reader) == "HMAC"
    for state in newest.states.values():
        state["state"] = "retired"
    assert outcome(request.verify, *answer, newest) == "answer"


def check_server(address, cluster, alice_path, bob_path):
    def bulla(*arguments, content=b""):
        command = [os.environ["BULLA"], "--identity", *arguments]
        return subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True).stdout

    def kinds(slip):
        return " ".join(receipt.fields["kind"] for receipt in alice.inspect(slip)[1][0])

    def fresh_claim():
        return Identity(to_bech32("age-secret-key-pq-", os.urandom(32)).upper())

    identities = [Identity(pathlib.Path(path).read_text()) for path in (alice_path, bob_path)]
    alice, bob = [Client(address, cluster, identity) for identity in identities]
    content = os.urandom(200_000)
    slip = alice.wrap(content, "bob")
    assert bulla(bob_path, "open", slip) == content
    assert kinds(slip) == "created opened acked"

    slip = bulla(alice_path, "wrap", "create", "--to", "bob", "-", content=content).decode().strip()
    claim = fresh_claim()
    assert bob.open(slip, claim) == bob.open(slip, claim) == content
    try:
        raise AssertionError(bob.open(slip, fresh_claim()))
    except Denied as denied:
        code, receipt = denied.args
        assert code == "already_opened" and receipt.proof
        wrap, claim_id = slip.split(":")[3], digest(claim.recipient.encode())
        receipt.demand_fields(kind="opened", wrap=wrap, claim_sha256=claim_id)
    bob.finish(slip, claim, "ack")
    assert kinds(slip) == "created opened redelivered refused acked"

    with mock.patch("client.binding", lambda fields: binding(fields | {"from": fields["cluster"]})):
        slip = alice.wrap(content, "bob")
    assert outcome(bob.open, slip, fresh_claim()) == "bound to another statement"
    assert kinds(slip) == "created opened nacked"

    # A challenge that the server does not take: the client signs again with that of the refusal.
    bob.challenge = bob.challenge[:-2] + "AA"
    assert bob.call("GET", "/v1/whoami")["principal"]["name"] == "bob"
    send = bob.send
    for name in (None, "Signature", "Bulla-Challenge"):
        with mock.patch.object(bob, "send", lambda request: changed(send(request), name)):
            assert outcome(bob.call, "GET", "/v1/whoami") in ("answer", "a library refused"), name


if __name__ == "__main__":
    if sys.argv[1:]:
        urllib3.disable_warnings()  # Nobody vouches for the certificate; the answers are signed.
        check_server(*sys.argv[1:])
    else:
        counts = collections.Counter(itertools.chain(check_keys(), check_evidence(), check_exchanges()))
        print(*(f"{name}: {count}" for name, count in counts.items()), sep="\n")
