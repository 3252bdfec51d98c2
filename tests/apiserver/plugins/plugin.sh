#!/bin/sh
# What kmscheck orders of Bulla's plugin: plugin.sh MEMBERS BINARY DIR ORDER [SOCKET INSTANCE], or as ORDER
# retirable INSTANCE PROVIDER OLD APISERVERS METRICS
# MEMBERS is a list of bulla, pkcs11, vault, age, tpm, aws and cloud with commas between; several are combined in policy degraded.
set -eu
members=$(echo "$1" | tr , ' ') bulla=$2 dir=$3 order=$4
shift 4
# Nothing of whoever runs the tests.
unset BULLA_IDENTITY BULLA_ADDR BULLA_CLUSTER BULLA_CONTEXT || true
export HOME="$dir/home" XDG_CONFIG_HOME="$dir/home/.config" XDG_STATE_HOME="$dir/home/.state"
export SOFTHSM2_CONF="$dir/softhsm.conf"
mkdir -p "$HOME"
admin="$bulla --quiet --identity $dir/alice.key"
module=/usr/lib/softhsm/libsofthsm2.so

tpm_module=/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so
# Of the TPM of this instance: as on a node, the module finds it by its environment.
tpm() {
    export TPM2_PKCS11_STORE="$dir/tpm-$1" TPM2_PKCS11_TCTI="swtpm:path=$dir/tpm-$1.sock" TPM2TOOLS_TCTI="swtpm:path=$dir/tpm-$1.sock"
    # What the last program left in its three places is forgotten, as a resource manager (/dev/tpmrm0) does it.
    for kind in -t -l -s; do tpm2_flushcontext $kind; done
}
tpm_tool() {
    tpm "$1"
    shift
    pkcs11-tool --module $tpm_module "$@"
}
tpm_uri() {
    echo "pkcs11:token=tpm;object=node?module-path=$tpm_module&pin-source=file:$dir/pin"
}

# AWS KMS as moto has it, which all cases share and which looks at no signature.
moto() {
    signed='AWS4-HMAC-SHA256 Credential=AKIAONE/20260101/eu-west-1/kms/aws4_request, SignedHeaders=host, Signature=0'
    curl --silent --show-error --fail --max-time 30 --header "X-Amz-Target: TrentService.$1" --header "Authorization: $signed" \
        --header 'Content-Type: application/x-amz-json-1.1' --data "$2" "$BULLA_TEST_MOTO_ORIGIN/"
}

bao() {
    BAO_ADDR="https://127.0.0.1:$(cat "$dir/port")" BAO_CACERT="$dir/vault-ca.pem" BAO_TOKEN=root "$BULLA_TEST_OPENBAO" "$@"
}

# A program that runs beside the plugins; a token needs none.
backend_bulla() {
    "$bulla" --quiet keygen -o "$dir/alice.key" --name alice
    exec "$bulla" server --transient --admin "$dir/alice.pub" --listen 127.0.0.1:0 --audit "$dir/audit.jsonl" \
        --ready-file "$dir/ready.json"
}
backend_vault() {
    # Below the range from which the kernel gives ports to those who ask for any.
    # It listens on two, this one and the next: processes that begin together have numbers beside each other.
    port=$((10000 + $$ * 4 % 22000))
    taken() { grep -qi ":$(printf %04x "$1") 0*:0000 0A " /proc/net/tcp /proc/net/tcp6; }
    while taken "$port" || taken $((port + 1)); do port=$((port + 4)); done
    echo "$port" > "$dir/port"
    exec "$BULLA_TEST_OPENBAO" server -dev -dev-tls -dev-no-store-token -dev-root-token-id=root \
        -dev-listen-address="127.0.0.1:$port" -dev-tls-cert-dir="$dir" -log-level=error
}
# A TPM in software for each of two nodes. Making an RSA key in one takes seconds, so all cases have copies of the first ones.
backend_tpm() {
    for node in 1 2; do
        first="$dir/../../tpm-$node"
        if mkdir "$first" 2> /dev/null; then
            (dir=$first; tpm_made "$node")
            : > "$first/made"
        fi
        until [ -e "$first/made" ]; do sleep 0.05; done
        cp -R "$first/tpm-$node" "$first/tpm-$node.state" "$dir"
        tpm_run "$node"
    done
    wait
}
tpm_run() {
    swtpm socket --tpm2 --tpmstate "dir=$dir/tpm-$1.state" --server "type=unixio,path=$dir/tpm-$1.sock" \
        --ctrl "type=unixio,path=$dir/tpm-$1.sock.ctrl" --flags not-need-init,startup-clear > /dev/null 2>&1 &
    until [ -e "$dir/tpm-$1.sock" ] && [ -e "$dir/tpm-$1.sock.ctrl" ]; do sleep 0.05; done
    : > "$dir/tpm-$1.runs"
}
tpm_made() {
    mkdir "$dir/tpm-$1" "$dir/tpm-$1.state"
    tpm_run "$1"
    tpm_tool "$1" --slot-index 0 --init-token --label tpm --so-pin 12345678
    tpm_tool "$1" --token-label tpm --login --login-type so --so-pin 12345678 --init-pin --pin 1234
    tpm_tool "$1" --token-label tpm --login --pin 1234 --keypairgen --key-type rsa:2048 --usage-decrypt --label node --id 07
    kill $!
    wait $! || true
}

# A cloud that is a process of this test of the program BULLA_TEST_CLOUDS (crates/testkit/src/cloud.rs).
backend_cloud() {
    TMPDIR="$dir" BULLA_TEST_CLOUD="$dir" exec "$BULLA_TEST_CLOUDS" --exact "$BULLA_TEST_CLOUD_TEST" --nocapture
}

setup_bulla() {
    until [ -e "$dir/ready.json" ]; do sleep 0.05; done
    $admin init --name test --admin "$dir/alice.pub" --ready-file "$dir/ready.json" --save-context test
    $admin unseal --yes
    "$bulla" --quiet keygen -o "$dir/node.key" --name node
    $admin principal add "$dir/node.pub" --group nodes
    cat > "$dir/kms.cedar" <<'POLICY'
permit (
    principal in Bulla::Group::"admins",
    action in [Bulla::Action::"transit.create", Bulla::Action::"transit.configure", Bulla::Action::"transit.rotate"],
    resource
);
permit (
    principal in Bulla::Group::"nodes",
    action in [Bulla::Action::"transit.read", Bulla::Action::"transit.encrypt", Bulla::Action::"transit.decrypt"],
    resource
);
POLICY
    $admin policy put kms "$dir/kms.cedar"
    $admin transit create kubernetes
    # Of several members one that does not wrap by its older version any more is one away, until its newer one is seen.
    [ "$members" = bulla ] || $admin transit configure kubernetes --min-encryption-version 1
}
setup_pkcs11() {
    mkdir -p "$dir/tokens"
    printf 'directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n' "$dir" > "$SOFTHSM2_CONF"
    (umask 077 && echo 1234 > "$dir/pin")
    softhsm2-util --init-token --free --label kms --so-pin 87654321 --pin 1234
    pkcs11-tool --module $module --token-label kms --login --pin 1234 --keygen --key-type AES:32 --label k8s --id 0123 \
        --private --sensitive --usage-decrypt
}
setup_age() {
    "$bulla" --quiet keygen -o "$dir/box.key" --name box
    "$bulla" --quiet kms keyfile create "$dir/keys.age" --node box="$dir/box.pub" --identity "$dir/box.key"
}
# The identity of a node, bound to its TPM; this tells its recipient.
tpm_node() {
    until [ -e "$dir/tpm-$1.runs" ]; do sleep 0.05; done
    tpm "$1"
    "$bulla" --quiet kms bind -o "$dir/node-$1.bound" --to "$(tpm_uri)"
}
# The second node is enrolled when it starts, by the identity that is in a safe. Its start is measured, so its TPM has
# been made before: an RSA key takes one in software a time that varies widely.
setup_tpm() {
    until [ -e "$dir/tpm-2.runs" ]; do sleep 0.05; done
    (umask 077 && echo 1234 > "$dir/pin")
    "$bulla" --quiet keygen -o "$dir/box.key" --name safe
    recipient=$(tpm_node 1)
    "$bulla" --quiet kms keyfile create "$dir/keys.age" --node safe="$dir/box.pub" --node node1="$recipient" --identity "$dir/box.key"
}
enrolled() {
    [ -e "$dir/node-$1.bound" ] || {
        recipient=$(tpm_node "$1")
        "$bulla" --quiet kms keyfile enrol "$dir/keys.age" --node "node$1=$recipient" --identity "$dir/box.key"
    }
    tpm "$1"
}
setup_vault() {
    until bao status > /dev/null 2>&1; do sleep 0.1; done
    bao secrets enable transit
    bao write -f transit/keys/k8s
    bao policy write k8s - <<'POLICY'
path "transit/keys/k8s" { capabilities = ["read"] }
path "transit/encrypt/k8s" { capabilities = ["update"] }
path "transit/decrypt/k8s" { capabilities = ["update"] }
POLICY
    (umask 077 && bao token create -policy=k8s -period=1h -field=token > "$dir/token")
}
setup_aws() {
    made=$(moto CreateKey '{"KeyUsage": "ENCRYPT_DECRYPT"}')
    echo "$made" | sed -n 's/.*"Arn": *"\([^"]*\)".*/\1/p' > "$dir/arn"
    (umask 077 && printf '[default]\naws_access_key_id = AKIAONE\naws_secret_access_key = a/b+c=\n' > "$dir/credentials")
}
setup_cloud() {
    until [ -e "$dir/member.toml" ]; do sleep 0.05; done
}

rotate_bulla() { $admin transit rotate kubernetes; }
rotate_vault() { bao write -f transit/keys/k8s/rotate; }
rotate_pkcs11() { :; }
rotate_age() { "$bulla" --quiet kms keyfile rotate "$dir/keys.age" --begins 0s --identity "$dir/box.key"; }
rotate_tpm() { rotate_age; }
rotate_cloud() { echo >> "$dir/rotations"; }

# The key is disabled, and enabled again.
outage_aws() {
    case $1 in on) action=DisableKey ;; off) action=EnableKey ;; esac
    # moto knows no key by its ARN here.
    moto $action "{\"KeyId\": \"$(sed 's,.*/,,' "$dir/arn")\"}"
}

member_bulla() {
    cluster=$("$bulla" context show test -o json | sed -n 's/.*"cluster": *"\([^"]*\)".*/\1/p')
    address=$(sed -n 's/.*"address": *"\([^"]*\)".*/\1/p' "$dir/ready.json")
    printf '[members.central.bulla]\naddress = "https://%s"\ncluster = "%s"\nkey = "kubernetes"\nidentity = "%s/node.key"\n' \
        "$address" "$cluster" "$dir"
}
member_pkcs11() {
    printf '[members.hsm.pkcs11]\nuri = "pkcs11:token=kms;object=k8s;id=%%01%%23?module-path=%s"\npin_file = "%s/pin"\n' \
        "$module" "$dir"
}
member_age() {
    printf '[members.file.age]\nfile = "%s/keys.age"\nidentity = "%s/box.key"\n' "$dir" "$dir"
}
member_tpm() {
    printf '[members.node.age]\nfile = "%s/keys.age"\nidentity = "%s/node-%s.bound"\nbound_to = "%s"\n' \
        "$dir" "$dir" "$instance" "$(tpm_uri)"
}
member_vault() {
    printf '[members.vault.vault]\naddress = "https://127.0.0.1:%s"\nca = "%s/vault-ca.pem"\nkey = "k8s"\n' "$(cat "$dir/port")" "$dir"
    printf 'auth.token.file = "%s/token"\n' "$dir"
}
member_aws() {
    printf '[members.cloud.aws]\nkey = "%s"\nendpoint = "%s"\ncredentials = { file = { path = "%s/credentials" } }\n' \
        "$(cat "$dir/arn")" "$BULLA_TEST_MOTO_ORIGIN" "$dir"
}
member_cloud() { cat "$dir/member.toml"; }

case $order in
backend) for member in $members; do "backend_$member"; done ;;
setup) for member in $members; do "setup_$member"; done ;;
rotate) for member in $members; do "rotate_$member"; done ;;
outage) for member in $members; do "outage_$member" "$1"; done ;;
serve | activated)
    socket=$1 instance=$2
    {
        echo 'cluster = "test"'
        echo "state = \"$dir/state-$instance.json\""
        echo '[socket]'
        [ "$order" = activated ] || echo "path = \"$socket\""
        echo "allow_uids = [$(id -u)]"
        printf '[operations]\naddress = "127.0.0.1:0"\n'
        # A test does not wait for what a cluster waits for.
        printf '[timing]\nperiod_s = 1\nstale_s = 4\npromote_looks = 2\npromote_delay_s = 0\n'
        # One moto, in Python, answers all cases at once: it may take nearly as long as kube-apiserver waits.
        [ "$members" != aws ] || echo 'attempt_ms = 2500'
        [ "$members" = "${members#* }" ] || printf '[combine]\npolicy = "degraded"\nminimum = 1\n'
        for member in $members; do "member_$member"; done
    } > "$dir/kms-$instance.toml"
    [ "$members" != tpm ] || enrolled "$instance"
    # A socket that is passed on is for this very process.
    export LISTEN_PID=$$
    exec "$bulla" kms serve --config "$dir/kms-$instance.toml"
    ;;
decrypts)
    # Where this instance shows its metrics, it told when it began.
    address=$(sed -n 's/.*metrics are shown.*address=\([0-9.:]*\).*/\1/p' "$dir/../plugin-$2.log" | tail -n 1)
    metrics=$(curl --silent --fail --max-time 10 "http://$address/metrics")
    echo "$metrics" | awk '/^bulla_kms_requests_total[{]/ && /method="Decrypt"/ && /outcome="ok"/ { n = $2 } END { print n + 0 }'
    ;;
retirable)
    exec "$bulla" kms rotate status --config "$dir/kms-$1.toml" --provider "$2" --old "$3" --apiservers "$4" --metrics "$5"/*
    ;;
*)
    echo "plugin.sh: there is no order $order" >&2
    exit 2
    ;;
esac
