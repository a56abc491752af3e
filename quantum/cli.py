# intent_ref: quantum.cli
"""The command-line program `quantum`.

Each command imports what it needs when it runs, so that `quantum token` does not wait for the parts of a whole platform.
"""

import contextlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.table import Table

from access.roles import Role
from quantum import cli_bulk, cli_events, cli_projections, cli_secrets, cli_streams, cli_triggers
from quantum.cli_output import AsJson, DataDir, err, out, print_json, run
from quantum.settings import ROLES, Settings, load_settings

if TYPE_CHECKING:
    from quantum.app import Platform

_EXPECTED = {
    "access.issuer": ("KeysUnusable", "TokenNotIssuable"),
    "domain.refusals": ("Refusal",),
    "event_store.migrate": ("MigrationError",),
    "event_store.records": ("StoreUnavailable", "StreamBusy"),
    "event_store.tenancy": ("UnsafeRole",),
    "modules.key_files": ("KeyUnusable",),
    "modules.secrets.files": ("SecretNotStorable",),
    "projections.schema": ("RebuildUnderWay",),
    "quantum.cli_events": ("EventsError",),
    "quantum.cli_projections": ("ProjectionError",),
    "quantum.cli_reach": ("PlatformError",),
    "quantum.cli_streams": ("StreamError",),
    "quantum.databases": ("DatabaseNotReady",),
    "quantum.embedded_postgres": ("EmbeddedPostgresError",),
    "quantum.server": ("PortInUse", "ServerEnded"),
    "quantum.settings": ("SettingsError",),
}
"""What may go wrong without anybody having made a mistake in this program, by the module that would have raised it."""

program = typer.Typer(
    name="quantum", no_args_is_help=True, pretty_exceptions_enable=False,
    help="Multi-tenant, intent-driven orchestration on an event log in PostgreSQL.",
)  # fmt: skip
tenants = typer.Typer(no_args_is_help=True, help="Tenants.")
program.add_typer(tenants, name="tenant")
program.add_typer(cli_events.program, name="events")
program.add_typer(cli_bulk.program, name="executions")
program.add_typer(cli_projections.program, name="projections")
program.add_typer(cli_secrets.program, name="secrets")
program.add_typer(cli_streams.program, name="streams")
program.add_typer(cli_triggers.program, name="triggers")


def main() -> None:
    """Runs the program; what can be expected to go wrong ends it with a sentence on stderr and status 1."""
    try:
        program()
    except Exception as fault:
        if not isinstance(fault, _expected()):
            raise
        err.print(f"[bold red]quantum:[/] {escape(_sentence(fault))}")
        sys.exit(1)


def _expected() -> tuple[type[Exception], ...]:
    """Those of `_EXPECTED` that can have happened: whose module is there."""
    loaded = [(sys.modules[module], names) for module, names in _EXPECTED.items() if module in sys.modules]
    return tuple(getattr(module, name) for module, names in loaded for name in names) + _database_faults()


def _database_faults() -> tuple[type[Exception], ...]:
    faults = sys.modules.get("event_store.faults")
    return faults.DATABASE_FAULTS if faults is not None else ()


def _sentence(fault: Exception) -> str:
    faults = "".join(f"\n  {one.pointer}: {one.detail}" for one in getattr(fault, "faults", ()) if hasattr(one, "pointer"))
    return (str(fault) or type(fault).__name__) + faults


@program.callback(invoke_without_command=True)
def _program(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if show_version:
        typer.echo(version("quantum"))
        raise typer.Exit


@program.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: DataDir = None,
    role: Annotated[str | None, typer.Option(help=f"Part of the platform to run: {', '.join(ROLES)}.")] = None,
) -> None:
    """Runs the platform, or one part of it, until Ctrl-C. Logs go to stderr, everything else to stdout."""
    settings = load_settings(host=host, port=port, data_dir=data_dir, role=role)
    from quantum.logs import configure_logging
    from quantum.server import serve

    configure_logging(settings)

    async def ready(platform: "Platform", address: str) -> None:
        out.print(f"Quantum {version('quantum')} serves [bold]{address}[/] as {settings.role}.")
        out.print(f"Docs page: {address}/docs")
        await _say_how_to_get_in(platform)
        out.print("Ctrl-C stops it.")

    run(serve(settings, ready, lambda name: out.print(f"applied {name}")))


async def _say_how_to_get_in(platform: "Platform") -> None:
    """On embedded PostgreSQL a token that works at once. Elsewhere none: what is printed there ends up in somebody's logs."""
    from domain.refusals import TenantExists
    from quantum.tenants import LOCAL, register

    settings = platform.settings
    if settings.auth_issuer is not None:
        out.print(f"Tokens of {escape(settings.auth_issuer)} count.")
    elif settings.embedded_database and settings.role == "all":
        with contextlib.suppress(TenantExists):  # from an earlier start
            await register(platform.store, LOCAL, "Local trials")
        token = platform.issuer.issue([LOCAL], ["platform-admin"], "local-admin", settings.auth_token_hours)
        out.print(f"A token for the tenant [bold]{LOCAL}[/], role platform-admin, good for {settings.auth_token_hours:g} hours:")
        out.print(token)
    else:
        out.print("`quantum token` makes tokens.")
    out.print("`quantum tenant create` registers tenants.")


@program.command()
def token(
    tenant: Annotated[list[str], typer.Option(help="The tenant the token speaks for; may be repeated.")],
    role: Annotated[list[str], typer.Option(help=f"What it may do; may be repeated: {', '.join(get_args(Role))}.")],
    subject: Annotated[str, typer.Option(help="Who carries it; recorded with every event.")] = "cli",
    hours: Annotated[float | None, typer.Option(help="How long it is valid.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Prints a token of the local issuer, and nothing else. Needs no server, and no tenant that is registered."""
    settings = load_settings(data_dir=data_dir)
    from quantum.issuing import local_issuer

    signed = local_issuer(settings).issue(tenant, role, subject, settings.auth_token_hours if hours is None else hours)
    if settings.auth_issuer is not None:
        err.print("[yellow]This platform trusts another issuer (QUANTUM_AUTH_ISSUER): it will refuse this token.[/]")
    typer.echo(signed)


@tenants.command("create")
def create_tenant(
    tenant_id: Annotated[str, typer.Argument(help="A slug such as tenant-123.")],
    name: Annotated[str | None, typer.Option(help="Its name for people; the id unless said.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Registers a tenant; works with the platform up or down."""
    settings = load_settings(data_dir=data_dir)
    document = run(_create_tenant(settings, tenant_id, name or tenant_id))
    if as_json:
        print_json(document)
    else:
        out.print(f"The tenant [bold]{tenant_id}[/] is registered.")


async def _create_tenant(settings: Settings, tenant_id: str, name: str) -> dict[str, Any]:
    from domain.values import TenantId
    from quantum.databases import event_store
    from quantum.tenants import register

    async with event_store(settings) as store:
        return await register(store, TenantId(tenant_id), name)


@program.command()
def migrate(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Brings the database to the schema of this release; what has been applied already is left alone."""
    settings = load_settings(data_dir=data_dir)
    done = run(_migrate(settings, quiet=as_json))
    if as_json:
        print_json({"applied": done})
    elif not done:
        out.print("Nothing to do: the schema is that of this release.")


async def _migrate(settings: Settings, *, quiet: bool) -> list[str]:
    from quantum.databases import DatabaseNotReady
    from quantum.embedded_postgres import EmbeddedPostgres
    from quantum.schema import upgrade

    done: list[str] = []

    def report(name: str) -> None:
        done.append(name)
        if not quiet:
            out.print(f"applied {name}")

    if settings.embedded_database:
        server = EmbeddedPostgres(settings.data_dir)
        await server.start(report)
        await server.stop()
        return done
    if settings.database_owner_url is None:
        raise DatabaseNotReady(
            "Set QUANTUM_DATABASE_OWNER_URL to a login that may create roles and schemas, for this command only."
        )
    await upgrade(settings.database_owner_url.get_secret_value(), report)
    return done


@program.command()
def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Checks everything the platform depends on, and says how to mend what is wrong. Ends with status 1 if anything is."""
    from quantum.doctor import diagnose

    findings = run(diagnose(data_dir))
    if as_json:
        print_json([{"check": f.check, "ok": f.ok, "detail": f.detail, "mend": f.mend} for f in findings])
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for found in findings:
            table.add_row("[green]ok[/]" if found.ok else "[bold red]wrong[/]", found.check, escape(found.detail))
            if found.mend:
                table.add_row("", "", f"[yellow]→ {escape(found.mend)}[/]")
        out.print(table, soft_wrap=False)
    if not all(found.ok for found in findings):
        raise typer.Exit(1)


@program.command()
def demo(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Keep the demo's data here instead of throwing it away.")
    ] = None,
) -> None:
    """Takes a deployment intent from definition to completed execution, and proves each claim by a query."""
    from quantum.demo import tell

    raise typer.Exit(run(tell(data_dir)))
