"""Ciphertexts of transit keys, opened from `spec/transit.md` alone.

    test_transit.py                                     the published vectors
    test_transit.py KIND KEYFILE NAME AD < CIPHERTEXT   one ciphertext, under the bytes of an exported key
"""

import base64
import hashlib
import hmac
import json
import pathlib
import re
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VECTORS = pathlib.Path(__file__).parent / "../../spec/vectors/transit"
CIPHERS = {"aes256-gcm": AESGCM, "chacha20-poly1305": ChaCha20Poly1305}


class Refused(Exception):
    pass


def sha256(data):
    return hashlib.sha256(data).digest()


def lp(data):
    return struct.pack(">I", len(data)) + data


def parse(text):
    made = re.fullmatch(r"bulla:v([1-9][0-9]{0,9}):([A-Za-z0-9_-]*)", text)
    if not made or int(made[1]) > 0xFFFFFFFF:
        raise Refused("malformed")
    return int(made[1]), base64.urlsafe_b64decode(made[2] + "=" * (-len(made[2]) % 4))


def decrypt(kind, key, name, associated_data, text):
    version, made = parse(text)
    place = lp(kind.encode()) + lp(name.encode()) + lp(struct.pack(">I", version))
    if kind.startswith("rsa-"):
        pem = key.startswith(b"-----")
        load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
        private = load(key, None)
        public = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if len(made) < 32:
            raise Refused("ciphertext_damaged")
        if made[:32] != sha256(b"bulla/v1/transit" + place + lp(public)):
            raise Refused("ciphertext_of_other_key")
        label = sha256(b"bulla/v1/transit" + place + lp(associated_data))
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label)
        try:
            return private.decrypt(made[32:], oaep)
        except ValueError:
            raise Refused("ciphertext_damaged") from None
    if len(made) < 80:
        raise Refused("ciphertext_damaged")
    salt, commitment, sealed = made[:32], made[32:64], made[64:]
    derived = HKDF(hashes.SHA256(), 64, salt, b"bulla/v1/transit" + place).derive(key)
    if not hmac.compare_digest(derived[32:], commitment):
        raise Refused("ciphertext_of_other_key")
    try:
        return CIPHERS[kind](derived[:32]).decrypt(bytes(12), sealed, associated_data)
    except InvalidTag:
        raise Refused("ciphertext_damaged") from None


def vectors():
    for file in ["ciphertexts.json", "rsa.json"]:
        cases = json.loads((VECTORS / file).read_text())
        for case in cases:
            key, associated_data = bytes.fromhex(case["key"]), bytes.fromhex(case["associated_data"])
            try:
                found = decrypt(case["kind"], key, case["name"], associated_data, case["ciphertext"]).hex()
            except Refused as refused:
                found = str(refused)
            assert found == case["expect"], case["what"] + ": " + found
        print(f"{file}: {len(cases)}")


if len(sys.argv) == 1:
    vectors()
else:
    _, kind, key, name, associated_data = sys.argv
    plaintext = decrypt(kind, pathlib.Path(key).read_bytes(), name, associated_data.encode(), sys.stdin.read().strip())
    sys.stdout.buffer.write(plaintext)
