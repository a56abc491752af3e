# intent_ref: access.issuer
"""The local issuer's key: made once, kept to its owner, the same for everybody who opens the folder."""

import json
import multiprocessing
import stat
from pathlib import Path

import pytest
from joserfc.jwk import OKPKey

from access.issuer import KeysUnusable, LocalIssuer, TokenNotIssuable
from access.keys import LocalKeys
from access.tokens import TokenVerifier, TrustedIssuer


def _thumbprint(folder: str) -> str:
    return str(LocalIssuer.open(Path(folder)).jwks()["keys"][0]["kid"])


def verifier_of(issuer: LocalIssuer) -> TokenVerifier:
    return TokenVerifier([TrustedIssuer(issuer.issuer, issuer.audience, LocalKeys(issuer.jwks()))])


def test_the_key_can_be_read_by_its_owner_alone(tmp_path: Path):
    LocalIssuer.open(tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys" / "issuer.jwk").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_nothing_but_the_key_is_left_in_the_folder(tmp_path: Path):
    LocalIssuer.open(tmp_path)
    LocalIssuer.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["issuer.jwk"]


async def test_a_token_is_good_after_a_restart(tmp_path: Path):
    token = LocalIssuer.open(tmp_path).issue(["t-1"], ["viewer"], "ada", 1)
    assert (await verifier_of(LocalIssuer.open(tmp_path)).verify(token)).subject == "ada"


async def test_a_key_that_was_put_aside_still_verifies_and_no_longer_signs(tmp_path: Path):
    old = LocalIssuer.open(tmp_path)
    token = old.issue(["t-1"], ["viewer"], "ada", 1)
    (tmp_path / "issuer.jwk").rename(tmp_path / "before.jwk")
    new = LocalIssuer.open(tmp_path)
    assert [key["kid"] for key in new.jwks()["keys"]][1:] == [key["kid"] for key in old.jwks()["keys"]]
    assert (await verifier_of(new).verify(token)).subject == "ada"
    assert new.jwks()["keys"][0]["kid"] != old.jwks()["keys"][0]["kid"]


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path):
    with multiprocessing.get_context("spawn").Pool(4) as processes:
        found = processes.map(_thumbprint, [str(tmp_path / "keys")] * 12)
    assert len(set(found)) == 1
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["issuer.jwk"]


def test_what_is_published_holds_no_secret(tmp_path: Path):
    (key,) = LocalIssuer.open(tmp_path).jwks()["keys"]
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"null", b'{"kty":"OKP","crv":"Ed25519"}', b'{"kty":"OKP","crv":"Ed25519","x":"!","d":"!"}',
     json.dumps(OKPKey.generate_key("Ed25519").as_dict(private=False)).encode(),
     json.dumps(OKPKey.generate_key("X25519").as_dict(private=True)).encode()],
    ids=["empty", "cut", "list", "binary", "null", "no-point", "no-base64", "public-only", "another-curve"],
)  # fmt: skip
def test_a_key_that_cannot_be_used_is_named_with_the_way_out(tmp_path: Path, content: bytes):
    (tmp_path / "issuer.jwk").write_bytes(content)
    with pytest.raises(KeysUnusable, match=r"issuer\.jwk is not a private Ed25519 key.*Move it away"):
        LocalIssuer.open(tmp_path)
    assert (tmp_path / "issuer.jwk").read_bytes() == content


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KeysUnusable, match="Cannot use the keys in"):
        LocalIssuer.open(tmp_path / "file" / "keys")


@pytest.mark.parametrize(
    ("tenants", "roles", "subject", "hours"),
    [([], ["viewer"], "s", 1), (["T 1"], ["viewer"], "s", 1), (["t"], ["king"], "s", 1), (["t"], [], "", 1),
     (["t"], [], "a\n", 1), (["t"], [], "s", 0), (["t"], [], "s", -1), (["t"], [], "s", float("nan")), (["t"], [], "s", 1e9)],
)  # fmt: skip
def test_a_token_that_everybody_would_refuse_is_not_issued(
    tmp_path: Path, tenants: list[str], roles: list[str], subject: str, hours: float
):
    with pytest.raises(TokenNotIssuable):
        LocalIssuer.open(tmp_path).issue(tenants, roles, subject, hours)
