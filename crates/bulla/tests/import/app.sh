#!/bin/sh
# The sample application: it takes its password from the environment, and knows nothing of where that came from.
set -eu
printf 'logged in as %s, password %s\n' "$DB_USER" "$(printf %s "$DB_PASSWORD" | sha256sum | cut -c1-16)"
