"""age files of version 1, for keys of the kinds mlkem768x25519 and X25519 (spec/envelope.md).

Nothing in here is Bulla's own: any age library with these two kinds does the same.
"""
import base64, hashlib, hmac, re, secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class Refused(Exception):
    """Something does not verify."""


def need(condition, what):
    if not condition:
        raise Refused(what)


def b64(data, url=False, pad=True):
    text = base64.b64encode(data, b"-_" if url else b"+/").decode()
    return text if pad else text.rstrip("=")


def unb64(text, url=False, pad=True):
    """Bytes have one spelling; any other is refused."""
    try:
        data = base64.b64decode(text + ("" if pad else "=" * (-len(text) % 4)), b"-_" if url else b"+/", True)
    except ValueError:
        raise Refused("base64") from None
    need(b64(data, url, pad) == text, "base64")
    return data


def hkdf(salt, info, secret):
    return HKDF(hashes.SHA256(), 32, salt, info.encode()).derive(secret)


BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def checksum(hrp, values):
    total = 1
    for v in [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp] + values:
        top, total = total >> 25, (total & 0x1FFFFFF) << 5 ^ v
        for i, g in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            total ^= g if top >> i & 1 else 0
    return total


def regroup(values, have, want):
    number = bits = 0
    out = []
    for v in values:
        number, bits = number << have | v, bits + have
        while bits >= want:
            bits -= want
            out.append(number >> bits & (1 << want) - 1)
        number &= (1 << bits) - 1
    return out, number, bits


def bech32(hrp, data):
    values, rest, bits = regroup(data, 8, 5)
    values += [rest << 5 - bits] if bits else []
    check = checksum(hrp, values + [0] * 6) ^ 1
    return hrp + "1" + "".join(BECH32[v] for v in values + [check >> 5 * (5 - i) & 31 for i in range(6)])


def unbech32(hrp, text):
    need(text.startswith(hrp + "1"), "bech32: prefix")
    values = [BECH32.find(c) for c in text[len(hrp) + 1:]]
    need(len(values) > 6 and -1 not in values and checksum(hrp, values) == 1, "bech32")
    data, rest, bits = regroup(values[:-6], 5, 8)
    need(bits < 5 and rest == 0, "bech32: padding")
    return bytes(data)


HPKE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
HPKE_INFO = b"age-encryption.org/mlkem768x25519"
X_INFO = "age-encryption.org/v1/X25519"


def exchange(private, public):
    try:
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Refused("an X25519 share of small order") from None


def recipient(text):
    """What an age recipient is: (kind, key bytes). Kinds: mlkem768x25519, X25519, ssh-…, tag."""
    if text.startswith("age1tagpq1"):
        return "tag", unbech32("age1tagpq", text)
    if text.startswith("ssh-"):
        words = text.split(" ")
        need(len(words) == 2 and words[0] in ("ssh-ed25519", "ssh-rsa"), f"no recipient: {text}")
        return words[0], unb64(words[1])
    kind, hrp, size = ("mlkem768x25519", "age1pq", 1216) if text.startswith("age1pq1") else ("X25519", "age", 32)
    key = unbech32(hrp, text)
    need(len(key) == size and int.from_bytes(key[-32:], "little") < 2**255 - 19, "recipient")
    exchange(x25519.X25519PrivateKey.generate(), key[-32:])
    if kind == "mlkem768x25519":
        coefficients, _, _ = regroup(key[1151::-1], 8, 12)  # 768 numbers of 12 bits, little-endian
        need(max(coefficients) < 3329, "recipient")
    return kind, key


def hybrid(text):
    return recipient(text)[0] in ("mlkem768x25519", "tag")


class DecryptionKey:
    """A seed of 32 bytes, hybrid or classical."""
    def __init__(self, seed, pq):
        self.seed, self.pq = seed, pq
        if pq:
            parts = hashlib.shake_256(seed).digest(96)
            self.x = x25519.X25519PrivateKey.from_private_bytes(parts[64:])
            post = mlkem.MLKEM768PrivateKey.from_seed_bytes(parts[:64])
            self.key = hpke.MLKEM768X25519PrivateKey(post, self.x)
            self.public = post.public_key().public_bytes_raw() + self.x.public_key().public_bytes_raw()
        else:
            self.x = x25519.X25519PrivateKey.from_private_bytes(seed)
            self.public = self.x.public_key().public_bytes_raw()
        self.recipient = bech32("age1pq" if pq else "age", self.public)

    def open(self, stanza):
        """The file key, or None if the stanza is for somebody else."""
        kind, args, body = stanza
        if kind != ("mlkem768x25519" if self.pq else "X25519"):
            return None
        need(len(args) == 1 and len(body) == 32, "stanza")
        share = unb64(args[0], pad=False)
        need(len(share) == (1120 if self.pq else 32), "stanza")
        secret = exchange(self.x, share[-32:])
        try:
            if self.pq:
                return HPKE.decrypt(share + body, self.key, HPKE_INFO)
            return ChaCha20Poly1305(hkdf(share + self.public, X_INFO, secret)).decrypt(bytes(12), body, None)
        except InvalidTag:
            return None


def encrypt(content, recipients, binding=None):
    file_key, stanzas = secrets.token_bytes(16), []
    for text in recipients:
        kind, key = recipient(text)
        if kind == "mlkem768x25519":
            public = hpke.MLKEM768X25519PublicKey(mlkem.MLKEM768PublicKey.from_public_bytes(key[:1184]),
                                                  x25519.X25519PublicKey.from_public_bytes(key[1184:]))
            sealed = HPKE.encrypt(file_key, public, HPKE_INFO)
            share, body = sealed[:1120], sealed[1120:]
        elif kind == "X25519":
            once = x25519.X25519PrivateKey.generate()
            share = once.public_key().public_bytes_raw()
            body = ChaCha20Poly1305(hkdf(share + key, X_INFO, exchange(once, key))).encrypt(bytes(12), file_key, None)
        else:
            raise Refused(f"this client does not encrypt to {kind}")
        stanzas.append(f"-> {kind} {b64(share, pad=False)}\n{b64(body, pad=False)}\n")
    stanzas += [f"-> {binding}\n\n"] if binding else []
    header = ("age-encryption.org/v1\n" + "".join(stanzas) + "---").encode()
    mac = hmac.digest(hkdf(b"", "header", file_key), header, "sha256")
    nonce = secrets.token_bytes(16)
    cipher, out = ChaCha20Poly1305(hkdf(nonce, "payload", file_key)), [header, b" ", b64(mac, pad=False).encode(), b"\n", nonce]
    count = max(1, -(-len(content) // 65536))
    for i in range(count):
        out.append(cipher.encrypt(i.to_bytes(11, "big") + bytes([i == count - 1]), content[i << 16:i + 1 << 16], None))
    return b"".join(out)


def decrypt(data, key):
    """Content and stanzas of an age file; nothing is given out before all of it is checked."""
    position = 0

    def line():
        nonlocal position
        end = data.find(b"\n", position, position + 262144)
        need(end >= 0, "age header")
        text, position = data[position:end], end + 1
        need(all(32 <= c < 127 for c in text), "age header")
        return text.decode()
    need(line() == "age-encryption.org/v1", "age version")
    stanzas = []
    while (head := line()).startswith("-> "):
        kind, *args = head[3:].split(" ")
        need(kind and all(args), "age stanza")
        body = ""
        while True:
            part = line()
            need(len(part) <= 64, "age stanza")
            body += part
            if len(part) < 64:
                break
        stanzas.append((kind, args, unb64(body, pad=False)))
    mark = position - len(head) - 1 + 3
    mac = re.fullmatch(r"--- ([A-Za-z0-9+/]{43})", head)
    need(mac and stanzas and position <= 262144 and len(data) >= position + 16, "age header")
    mac = unb64(mac[1], pad=False)
    need(all(kind != "scrypt" for kind, _, _ in stanzas), "passphrase")
    keys = [found for found in [key.open(s) for s in stanzas] if found]
    need(keys, "no stanza is for this key")
    need(hmac.compare_digest(hmac.digest(hkdf(b"", "header", keys[0]), data[:mark], "sha256"), mac), "age header MAC")
    cipher = ChaCha20Poly1305(hkdf(data[position:position + 16], "payload", keys[0]))
    rest, out = data[position + 16:], []
    count = max(1, -(-len(rest) // 65552))
    for i in range(count):
        try:
            out.append(cipher.decrypt(i.to_bytes(11, "big") + bytes([i == count - 1]),
                                      rest[i * 65552:(i + 1) * 65552], None))
        except (InvalidTag, ValueError):
            raise Refused("age payload") from None
    need(count == 1 or out[-1], "age payload")
    return b"".join(out), stanzas
