"""Grant the service's role the rights it needs, without any to change recorded facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from postfacta_postgres.connecting import RawConnection


def _lacking(role: str) -> str:
    # Fact tables have a trigger that rejects changes. The version is read for readiness; what is derived is kept by triggers.
    return f"""
select verb, object from (
  select v.verb, format('%I', c.relname) as object, has_table_privilege({role}, c.oid, v.verb) as has_it
    from pg_class c left join pg_trigger t on t.tgrelid = c.oid and t.tgname = 'append_only',
         unnest(array['select', 'insert', 'update', 'delete']) as v (verb)
   where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and case
     when t.tgname is not null then v.verb in ('select', 'insert')
     when c.relname in ('alembic_version', 'incident_measures', 'timeline_entries') then v.verb = 'select'
     when c.relname in ('idempotency_keys', 'tokens') then true
     when c.relname in ('incident_labels', 'incident_links') then v.verb <> 'update'
     else c.relname in ('action_items', 'incidents', 'users') and v.verb <> 'delete' end
  union all select 'usage', 'schema public', has_schema_privilege({role}, 'public', 'usage')
) needed where not has_it"""  # noqa: S608 - only role names of this module


LACKS: Final = f"""
select string_agg(verb || ' on ' || object, ', ' order by object, verb) from ({_lacking("current_user")}) lacking"""  # noqa: S608
"""The rights that the current role lacks to run the service; null if none."""

CAN_CHANGE_FACTS: Final = """
select bool_or(pg_has_role(c.relowner, 'member') or has_table_privilege(c.oid, 'update, delete, truncate'))
  from pg_class c join pg_trigger t on t.tgrelid = c.oid where t.tgname = 'append_only'"""
"""Whether the current role could change recorded facts: a superuser, the owner, or one with such rights."""

_HAS_ROLE: Final = "select exists (select from pg_roles where rolname = 'postfacta_app')"
# A role belongs to the whole cluster: another database's migration may create it at the same moment.
_MAKE_ROLE: Final = """
do $$ begin
  create role postfacta_app nologin;
exception when duplicate_object or unique_violation or insufficient_privilege then null; end $$"""
_ADVICE: Final = (
    "role postfacta_app is missing and this role may not create it, so nothing was granted;"
    " run `create role postfacta_app nologin` as a superuser, then `postfacta migrate` again"
)


async def grant(connection: RawConnection, progress: Callable[[str], None]) -> None:
    """Create the role if it is missing and grant its missing rights; the service logs in as a member of it."""
    if not await connection.fetchval(_HAS_ROLE):
        await connection.execute(_MAKE_ROLE)
        if not await connection.fetchval(_HAS_ROLE):
            progress(_ADVICE)
            return
    for verb, name in await connection.fetch(_lacking("'postfacta_app'")):
        await connection.execute(f"grant {verb} on {name} to postfacta_app")
