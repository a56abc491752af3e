# intent_ref: tests.secrets
"""Stored secrets: encrypted, whole, one tenant's alone, and readable by several processes while the key changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modules.key_files import KeyUnusable, platform_key
from modules.secrets.files import SecretFiles, SecretNotStorable
from modules.secrets.keyring import Keyring
from modules.secrets.resolving import SecretUnavailable, SecretUnknown

CANARY = "canary-3f9a7c-value"
READER = """
import sys
from pathlib import Path
from modules.secrets.files import SecretFiles
store = SecretFiles(Path(sys.argv[1]))
print("ready", flush=True)
seen = 0
while not Path(sys.argv[2]).exists() or seen < 20:
    for number in range(5):
        value = store.read("t1", f"s{number}")
        assert value == f"value-{number}", value
        seen += 1
print(seen)
"""
WRITER = """
import sys
from pathlib import Path
from modules.secrets.files import SecretFiles
store = SecretFiles(Path(sys.argv[1]))
for number in range(20):
    store.write("t1", f"{sys.argv[2]}-{number}", "some value")
"""


@pytest.fixture
def store(tmp_path: Path) -> SecretFiles:
    return SecretFiles(tmp_path / "secrets")


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_value_comes_back_and_lies_nowhere_in_clear_text(store: SecretFiles, tmp_path: Path):
    store.write("t1", "db-password", CANARY)
    assert store.read("t1", "db-password") == store.read("t1", "DB-Password") == CANARY
    assert SecretFiles(tmp_path / "secrets").read("t1", "db-password") == CANARY
    assert CANARY.encode() not in content(tmp_path)
    assert [one.name for one in store.stored("t1")] == ["db-password"]
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.suffix in (".secret", ".json")}
    assert modes == {0o600}


def test_another_tenant_has_nothing_of_it_and_a_moved_file_does_not_open(store: SecretFiles, tmp_path: Path):
    store.write("t1", "db", CANARY)
    with pytest.raises(SecretUnknown):
        store.read("t2", "db")
    assert store.stored("t2") == []
    assert not store.delete("t2", "db")
    store.write("t2", "other", "another value")
    (tmp_path / "secrets/t1/db.secret").rename(tmp_path / "secrets/t2/db.secret")
    with pytest.raises(SecretUnavailable, match="damaged or belongs elsewhere"):
        store.read("t2", "db")


@pytest.mark.parametrize("name", ["../t2/db", "", ".", "..", "a/b", "a\0b", "x" * 101, "é"])
def test_a_name_never_leads_out_of_the_tenants_folder(store: SecretFiles, name: str):
    with pytest.raises(SecretNotStorable):
        store.write("t1", name, CANARY)
    with pytest.raises(SecretUnknown):
        store.read("t1", name)
    with pytest.raises(SecretNotStorable):
        store.write("../t1", "db", CANARY)


@pytest.mark.parametrize("keep", [0, 1, 40, -1])
def test_a_truncated_file_is_an_error_and_never_a_part_of_the_value(store: SecretFiles, tmp_path: Path, keep: int):
    store.write("t1", "db", CANARY)
    path = tmp_path / "secrets/t1/db.secret"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SecretUnavailable) as raised:
        store.read("t1", "db")
    assert CANARY not in str(raised.value)


def test_a_changed_byte_is_found(store: SecretFiles, tmp_path: Path):
    store.write("t1", "db", CANARY)
    path = tmp_path / "secrets/t1/db.secret"
    box = json.loads(path.read_bytes())
    box["box"] = ("A" if box["box"][0] != "A" else "B") + box["box"][1:]
    path.write_text(json.dumps(box))
    with pytest.raises(SecretUnavailable):
        store.read("t1", "db")


def test_with_the_wrong_key_nothing_opens(store: SecretFiles, tmp_path: Path):
    store.write("t1", "db", CANARY)
    with pytest.raises(SecretUnavailable, match="not on the keyring"):
        SecretFiles(tmp_path / "secrets", Keyring([b"x" * 32])).read("t1", "db")


def test_a_keyring_that_others_can_read_is_refused(store: SecretFiles, tmp_path: Path):
    store.write("t1", "db", CANARY)
    (tmp_path / "secrets/keyring.json").chmod(0o644)
    with pytest.raises(SecretUnavailable, match="chmod 600"):
        SecretFiles(tmp_path / "secrets").read("t1", "db")


@pytest.mark.parametrize("text", ["", "short", "AAAA", "?", ",", "A" * 44 + "," + "x"])
def test_a_key_in_a_setting_that_is_none_is_refused_without_being_repeated(text: str):
    with pytest.raises(KeyUnusable) as raised:
        Keyring.from_setting(text)
    assert not text.strip("?,") or text not in str(raised.value)


def test_rotation_encrypts_everything_anew_and_forgets_the_old_key(store: SecretFiles, tmp_path: Path):
    store.write("t1", "db", CANARY)
    store.write("t2", "db", "another value")
    old = (tmp_path / "secrets/keyring.json").read_bytes()
    running = SecretFiles(tmp_path / "secrets")
    assert running.read("t1", "db") == CANARY
    assert store.rotate().encrypted == 2
    new = json.loads((tmp_path / "secrets/keyring.json").read_bytes())["keys"]
    assert len(new) == 1
    assert new[0].encode() not in old
    assert running.read("t1", "db") == CANARY
    running.write("t1", "db", "a newer value")
    assert store.read("t1", "db") == "a newer value"


def test_rotation_leaves_what_it_cannot_open_and_keeps_the_old_key_for_it(store: SecretFiles, tmp_path: Path):
    store.write("t1", "db", CANARY)
    store.write("t1", "bad", CANARY)
    (tmp_path / "secrets/t1/bad.secret").write_bytes(b"{")
    done = store.rotate()
    assert (done.encrypted, done.damaged) == (1, ("t1/bad",))
    assert len(json.loads((tmp_path / "secrets/keyring.json").read_bytes())["keys"]) == 2
    assert store.read("t1", "db") == CANARY


def test_keys_of_a_setting_rotate_to_the_first(tmp_path: Path):
    first, second = b"1" * 32, b"2" * 32
    SecretFiles(tmp_path, Keyring([first])).write("t1", "db", CANARY)
    both = SecretFiles(tmp_path, Keyring([second, first]))
    assert both.read("t1", "db") == CANARY
    both.rotate()
    assert SecretFiles(tmp_path, Keyring([second])).read("t1", "db") == CANARY
    assert not (tmp_path / "keyring.json").exists()


def process(program: str, *arguments: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    words = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_another_process_reads_on_while_values_and_keys_change(store: SecretFiles, tmp_path: Path):
    for number in range(5):
        store.write("t1", f"s{number}", f"value-{number}")
    with process(READER, str(tmp_path / "secrets"), str(tmp_path / "stop")) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for _ in range(5):
            store.rotate()
            store.write("t1", "s0", "value-0")
        (tmp_path / "stop").touch()
        out, err = reader.communicate(timeout=30)
        assert reader.returncode == 0, err
        assert int(out) >= 20


def test_processes_that_begin_at_once_agree_on_one_key(tmp_path: Path):
    writers = [process(WRITER, str(tmp_path), str(number)) for number in range(3)]
    for writer in writers:
        with writer:
            _, err = writer.communicate(timeout=30)
            assert writer.returncode == 0, err
    store = SecretFiles(tmp_path)
    assert len(store.stored("t1")) == 60
    assert {store.read("t1", one.name) for one in store.stored("t1")} == {"some value"}


def test_a_platform_key_is_made_once_and_kept_private(tmp_path: Path):
    path = tmp_path / "keys" / "callbacks.key"
    assert platform_key(path) == platform_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("not a key")
    with pytest.raises(KeyUnusable, match="no key"):
        platform_key(path)


def quantum(folder: Path, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "QUANTUM_DATA_DIR": str(folder)}
    command = [sys.executable, "-m", "quantum", "secrets", *words]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_the_program_stores_lists_and_deletes_and_never_prints_a_value(tmp_path: Path):
    done = quantum(tmp_path, "set", "db", "--tenant", "t1", given=CANARY + "\n")
    assert done.returncode == 0, done.stderr
    listed = quantum(tmp_path, "list", "--tenant", "t1", "--json")
    assert [one["name"] for one in json.loads(listed.stdout)] == ["db"]
    rotated = quantum(tmp_path, "rotate-key", "--json")
    assert json.loads(rotated.stdout) == {"encrypted": 1, "damaged": []}
    assert SecretFiles(tmp_path / "secrets").read("t1", "db") == CANARY
    refused = quantum(tmp_path, "set", "db", "--tenant", "t1", given="abc")
    assert refused.returncode == 1
    assert "fewer than 4 characters" in refused.stderr
    assert quantum(tmp_path, "delete", "db", "--tenant", "t1").returncode == 0
    assert quantum(tmp_path, "delete", "db", "--tenant", "t1").returncode == 1
    for one in (done, listed, rotated, refused):
        assert CANARY not in one.stdout + one.stderr
