#!/bin/sh
# Make the secrets of deploy/compose.yaml, each readable by the user of the one container that has it. Keeps those that are there.
#   sudo sh deploy/secrets.sh [FOLDER]
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
# The folder is for its owner alone; containers get single files of it.
chmod 700 "$folder"
write() { # NAME USER VALUE
    [ -e "$folder/$1" ] || printf '%s\n' "$3" > "$folder/$1"
    chmod 400 "$folder/$1"
    if [ "$(id -u)" -eq 0 ]; then chown "$2" "$folder/$1"; fi
}
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
write postgres_password 999 "$(random)"
write owner_password 999 "$(random)"
write service_password 999 "$(random)"
write owner_dsn 10001 "postgresql://postfacta_owner:$(cat "$folder/owner_password")@postgres/postfacta"
write postfacta_database_dsn 10001 "postgresql://postfacta:$(cat "$folder/service_password")@postgres/postfacta"
write postfacta_metrics_token 10001 "$(random)"
write postfacta_rate_store 10001 "async+valkey://valkey:6379"
write metrics_token_of_prometheus 65534 "$(cat "$folder/postfacta_metrics_token")"
write grafana_password 472 "$(random)"
# Addresses and a token of others, once they are there, for the containers that read them.
for name in pager_url ticket_url deadman_url; do if [ -e "$folder/$name" ]; then write "$name" 65534 ""; fi; done
if [ -e "$folder/probe_token" ]; then write probe_token 10001 ""; fi
