#!/bin/sh
# Runs hpsearch with the database's password from a file, where PGPASSWORD_FILE names one: the
# password is in no layer, no command line and no study.
set -eu
if [ -n "${PGPASSWORD_FILE:-}" ]; then
    PGPASSWORD=$(cat "$PGPASSWORD_FILE")
    export PGPASSWORD
fi
exec hpsearch "$@"
