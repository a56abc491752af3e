# intent_ref: projections.execution-matches
"""Which executions fit the filters of their list, without their documents: for those who do something about each of them."""

from typing import Any, Final

from domain.immutable import immutable
from domain.values import TenantId
from projections.pages import Listing, bounded, storable

COUNT_MAX: Final = 10_000
"""Where counting ends: past it, there are at least so many."""
SELECTION: Final = """\
         WHERE e.tenant_id = tenant AND e.created_position < before
           AND (in_status IS NULL OR e.status = in_status)
           AND (of_intent IS NULL OR e.intent_id = of_intent)
           AND (of_name IS NULL OR e.intent_name = of_name)
           AND (after_start IS NULL OR e.started_at > after_start)
           AND (before_start IS NULL OR e.started_at < before_start)
           AND (of_key IS NULL OR e.business_key = of_key)
           AND (to_look_at IS NULL OR e.needs_attention = to_look_at)
         ORDER BY e.created_position DESC LIMIT at_most;"""
"""Those of `quantum_read.executions` (`e`) that fit the parameters which the functions of both lists have; newest first."""
FUNCTIONS = f"""
CREATE OR REPLACE FUNCTION quantum.match_executions(
    tenant text, in_status text, of_intent text, of_name text, after_start timestamptz, before_start timestamptz,
    of_key text, to_look_at boolean, before bigint, at_most integer
)
    RETURNS TABLE (created_position bigint, execution_id text, intent_name text, status text)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    RETURN QUERY
        SELECT e.created_position, e.execution_id, e.intent_name, e.status FROM quantum_read.executions AS e
{SELECTION}
END
$$;
REVOKE ALL ON FUNCTION quantum.match_executions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.match_executions TO quantum_app, quantum_platform;
"""  # noqa: S608 - no input in it
_MATCH = "SELECT * FROM quantum.match_executions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_COUNT = "SELECT count(*) FROM quantum.match_executions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
FILTERS: Final = (
    "status", "intent_id", "intent_name", "started_after", "started_before", "business_key", "needs_attention"
)  # fmt: skip


@immutable
class Match:
    """An execution that fits, as the read model has it."""

    execution_id: str
    intent_name: str
    status: str


@immutable
class Matches:
    """Some that fit, newest first, and the cursor of those after them where there are more."""

    items: tuple[Match, ...]
    next_cursor: str | None


async def match_executions(
    tenant_pool: Any, tenant_id: TenantId, filters: dict[str, Any], *, limit: int, cursor: str | None = None
) -> Matches:
    """Those that fit all of `filters`, by the names of `FILTERS`, as `list_executions` has them. Raises `InvalidCursor`."""
    values = _values(filters)
    listing, limit = Listing("execution-matches", tenant_id, values), bounded(limit)
    before = listing.before(cursor)
    if not _may_match(filters):
        return Matches((), None)
    rows = await tenant_pool.fetch(_MATCH, tenant_id, *values, before, limit + 1)
    items = tuple([Match(row[1], row[2], row[3]) for row in rows[:limit]])
    return Matches(items, listing.page(rows, limit).next_cursor)


async def count_executions(tenant_pool: Any, tenant_id: TenantId, filters: dict[str, Any], *, cursor: str | None = None) -> int:
    """How many fit, from the cursor on, where there is one; `COUNT_MAX` where there are so many or more."""
    values = _values(filters)
    before = Listing("execution-matches", tenant_id, values).before(cursor)
    if not _may_match(filters):
        return 0
    count: int = await tenant_pool.fetchval(_COUNT, tenant_id, *values, before, COUNT_MAX)
    return count


def _values(filters: dict[str, Any]) -> tuple[Any, ...]:
    return tuple([filters.get(name) for name in FILTERS])


def _may_match(filters: dict[str, Any]) -> bool:
    return storable(*[value for value in filters.values() if isinstance(value, str)])
