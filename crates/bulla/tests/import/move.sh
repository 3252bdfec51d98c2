#!/bin/sh
# The move of the sample application from Vault to Bulla, step by step, as the manual leads through it.
#
# BAO and BULLA are the two programs, BAO_ADDR, BAO_CACERT and VAULT_TOKEN lead to the old service, APP is the
# application. The caller of Bulla administers the cluster.
set -eu

# How it was: the application's start fetches what it needs from Vault.
DB_USER=$(BAO_TOKEN=$VAULT_TOKEN "$BAO" kv get -field=user secret/shop/db) \
  DB_PASSWORD=$(BAO_TOKEN=$VAULT_TOKEN "$BAO" kv get -field=password secret/shop/db) \
  sh "$APP" > before.txt

# What is there, and what would happen.
"$BULLA" import vault "$BAO_ADDR" --ca "$BAO_CACERT"
"$BULLA" import vault "$BAO_ADDR" --ca "$BAO_CACERT" --kv secret/shop --to apps --policies drafts --dry-run
test ! -e drafts

# It happens.
"$BULLA" import vault "$BAO_ADDR" --ca "$BAO_CACERT" --kv secret/shop --to apps --policies drafts

# Somebody has read the draft, and puts it. The application gets a key in place of a token.
"$BULLA" policy put shop drafts/shop.cedar
"$BULLA" keygen -o shop.key
"$BULLA" principal add shop.pub --group vault-shop

# How it is: no token, and nothing of Vault.
unset BAO_ADDR BAO_CACERT VAULT_TOKEN
"$BULLA" --identity shop.key run \
  --env DB_USER=kv/apps/shop/db#user --env DB_PASSWORD=kv/apps/shop/db#password -- sh "$APP" > after.txt
cmp before.txt after.txt
