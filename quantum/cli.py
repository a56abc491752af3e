# intent_ref: quantum.cli
"""The command-line program `quantum`."""

import asyncio
import sys
from collections.abc import Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from access.issuer import KeysUnusable, TokenNotIssuable
from access.roles import ROLES as TOKEN_ROLES
from commands.handle import Envelope, Shell, handle
from commands.tenant import RegisterTenant
from domain.definition import Rules
from domain.documents import tenant_document
from domain.module import Modules
from domain.refusals import Refusal
from domain.values import TenantId
from event_store.faults import DATABASE_FAULTS
from event_store.ids import uuid7
from event_store.migrate import MigrationError
from event_store.records import StoreUnavailable
from event_store.store import EventStore
from event_store.tenancy import UnsafeRole
from quantum import cli_projections
from quantum.app import NotInThisRelease, local_issuer
from quantum.databases import DatabaseNotReady, databases
from quantum.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from quantum.schema import upgrade
from quantum.server import PortInUse, serve
from quantum.settings import ROLES, Settings, SettingsError, load_settings
from quantum.telemetry import configure_logging
from write_api.writing import utc_now

T = TypeVar("T")
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Directory of the embedded database and the issuer's keys.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
EXPECTED: tuple[type[Exception], ...] = (
    SettingsError, EmbeddedPostgresError, DatabaseNotReady, UnsafeRole, MigrationError, NotInThisRelease, PortInUse, Refusal,
    KeysUnusable, TokenNotIssuable, StoreUnavailable, cli_projections.ProjectionError, *DATABASE_FAULTS,
)  # fmt: skip
"""What may go wrong without anybody having made a mistake in this program: told in a sentence."""

out, err = Console(), Console(stderr=True, highlight=False)
program = typer.Typer(
    name="quantum", no_args_is_help=True, pretty_exceptions_enable=False,
    help="Multi-tenant, intent-driven orchestration on an event log in PostgreSQL.",
)  # fmt: skip
tenants = typer.Typer(no_args_is_help=True, help="Tenants.")
program.add_typer(tenants, name="tenant")
program.add_typer(cli_projections.program, name="projections")


def main() -> None:
    """Runs the program; what can be expected to go wrong ends it with a sentence and status 1."""
    try:
        program()
    except EXPECTED as fault:
        err.print(f"[bold red]quantum:[/] {str(fault) or type(fault).__name__}", markup=True, soft_wrap=True)
        sys.exit(1)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def print_json(data: Any) -> None:
    """Prints one JSON document on stdout."""
    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z).decode() + "\n")


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
    """Runs the platform, or one part of it, until Ctrl-C."""
    settings = load_settings(host=host, port=port, data_dir=data_dir, role=role)
    configure_logging(settings)

    def ready(platform: Any, address: str) -> None:
        err.print(f"Quantum {version('quantum')} serves [bold]{address}[/] as [bold]{settings.role}[/] · page {address}/docs")
        if settings.auth_issuer is None:
            token = platform.issuer.issue(["tenant-123"], ["platform-admin"], "local-admin", settings.auth_token_hours)
            err.print(f"A token for tenant-123, role platform-admin, {settings.auth_token_hours:g} hours:")
            err.print(token, soft_wrap=True)
        err.print("Ctrl-C stops it.")

    run(serve(settings, ready, lambda name: err.print(f"applied {name}")))


@program.command()
def token(
    tenant: Annotated[list[str], typer.Option(help="The tenant the token speaks for; may be repeated.")],
    role: Annotated[list[str], typer.Option(help=f"What it may do; may be repeated: {', '.join(TOKEN_ROLES)}.")],
    subject: Annotated[str, typer.Option(help="Who carries it; recorded with every event.")] = "cli",
    hours: Annotated[float | None, typer.Option(help="How long it is valid.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Prints a token of the local issuer, and nothing else. Needs no server."""
    settings = load_settings(data_dir=data_dir)
    typer.echo(local_issuer(settings).issue(tenant, role, subject, hours or settings.auth_token_hours))


@tenants.command("create")
def create_tenant(
    tenant_id: Annotated[str, typer.Argument(help="A slug such as tenant-123.")],
    name: Annotated[str | None, typer.Option(help="Its name for people; the id unless said.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Registers a tenant; works with the platform up or down."""
    settings = load_settings(data_dir=data_dir)
    document = run(_create_tenant(settings, TenantId(tenant_id), name or tenant_id))
    if as_json:
        print_json(document)
    else:
        out.print(f"The tenant [bold]{tenant_id}[/] is registered.")


async def _create_tenant(settings: Settings, tenant_id: TenantId, name: str) -> dict[str, Any]:
    async with databases(settings, join=True) as where:
        store = await EventStore.connect(app_dsn=where.app_dsn, platform_dsn=where.platform_dsn, direct_dsn=where.direct_dsn)
        try:
            command_id = uuid7()
            envelope = Envelope(tenant_id, command_id, "cli", str(command_id))
            command = RegisterTenant(tenant_id=tenant_id, name=name, at=utc_now())
            outcome = await handle(Shell(store, Modules({}), Rules()), command, envelope)
            return tenant_document(outcome.state)
        finally:
            await store.close()


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
    done: list[str] = []

    def report(name: str) -> None:
        done.append(name)
        if not quiet:
            out.print(f"applied {name}")

    if settings.embedded_database:
        async with EmbeddedPostgres(settings.data_dir) as urls:
            await upgrade(urls.owner_dsn, report)
        return done
    if settings.database_owner_url is None:
        raise DatabaseNotReady(
            "Set QUANTUM_DATABASE_OWNER_URL to a login that may create roles and schemas, for this command only."
        )
    await upgrade(settings.database_owner_url.get_secret_value(), report)
    return done


@program.command()
def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Checks everything the platform depends on, and says how to mend what is wrong."""
    from quantum.doctor import diagnose

    findings = run(diagnose(data_dir))
    if as_json:
        print_json([{"check": f.check, "ok": f.ok, "detail": f.detail, "mend": f.mend} for f in findings])
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for found in findings:
            table.add_row("[green]ok[/]" if found.ok else "[bold red]wrong[/]", found.check, found.detail)
            if found.mend:
                table.add_row("", "", f"[yellow]→ {found.mend}[/]")
        out.print(table)
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
