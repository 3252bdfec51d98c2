"""A client of the plugin for Kubernetes over gRPC's own library for Python, which is not Go's: `kms.py TARGET PID`.

TARGET is as gRPC names it, `unix:/run/kms.sock` or `unix-abstract:kms`; PID is the plugin's, which is stopped for a second.
The messages are made of their descriptors, so nothing is generated. Prints `ok` and a case, or fails with an assertion.
"""

import os
import signal
import sys
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

# k8s.io/kms/apis/v2 of Kubernetes: names, numbers and types of the fields.
MESSAGES = {
    "StatusRequest": [],
    "StatusResponse": [("version", 1, "STRING"), ("healthz", 2, "STRING"), ("key_id", 3, "STRING")],
    "EncryptRequest": [("plaintext", 1, "BYTES"), ("uid", 2, "STRING")],
    "EncryptResponse": [("ciphertext", 1, "BYTES"), ("key_id", 2, "STRING"), ("annotations", 3, "MAP")],
    "DecryptRequest": [("ciphertext", 1, "BYTES"), ("uid", 2, "STRING"), ("key_id", 3, "STRING"), ("annotations", 4, "MAP")],
    "DecryptResponse": [("plaintext", 1, "BYTES")],
}
# How protobuf spells map<string, bytes>.
ENTRY = """nested_type {
  name: "AnnotationsEntry" options { map_entry: true }
  field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "value" number: 2 type: TYPE_BYTES label: LABEL_OPTIONAL }
}"""
SEED = bytes(range(32))
# Like kube-apiserver up to 1.31 this library sends the path of a socket as `:authority`, which no HTTP/2 of Rust takes. Newer
# kube-apiservers send this.
AUTHORITY = ("grpc.default_authority", "localhost")
PATIENCE = 10


def messages():
    """The classes of all messages."""
    text = 'name: "api.proto" package: "v2" syntax: "proto3"\n'
    for name, fields in MESSAGES.items():
        text += f'message_type {{ name: "{name}"\n'
        for field, number, kind in fields:
            of = f'type_name: ".v2.{name}.AnnotationsEntry" type: TYPE_MESSAGE label: LABEL_REPEATED' if kind == "MAP" \
                else f"type: TYPE_{kind} label: LABEL_OPTIONAL"
            text += f'field {{ name: "{field}" number: {number} {of} }}\n{ENTRY if kind == "MAP" else ""}\n'
        text += "}\n"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v2.{name}")) for name in MESSAGES}


class Plugin:
    """The three calls."""

    def __init__(self, target, *options):
        self.channel = grpc.insecure_channel(target, [("grpc.initial_reconnect_backoff_ms", 100), *options])
        self.messages = messages()

    def call(self, method, timeout=PATIENCE, **fields):
        made = self.messages[f"{method}Request"](**fields)
        return self.raw(method, made.SerializeToString(), timeout)

    def raw(self, method, body, timeout=PATIENCE):
        answer = self.messages[f"{method}Response"].FromString if f"{method}Response" in self.messages else None
        return self.channel.unary_unary(f"/v2.KeyManagementService/{method}", None, answer)(body, timeout=timeout)

    def round_trip(self):
        sealed = self.call("Encrypt", plaintext=SEED, uid="here")
        assert sealed.key_id == self.call("Status").key_id, sealed.key_id
        assert SEED not in sealed.ciphertext and not sealed.annotations
        opened = self.call("Decrypt", ciphertext=sealed.ciphertext, uid="there", key_id=sealed.key_id)
        assert opened.plaintext == SEED
        return sealed


def ready(plugin):
    """The first answer of a plugin that was just started."""
    end = time.monotonic() + 60
    while True:
        try:
            return plugin.call("Status")
        except grpc.RpcError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def refused(call, *codes, words=""):
    """The call ends with one of these codes, within the time that it has."""
    begun = time.monotonic()
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() in codes, (error.code(), error.details())
        assert words in error.details(), error.details()
        assert time.monotonic() - begun < PATIENCE - 1, "it took the whole time"
        return
    raise AssertionError(f"it was not refused with {codes}")


def altered(plugin, sealed):
    """What was changed opens to nothing. Some bytes name the key, which nobody knows by another name."""
    invalid, unknown = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    for place in range(len(sealed.ciphertext)):
        changed = bytearray(sealed.ciphertext)
        changed[place] ^= 1
        codes = [invalid] if place >= len(sealed.ciphertext) - len(SEED) else [invalid, unknown]
        refused(lambda: plugin.call("Decrypt", ciphertext=bytes(changed), key_id=sealed.key_id), *codes)
    refused(lambda: plugin.call("Decrypt", ciphertext=sealed.ciphertext[:-1], key_id=sealed.key_id), invalid)
    refused(lambda: plugin.call("Decrypt", ciphertext=sealed.ciphertext, key_id=sealed.key_id + "x"), invalid, unknown)
    added = {"ciphertext": sealed.ciphertext, "key_id": sealed.key_id, "annotations": {"a.test": b"b"}}
    refused(lambda: plugin.call("Decrypt", **added), invalid, words="annotations")


def oversized(plugin, _sealed):
    """A plaintext that is too large is refused in words, however large it is."""
    for size in (0, 65, 4096):
        refused(lambda: plugin.call("Encrypt", plaintext=bytes(size)), grpc.StatusCode.INVALID_ARGUMENT, words=f"{size} bytes")
    for size in (64 * 1024, 3 * 1024 * 1024, 64 * 1024 * 1024):
        refused(lambda: plugin.call("Encrypt", plaintext=bytes(size)), grpc.StatusCode.OUT_OF_RANGE, words="too large")


def malformed(plugin, _sealed):
    """What is no message, and what is no method."""
    refused(lambda: plugin.raw("Encrypt", b"\xff\xff\xff"), grpc.StatusCode.INTERNAL)
    refused(lambda: plugin.raw("Nothing", b""), grpc.StatusCode.UNIMPLEMENTED)


def deadline(plugin, pid):
    """A plugin that is stopped answers nobody in time, and goes on afterwards."""
    os.kill(pid, signal.SIGSTOP)
    try:
        refused(lambda: plugin.call("Status", timeout=1), grpc.StatusCode.DEADLINE_EXCEEDED)
    finally:
        os.kill(pid, signal.SIGCONT)
    plugin.round_trip()


def at_once(plugin, _sealed):
    """Many calls on one connection."""
    method = plugin.channel.unary_unary("/v2.KeyManagementService/Status", None, plugin.messages["StatusResponse"].FromString)
    answers = {method.future(b"", timeout=PATIENCE).result().key_id for _ in range(200)}
    calls = [method.future(b"", timeout=PATIENCE) for _ in range(200)]
    answers |= {call.result().key_id for call in calls}
    assert len(answers) == 1, answers


def main():
    target, pid = sys.argv[1], int(sys.argv[2])
    plugin = Plugin(target, AUTHORITY)
    status = ready(plugin)
    assert (status.version, status.healthz) == ("v2", "ok") and 0 < len(status.key_id) <= 1024, status
    sealed = plugin.round_trip()
    print("ok round_trip")
    for case in (altered, oversized, malformed, at_once):
        case(plugin, sealed)
        plugin.round_trip()
        print(f"ok {case.__name__}")
    deadline(plugin, pid)
    print("ok deadline")
    other = Plugin(target)
    if target.startswith("unix-abstract:"):
        other.round_trip()
    else:
        refused(lambda: other.call("Status"), grpc.StatusCode.INTERNAL)
    print("ok authority")


if __name__ == "__main__":
    main()
