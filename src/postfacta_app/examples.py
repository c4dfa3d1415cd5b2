"""What the help of each subcommand ends with: what it needs, then examples."""

from __future__ import annotations

from typing import Final

EXAMPLES: Final = {
    "serve": """\
Needs a migrated database. It may be down at first: the service starts, and becomes ready once the database is up.

  postfacta serve
  ENVIRONMENT=production postfacta serve --host 0.0.0.0 --port 80
  postfacta serve --dev --port 9000""",
    "migrate": """\
Needs the role that owns the tables, from POSTFACTA_DATABASE_OWNER_DSN, or else POSTFACTA_DATABASE_DSN.
Safe to run while the service is running, repeatedly, and on several machines at once.

  POSTFACTA_DATABASE_OWNER_DSN=postgresql://owner@host/name postfacta migrate""",
    "demo": """\
Needs only a free port and some disk space. Data is kept between runs.

  postfacta demo
  postfacta demo --port 9000""",
    "admin": """\
Needs a migrated database. The password must have 12 to 128 characters.

  postfacta admin create --email ada@example.org --name "Ada"
  postfacta admin create --email ada@example.org --name "Ada" --password-stdin < password.txt

In auth mode supabase the project holds the password; --sub is the user's id there:

  postfacta admin create --email ada@example.org --name "Ada" --sub 8d0fd2b3-9ca7-4d9e-a95f-9e13dded323e""",
    "token": """\
Needs a migrated database. The secret is printed once and cannot be looked up later.

  postfacta token create --name alertmanager --scope signals:write --source alertmanager
  postfacta token create --name dashboard --scope incidents:read --days 90
  postfacta token list
  postfacta token revoke 8d0fd2b3-9ca7-4d9e-a95f-9e13dded323e""",
    "user": """\
Needs a migrated database. Identify a person by e-mail address or id.

  postfacta user list
  postfacta user add --email grace@example.org --name Grace --role responder
  postfacta user role grace@example.org admin
  postfacta user reset-password ada@example.org
  postfacta user sessions ada@example.org
  postfacta user sign-out ada@example.org
  postfacta user disable ada@example.org""",
    "verify": """\
Rebuilds the timeline of each post-mortem revision from the stored facts and compares digests. Read-only; run it
every night and after every restore. Exits with 1 if a digest differs: facts were lost or changed.

  postfacta verify
  postfacta verify --metrics-file /var/lib/node_exporter/postfacta.prom""",
    "rebuild-timeline": """\
Needs the role that owns the tables, as `migrate` does. Compares the entries that the database keeps with those that the
facts give, of the named incidents or of all, and writes those again that differ, while the service runs. With --verify
it changes nothing, and exits with 1 if anything differs.

  postfacta rebuild-timeline --verify
  postfacta rebuild-timeline INC-7 INC-12""",
    "routes": """\
Needs no database.

  postfacta routes | grep admin""",
    "doctor": """\
Needs the settings of the service. Checks settings, port, machine limits, the database (schema, durability,
connections, clock) and time-outs. Exits with 1 if a check fails.

  postfacta doctor && postfacta serve""",
    "smoke": """\
Needs nothing but the address; takes at most 30 s. With a token of the scopes incidents:read and incidents:write it records
an exercise, reads it back and archives it; in a production only with --write. Exits with 0 if all passed, 1 if a check
failed, 2 if it was refused, 77 if one was not run.

  postfacta smoke --url https://postfacta.example.org --token-file token --read-only
  postfacta smoke --url http://10.0.0.7:8080 --token-file token --metrics-token-file metrics_token --expect-version 1.4.0""",
}
