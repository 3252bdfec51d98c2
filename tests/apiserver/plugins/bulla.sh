#!/bin/sh
# What kmscheck orders of Bulla's plugin with a transit key of a Bulla cluster: bulla.sh BINARY DIR ORDER [VALUE…]
set -eu
bulla=$1 dir=$2 order=$3
shift 3
# Nothing of whoever runs the tests.
unset BULLA_IDENTITY BULLA_ADDR BULLA_CLUSTER BULLA_CONTEXT || true
export HOME="$dir/home" XDG_CONFIG_HOME="$dir/home/.config" XDG_STATE_HOME="$dir/home/.state"
admin="$bulla --quiet --identity $dir/alice.key"

case $order in
backend)
    mkdir -p "$HOME"
    "$bulla" --quiet keygen -o "$dir/alice.key" --name alice
    exec "$bulla" server --transient --admin "$dir/alice.pub" --listen 127.0.0.1:0 --audit "$dir/audit.jsonl" \
        --ready-file "$dir/ready.json"
    ;;
setup)
    until [ -e "$dir/ready.json" ]; do sleep 0.05; done
    $admin init --name test --admin "$dir/alice.pub" --ready-file "$dir/ready.json" --save-context test
    $admin unseal --yes
    "$bulla" --quiet keygen -o "$dir/node.key" --name node
    $admin principal add "$dir/node.pub" --group nodes
    cat > "$dir/kms.cedar" <<'POLICY'
permit (
    principal in Bulla::Group::"admins",
    action in [Bulla::Action::"transit.create", Bulla::Action::"transit.rotate"],
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
    ;;
serve | activated)
    socket=$1 instance=$2
    field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$dir/$2"; }
    cluster=$("$bulla" context show test -o json | sed -n 's/.*"cluster": *"\([^"]*\)".*/\1/p')
    {
        echo 'cluster = "test"'
        echo "state = \"$dir/state-$instance.json\""
        echo '[socket]'
        [ "$order" = activated ] || echo "path = \"$socket\""
        echo "allow_uids = [$(id -u)]"
        # A test does not wait for what a cluster waits for.
        echo '[timing]'
        echo 'period_s = 1'
        echo 'stale_s = 4'
        echo 'promote_looks = 2'
        echo 'promote_delay_s = 0'
        echo '[members.central.bulla]'
        echo "address = \"https://$(field address ready.json)\""
        echo "cluster = \"$cluster\""
        echo 'key = "kubernetes"'
        echo "identity = \"$dir/node.key\""
    } > "$dir/kms-$instance.toml"
    # A socket that is passed on is for this very process.
    export LISTEN_PID=$$
    exec "$bulla" kms serve --config "$dir/kms-$instance.toml"
    ;;
rotate) $admin transit rotate kubernetes ;;
*)
    echo "bulla.sh: there is no order $order" >&2
    exit 2
    ;;
esac
