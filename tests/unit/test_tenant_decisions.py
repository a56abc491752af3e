# intent_ref: commands.tenant
"""What a tenant may be asked, in each of its states."""

import pytest

from commands.tenant import ReactivateTenant, RegisterTenant, SuspendTenant, decide
from domain.refusals import Invalid, NotFound, TenantExists
from domain.tenant import TenantReactivated, TenantRegistered, TenantSuspended, evolve
from domain.values import TenantId
from tests.unit.given_when_then import Decider
from tests.unit.samples import AT, after

TENANT = TenantId("tenant-123")
tenant = Decider(evolve, decide)
REGISTERED = TenantRegistered(TENANT, "Contoso", AT)
SUSPENDED = TenantSuspended(TENANT, "unpaid", after(1))
REACTIVATED = TenantReactivated(TENANT, after(2))


def test_a_tenant_is_registered_once() -> None:
    register = RegisterTenant(tenant_id=TENANT, name="Contoso", at=AT)
    tenant.given().when(register).then(REGISTERED)
    tenant.given(REGISTERED).when(register).then_refused(TenantExists, tenant_id=TENANT)
    tenant.given(REGISTERED, SUSPENDED).when(register).then_refused(TenantExists, tenant_id=TENANT)


@pytest.mark.parametrize("tenant_id", ["", "Tenant", "a_b", "-a", "a-", "a" * 64, "tenänt", "a\n", "a/b"])
def test_a_tenants_id_is_a_slug(tenant_id: str) -> None:
    register = RegisterTenant(tenant_id=TenantId(tenant_id), name="Contoso", at=AT)
    tenant.given().when(register).then_faults(Invalid, ("/id", "invalid-id"))


@pytest.mark.parametrize("name", ["", " ", "x" * 201, "a\0b", "a\nb", " a", "\ud800"])
def test_a_tenants_name_is_short_and_printable(name: str) -> None:
    tenant.given().when(RegisterTenant(tenant_id=TENANT, name=name, at=AT)).then_faults(Invalid, ("/name", "invalid-name"))


@pytest.mark.parametrize("name", ["C", "x" * 200, "Größe & Söhne 🚀"])
def test_a_tenants_name_may_be_in_any_language(name: str) -> None:
    tenant.given().when(RegisterTenant(tenant_id=TENANT, name=name, at=AT)).then(TenantRegistered(TENANT, name, AT))


def test_all_faults_of_a_registration_are_reported_at_once() -> None:
    register = RegisterTenant(tenant_id=TenantId("No Slug"), name="", at=AT)
    tenant.given().when(register).then_faults(Invalid, ("/id", "invalid-id"), ("/name", "invalid-name"))


def test_suspension_and_reactivation_take_turns() -> None:
    suspend = SuspendTenant(tenant_id=TENANT, reason="unpaid", at=after(1))
    reactivate = ReactivateTenant(tenant_id=TENANT, at=after(2))
    suspended = tenant.given(REGISTERED).when(suspend).then(SUSPENDED)
    reactivated = suspended.when(reactivate).then(REACTIVATED)
    assert reactivated.state is not None
    assert (reactivated.state.status, reactivated.state.updated_at) == ("active", after(2))
    reactivated.when(suspend).then(SUSPENDED)


def test_what_is_so_already_changes_nothing() -> None:
    tenant.given(REGISTERED, SUSPENDED).when(SuspendTenant(tenant_id=TENANT, reason="other", at=after(9))).then_nothing()
    tenant.given(REGISTERED).when(ReactivateTenant(tenant_id=TENANT, at=after(9))).then_nothing()


@pytest.mark.parametrize("command", [SuspendTenant(tenant_id=TENANT, at=AT), ReactivateTenant(tenant_id=TENANT, at=AT)])
def test_a_tenant_that_is_not_there_is_not_found(command: SuspendTenant | ReactivateTenant) -> None:
    tenant.given().when(command).then_refused(NotFound, kind="tenant", identity=TENANT)


@pytest.mark.parametrize(("reason", "code"), [("x" * 2_001, "oversize"), ("a\0b", "unstorable"), ("\udc00", "unstorable")])
def test_a_reason_is_text_that_can_be_stored(reason: str, code: str) -> None:
    command = SuspendTenant(tenant_id=TENANT, reason=reason, at=AT)
    tenant.given(REGISTERED).when(command).then_faults(Invalid, ("/reason", code))
