#!/bin/sh
# Run once, by the image of PostgreSQL, on an empty folder: the roles and the database of docs/how-to/run-it-for-real.md.
set -eu
psql -X -q -v ON_ERROR_STOP=1 -U postgres -d postgres \
    -v owner="$(cat /run/secrets/owner_password)" -v service="$(cat /run/secrets/service_password)" <<'SQL'
create role postfacta_app nologin;
create role postfacta_owner login password :'owner';
create role postfacta login password :'service' in role postfacta_app;
create database postfacta owner postfacta_owner template template0 encoding 'UTF8';
SQL
