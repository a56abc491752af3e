# intent_ref: access.tokens
"""Which tokens count, and why the others do not."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey, RSAKey

from access.issuer import LocalIssuer
from access.keys import LocalKeys, VerificationKey
from access.tokens import TOKEN_CHARACTERS_MAX, TokenRefused, TokenVerifier, TrustedIssuer

ISSUER, AUDIENCE = "https://id.example.com", "quantum"
ED25519 = OKPKey.generate_key("Ed25519")
RSA = RSAKey.generate_key(2048)
OTHER = OKPKey.generate_key("Ed25519")
JWKS = {"keys": [{**key.as_dict(private=False), "kid": kid} for kid, key in (("ed", ED25519), ("rsa", RSA))]}
Claims = dict[str, Any]


def verifier(**options: Any) -> TokenVerifier:
    return TokenVerifier([TrustedIssuer(ISSUER, AUDIENCE, LocalKeys(JWKS))], **options)


def claims(**changes: Any) -> Claims:
    now = int(time.time())
    whole = {
        "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "tenants": ["tenant-123"], "roles": ["author"], "jti": "1",
        "iat": now, "exp": now + 600, **changes,
    }  # fmt: skip
    return {name: value for name, value in whole.items() if value is not ...}


def signed(body: Any, *, key: Any = ED25519, alg: str = "EdDSA", kid: Any = "ed", **header: Any) -> str:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    whole = {"alg": alg, "kid": kid, **header}
    return jws.serialize_compact(
        {name: value for name, value in whole.items() if value is not None},
        payload, key, registry=jws.JWSRegistry(algorithms=["EdDSA", "Ed25519", "RS256", "HS256", "RS512", "PS256"]),
    )  # fmt: skip


def by_hand(header: Claims, body: Claims, sign: Callable[[bytes], bytes] = lambda message: b"") -> str:
    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    message = part(json.dumps(header).encode()) + b"." + part(json.dumps(body).encode())
    return (message + b"." + part(sign(message))).decode()


async def refusal(token: str, **options: Any) -> str:
    with pytest.raises(TokenRefused) as refused:
        await verifier(**options).verify(token)
    return refused.value.code


async def test_a_genuine_token_says_who_asks():
    principal = await verifier().verify(signed(claims(tenants=["b", "a", "b"], roles=["author", "astronaut"])))
    assert (principal.subject, principal.tenants, principal.roles) == ("ada", ("b", "a"), {"author"})
    assert (principal.issuer, principal.token_id) == (ISSUER, "1")


@pytest.mark.parametrize(("key", "alg", "kid"), [(ED25519, "EdDSA", "ed"), (ED25519, "Ed25519", "ed"), (RSA, "RS256", "rsa")])
async def test_eddsa_and_rs256_count(key: Any, alg: str, kid: str):
    assert (await verifier().verify(signed(claims(), key=key, alg=alg, kid=kid))).subject == "ada"


async def test_a_single_tenant_may_be_said_as_tenant():
    assert (await verifier().verify(signed(claims(tenants=..., tenant="tenant-9")))).tenants == ("tenant-9",)


async def test_the_local_issuers_token_is_accepted_and_carries_what_was_asked_for():
    issuer = LocalIssuer([OKPKey.generate_key("Ed25519")])
    trusted = TokenVerifier([TrustedIssuer(issuer.issuer, issuer.audience, LocalKeys(issuer.jwks()))])
    principal = await trusted.verify(issuer.issue(["t-1", "t-2"], ["viewer", "auditor"], "bob", 0.5))
    assert (principal.subject, principal.tenants, principal.roles) == ("bob", ("t-1", "t-2"), {"viewer", "auditor"})
    assert principal.expires_at - principal.issued_at == 1800


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
async def test_alg_none_is_refused(alg: str):
    for header in ({"alg": alg, "kid": "ed"}, {"alg": alg}):
        assert await refusal(by_hand(header, claims())) in ("token-algorithm-refused", "token-malformed")


@pytest.mark.parametrize("kid", ["rsa", "ed"])
async def test_an_hmac_under_a_public_key_is_refused(kid: str):
    key = {"rsa": RSA, "ed": ED25519}[kid]
    public = key.public_key
    raw = [
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        json.dumps(JWKS["keys"][0]).encode(),
    ]
    for secret in raw:
        token = by_hand({"alg": "HS256", "kid": kid}, claims(), lambda message, s=secret: hmac.digest(s, message, hashlib.sha256))
        assert await refusal(token) == "token-algorithm-refused"


async def test_an_algorithm_that_is_not_that_of_the_key_is_refused():
    token = signed(claims(), key=RSA, alg="RS256", kid="rsa")
    header, body, signature = token.split(".")
    forged = base64.urlsafe_b64encode(b'{"alg":"EdDSA","kid":"rsa"}').decode().rstrip("=")
    assert await refusal(f"{forged}.{body}.{signature}") == "token-algorithm-refused"
    assert await refusal(signed(claims(), key=RSA, alg="RS256", kid="ed")) == "token-algorithm-refused"
    assert header


@pytest.mark.parametrize("alg", ["RS512", "PS256"])
async def test_other_algorithms_of_a_trusted_key_are_refused(alg: str):
    assert await refusal(signed(claims(), key=RSA, alg=alg, kid="rsa")) == "token-algorithm-refused"


async def test_a_secret_of_the_attackers_is_refused():
    key = OctKey.import_key("0123456789abcdef0123456789abcdef")
    assert await refusal(signed(claims(), key=key, alg="HS256", kid="ed")) == "token-algorithm-refused"


async def test_another_key_under_the_right_name_is_refused():
    assert await refusal(signed(claims(), key=OTHER)) == "token-signature-invalid"


@pytest.mark.parametrize("kid", ["other", None, 7, "", "../ed"])
async def test_an_unknown_key_is_refused(kid: Any):
    token = by_hand({"alg": "EdDSA"} if kid is None else {"alg": "EdDSA", "kid": kid}, claims())
    assert await refusal(token) in ("token-key-unknown", "token-malformed")


async def test_a_key_that_the_token_brings_along_is_not_looked_at():
    token = signed(claims(), key=OTHER, kid="ed", jwk=OTHER.as_dict(private=False))
    assert await refusal(token) == "token-signature-invalid"


@pytest.mark.parametrize("crit", [["b64"], ["exp"], []])
async def test_critical_extensions_are_refused(crit: list[str]):
    assert await refusal(by_hand({"alg": "EdDSA", "kid": "ed", "crit": crit, "b64": True}, claims())) in (
        "token-algorithm-refused",
        "token-malformed",
    )


async def test_claims_that_were_changed_are_refused():
    header, _, signature = signed(claims()).split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims(roles=["platform-admin"])).encode()).decode().rstrip("=")
    assert await refusal(f"{header}.{body}.{signature}") == "token-signature-invalid"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "https://id.example.org"}, "token-issuer-unknown"),
        ({"iss": ...}, "token-issuer-unknown"),
        ({"iss": ["https://id.example.com"]}, "token-issuer-unknown"),
        ({"aud": "elsewhere"}, "token-audience-wrong"),
        ({"aud": ...}, "token-audience-wrong"),
        ({"aud": ["elsewhere"]}, "token-audience-wrong"),
        ({"aud": {"quantum": 1}}, "token-audience-wrong"),
        ({"exp": int(time.time()) - 60}, "token-expired"),
        ({"exp": 0}, "token-expired"),
        ({"exp": ...}, "token-claims-invalid"),
        ({"exp": "9999999999"}, "token-claims-invalid"),
        ({"exp": True}, "token-claims-invalid"),
        ({"iat": ...}, "token-claims-invalid"),
        ({"iat": 4_000_000_000}, "token-not-yet-valid"),
        ({"nbf": 4_000_000_000}, "token-not-yet-valid"),
        ({"nbf": None}, "token-claims-invalid"),
        ({"sub": ...}, "token-claims-invalid"),
        ({"sub": ""}, "token-claims-invalid"),
        ({"sub": "a\0b"}, "token-claims-invalid"),
        ({"sub": "x" * 256}, "token-claims-invalid"),
        ({"sub": 7}, "token-claims-invalid"),
        ({"tenants": ...}, "token-claims-invalid"),
        ({"tenants": []}, "token-claims-invalid"),
        ({"tenants": "tenant-123"}, "token-claims-invalid"),
        ({"tenants": ["Tenant 123"]}, "token-claims-invalid"),
        ({"tenants": ["a", 7]}, "token-claims-invalid"),
        ({"tenants": [["a"]]}, "token-claims-invalid"),
        ({"roles": ...}, "token-claims-invalid"),
        ({"roles": "author"}, "token-claims-invalid"),
        ({"roles": [{}]}, "token-claims-invalid"),
    ],
)
async def test_claims_that_prove_nothing_are_refused_with_the_reason(changes: Claims, code: str):
    assert await refusal(signed(claims(**changes))) == code


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b.c", "é.é.é", "a" * 100, "eyJhbGciOiJFZERTQSJ9..", "\ud800.b.c", "a.b.c.d.e", "null.null.null",
     base64.urlsafe_b64encode(b"[]").decode() + ".e30.", "bnVsbA.bnVsbA.bnVsbA", "MQ.MQ.MQ"],
)  # fmt: skip
async def test_what_is_no_token_is_refused_without_an_accident(token: str):
    assert await refusal(token) in ("token-malformed", "token-algorithm-refused", "token-issuer-unknown")


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b'"x"', b"{", b"\xff", b"[" * 3000])
async def test_a_payload_that_is_no_object_is_refused(payload: bytes):
    assert await refusal(signed(payload)) == "token-malformed"


async def test_an_absurdly_long_token_is_refused_unread():
    assert await refusal("a" * (TOKEN_CHARACTERS_MAX + 1)) == "token-too-long"


async def test_clocks_may_differ_by_the_leeway():
    now = time.time()
    token = signed(claims(exp=int(now) - 5, iat=int(now) - 100))
    assert (await verifier(leeway_seconds=30).verify(token)).subject == "ada"
    assert await refusal(token, leeway_seconds=1) == "token-expired"


async def test_a_token_that_was_verified_is_refused_once_it_has_expired():
    now = time.time()
    clock = [now]
    kept = verifier(leeway_seconds=0, clock=lambda: clock[0])
    token = signed(claims(exp=int(now) + 10))
    assert await kept.verify(token) is await kept.verify(token)
    clock[0] = now + 11
    with pytest.raises(TokenRefused, match="expired"):
        await kept.verify(token)


class Withdrawing:
    """An issuer's keys that can be taken back."""

    def __init__(self) -> None:
        self.keys = LocalKeys(JWKS)

    async def key(self, key_id: str) -> VerificationKey | None:
        return await self.keys.key(key_id)


async def test_a_key_that_is_withdrawn_takes_its_tokens_along_within_minutes():
    now = time.time()
    clock, source = [now], Withdrawing()
    kept = TokenVerifier([TrustedIssuer(ISSUER, AUDIENCE, source)], clock=lambda: clock[0])
    token = signed(claims(exp=int(now) + 86_400))
    await kept.verify(token)
    source.keys = LocalKeys({"keys": []})
    clock[0] = now + 301
    with pytest.raises(TokenRefused, match="key"):
        await kept.verify(token)


async def test_the_memory_of_verified_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("access.tokens.CACHED_TOKENS_MAX", 3)
    kept = verifier()
    tokens = [signed(claims(jti=str(number))) for number in range(5)]
    principals = [await kept.verify(token) for token in tokens]
    for token, principal in zip(tokens[2:], principals[2:], strict=True):
        assert await kept.verify(token) is principal
    assert await kept.verify(tokens[0]) is not principals[0]
