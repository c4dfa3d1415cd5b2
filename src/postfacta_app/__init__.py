"""An incident service on PostgreSQL.

This module lists its subcommands without importing any extra.
"""

COMMANDS = {
    "serve": "run the service (needs a migrated database)",
    "migrate": "create or upgrade the tables (needs the owner role)",
    "demo": "run everything on this machine, database included",
    "user": "add and list people, reset passwords, end sessions (needs a migrated database)",
    "token": "create, list and revoke API tokens (needs a migrated database)",
    "verify": "rebuild all timelines and compare their digests",
    "routes": "list the routes, with the access that each needs",
    "doctor": "check the installation and suggest fixes",
    "smoke": "check a deployed service from outside, by its address",
}
