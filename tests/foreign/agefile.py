"""Hybrid identities and age files for them (spec/identity-file.md, envelope.md)."""

import base64
import contextlib
import hashlib
import hmac
import os
import re

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

BASE32, BECH32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BECH32_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
HPKE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
INFO, ENC_LENGTH, CHUNK, TAG = b"age-encryption.org/mlkem768x25519", 1120, 64 * 1024, 16
STANZA = rb"-> [!-~]+(?: [!-~]+)*\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n"
HEADER = re.compile(rb"(age-encryption\.org/v1\n((?:%s)+)---) ([A-Za-z0-9+/]{43})\n" % STANZA)


class Refused(ValueError):
    """What arrived is not to be believed. The reason is spelled as in the vectors."""


def demand(condition, reason):
    if not condition:
        raise Refused(reason)


def to_base64(data, altchars=None):
    return base64.b64encode(data, altchars).decode().rstrip("=")


def from_base64(text, altchars=None):
    """The bytes of unpadded base64 in its one spelling."""
    data = base64.b64decode(text + "==", altchars)
    demand(to_base64(data, altchars) == text, "base64")
    return data


def digest(data):
    return "sha256:" + to_base64(hashlib.sha256(data).digest(), b"-_")


def hkdf(salt, info, key):
    return HKDF(hashes.SHA256(), 32, salt, info).derive(key)


def to_bech32(prefix, data):
    text = base64.b32encode(data).decode().rstrip("=").translate(str.maketrans(BASE32, BECH32))
    checksum, expanded = 1, [*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix)]
    for value in expanded + [BECH32.index(c) for c in text + "qqqqqq"]:
        top, checksum = checksum >> 25, (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(BECH32_GENERATORS):
            checksum ^= generator if top >> bit & 1 else 0
    return f"{prefix}1{text}" + "".join(BECH32[(checksum ^ 1) >> place & 31] for place in range(25, -1, -5))


def from_bech32(prefix, text):
    """The bytes. That they spell the same text again holds alphabet, case, checksum and padding bits."""
    words = text[len(prefix) + 1 : -6].translate(str.maketrans(BECH32, BASE32))
    data = base64.b32decode(words + "=" * (-len(words) % 8))
    demand(to_bech32(prefix, data) == text, "bech32")
    return data


class Identity:
    """A signing key and a decryption key, both from the one key in the text of an identity file."""
    def __init__(self, text):
        lines = text.splitlines()
        (key,) = [line for line in lines if line and not line.startswith("#")]
        demand(key == key.upper(), "a damaged key")
        seed = from_bech32("age-secret-key-pq-", key.lower())
        expanded = hashlib.shake_256(seed).digest(96)
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        curve = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
        self.decryption = hpke.MLKEM768X25519PrivateKey(kem, curve)
        public = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        self.recipient = to_bech32("age1pq", public)
        signing = hkdf(b"", b"bulla/v1/identity/sign", seed)
        self.signing = ed25519.Ed25519PrivateKey.from_private_bytes(signing)
        public = self.signing.public_key()
        self.key_id = digest(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        for name, value in {"# key id: ": self.key_id, "# recipient: ": self.recipient}.items():
            demand(all(line == name + value for line in lines if line.startswith(name)), "a false comment")


def chunks(data, size):
    """The pieces of a payload, each with its nonce."""
    starts = range(0, len(data) or 1, size)
    for number, start in enumerate(starts):
        yield number.to_bytes(11) + bytes([number == len(starts) - 1]), data[start : start + size]


def encrypt(content, recipients, binding):
    """An age file; `binding` is the extra stanza without its arrow."""
    file_key, nonce, header = os.urandom(16), os.urandom(16), "age-encryption.org/v1\n"
    for recipient in recipients:
        public = from_bech32("age1pq", recipient)
        kem = mlkem.MLKEM768PublicKey.from_public_bytes(public[:-32])
        curve = x25519.X25519PublicKey.from_public_bytes(public[-32:])
        sealed = HPKE.encrypt(file_key, hpke.MLKEM768X25519PublicKey(kem, curve), info=INFO)
        header += f"-> mlkem768x25519 {to_base64(sealed[:ENC_LENGTH])}\n{to_base64(sealed[ENC_LENGTH:])}\n"
    header += f"-> {binding}\n\n---"
    cipher = ChaCha20Poly1305(hkdf(nonce, b"payload", file_key))
    payload = b"".join(cipher.encrypt(*numbered, None) for numbered in chunks(content, CHUNK))
    mac = to_base64(hmac.digest(hkdf(b"", b"header", file_key), header.encode(), "sha256"))
    return f"{header} {mac}\n".encode() + nonce + payload


def decrypt(file, identity):
    """Content and binding (None without one) of an age file. Nothing is given out before all is verified."""
    header = HEADER.match(file[: 256 * 1024])
    demand(header and len(file) >= header.end() + 16, "header")
    file_keys, bindings = [], []
    for stanza in header[2].decode()[len("-> ") : -1].split("\n-> "):
        line, *body = stanza.split("\n")
        (kind, *words), body = line.split(" "), from_base64("".join(body))
        demand(kind != "scrypt", "passphrase")
        if kind == "bulla-wrap-v1":
            bindings.append(line + body.hex())
        if kind == "mlkem768x25519":
            demand(len(words) == 1 and len(body) == 32 and len(from_base64(words[0])) == ENC_LENGTH, "header")
            with contextlib.suppress(InvalidTag):  # Then it is for somebody else.
                file_keys.append(HPKE.decrypt(from_base64(words[0]) + body, identity.decryption, info=INFO))
    demand(len(bindings) <= 1, "binding")
    demand(file_keys, "no match")
    mac = to_base64(hmac.digest(hkdf(b"", b"header", file_keys[0]), header[1], "sha256"))
    demand(hmac.compare_digest(header[3].decode(), mac), "HMAC")
    nonce, payload = file[header.end() : header.end() + 16], file[header.end() + 16 :]
    cipher = ChaCha20Poly1305(hkdf(nonce, b"payload", file_keys[0]))
    pieces = [cipher.decrypt(*numbered, None) for numbered in chunks(payload, CHUNK + TAG)]
    demand(pieces[-1] or len(pieces) == 1, "payload")
    return b"".join(pieces), bindings[0] if bindings else None
