# intent_ref: quantum.cli-secrets
"""`quantum secrets`: what the file store of secrets holds. A value comes from stdin or a prompt, and is never printed."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from quantum.cli_output import AsJson, DataDir, err, out, print_json
from quantum.settings import Settings, load_settings

if TYPE_CHECKING:
    from modules.secrets.files import SecretFiles

Tenant = Annotated[str, typer.Option("--tenant", help="Whose secrets.")]
Name = Annotated[str, typer.Argument(help="What follows `secret://`.")]
_VALUE_CHARS_MAX = 65_537

program = typer.Typer(
    no_args_is_help=True, help="Secrets in the data directory, encrypted, which steps refer to as secret://NAME."
)


def secret_files(settings: Settings) -> "SecretFiles":
    """The file store of these settings. Raises `modules.key_files.KeyUnusable`."""
    from modules.secrets.files import SecretFiles
    from modules.secrets.keyring import Keyring

    keys = None if settings.secrets_key is None else Keyring.from_setting(settings.secrets_key.get_secret_value())
    return SecretFiles(settings.data_dir / "secrets", keys)


@program.command("set")
def set_secret(name: Name, tenant: Tenant, data_dir: DataDir = None) -> None:
    """Stores a value, in the place of an earlier one: a prompt asks for it, or it is read from stdin (one final newline less)."""
    if sys.stdin.isatty():
        value = typer.prompt(f"Value of secret://{name}", hide_input=True, confirmation_prompt=True, err=True)
    else:
        value = sys.stdin.read(_VALUE_CHARS_MAX).removesuffix("\n").removesuffix("\r")
    secret_files(load_settings(data_dir=data_dir)).write(tenant, name, value)
    out.print(f"secret://{name.lower()} of {tenant} is stored. Running platforms know it within 30 seconds.")


@program.command("list")
def list_secrets(tenant: Tenant, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Names, and when each was changed; never a value."""
    found = secret_files(load_settings(data_dir=data_dir)).stored(tenant)
    if as_json:
        print_json([{"name": one.name, "changed_at": one.changed_at} for one in found])
        return
    for one in found:
        out.print(f"secret://{one.name}  {one.changed_at:%Y-%m-%d %H:%M:%S} UTC")
    if not found:
        out.print(f"{tenant} has no secrets here.")


@program.command("delete")
def delete_secret(name: Name, tenant: Tenant, data_dir: DataDir = None) -> None:
    """Removes a secret; steps that refer to it fail from then on."""
    if not secret_files(load_settings(data_dir=data_dir)).delete(tenant, name):
        err.print(f"{tenant} has no secret://{name.lower()} here.")
        raise typer.Exit(1)
    out.print(f"secret://{name.lower()} of {tenant} is deleted.")


@program.command("rotate-key")
def rotate_key(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Encrypts all tenants' secrets with a new key, or with the first of the setting. Platforms may run meanwhile."""
    done = secret_files(load_settings(data_dir=data_dir)).rotate()
    if as_json:
        print_json({"encrypted": done.encrypted, "damaged": list(done.damaged)})
    else:
        out.print(f"{done.encrypted} secrets are encrypted with the new key.")
        for one in done.damaged:
            err.print(f"[yellow]{one} cannot be opened and stays as it is: store it again, or delete it.[/]")
    if done.damaged:
        raise typer.Exit(1)
