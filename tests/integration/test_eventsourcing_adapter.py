# intent_ref: tests.eventsourcing-adapter
"""The log under the `eventsourcing` package: that package's own test cases for recorders, unchanged, and ours."""

import itertools
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.application import Application
from eventsourcing.persistence import (
    DataError,
    InfrastructureFactory,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)
from eventsourcing.tests import application as their_applications
from eventsourcing.tests import persistence as theirs
from eventsourcing.tests.application import BankAccounts
from eventsourcing.utils import Environment

from domain.values import StreamId, TenantId
from event_store import codec
from event_store.eventsourcing_adapter import (
    QuantumAggregateRecorder,
    QuantumApplicationRecorder,
    QuantumFactory,
    QuantumProcessRecorder,
    QuantumTrackingRecorder,
)
from event_store.eventsourcing_adapter.datastore import Datastore
from event_store.store import EventStore
from event_store.tenancy import UnsafeRole
from tests.conftest import Database
from tests.streams import append

MODULE = "event_store.eventsourcing_adapter"
_numbers = itertools.count(1)


def fresh_tenant() -> TenantId:
    """A tenant no other test has; its sequences are empty."""
    return TenantId(f"guest-{next(_numbers)}")


class OnOurLog:
    """Gives a test case of theirs a datastore of a fresh tenant."""

    datastore: Datastore

    @pytest.fixture(autouse=True)
    def _fresh_datastore(self, database: Database) -> Iterator[None]:
        self.datastore = Datastore(database.app_dsn, fresh_tenant())
        yield
        self.datastore.close()


class TestAggregateRecorder(OnOurLog, theirs.AggregateRecorderTestCase):
    def create_recorder(self) -> QuantumAggregateRecorder:
        return QuantumAggregateRecorder(self.datastore)


class TestAggregateRecorderWithTextIds(TestAggregateRecorder):
    def create_recorder(self) -> QuantumAggregateRecorder:
        self.datastore.text_ids = True
        return QuantumAggregateRecorder(self.datastore)

    def new_originator_id(self) -> UUID | str:
        return f"account-{uuid4()}"


class TestApplicationRecorder(OnOurLog, theirs.ApplicationRecorderTestCase[QuantumApplicationRecorder]):
    def create_recorder(self) -> QuantumApplicationRecorder:
        return QuantumApplicationRecorder(self.datastore)

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestTrackingRecorder(OnOurLog, theirs.TrackingRecorderTestCase):
    def create_recorder(self) -> QuantumTrackingRecorder:
        return QuantumTrackingRecorder(self.datastore)


class TestProcessRecorder(OnOurLog, theirs.ProcessRecorderTestCase):
    def create_recorder(self) -> QuantumProcessRecorder:
        return QuantumProcessRecorder(self.datastore)


class TestNonInterleavingNotificationIds(OnOurLog, theirs.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> QuantumApplicationRecorder:
        return QuantumApplicationRecorder(self.datastore)


class OwnTrackingRecorder(QuantumTrackingRecorder):
    """What an application may put in the place of ours."""


class TestFactory(theirs.InfrastructureFactoryTestCase[QuantumFactory]):
    @pytest.fixture(autouse=True)
    def _environment(self, database: Database) -> None:
        self.database = database

    def setUp(self) -> None:
        self.env = Environment("TestCase", environment(self.database))
        super().setUp()

    def expected_factory_class(self) -> type[QuantumFactory]:
        return QuantumFactory

    def expected_aggregate_recorder_class(self) -> type[QuantumAggregateRecorder]:
        return QuantumAggregateRecorder

    def expected_application_recorder_class(self) -> type[QuantumApplicationRecorder]:
        return QuantumApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[QuantumTrackingRecorder]:
        return QuantumTrackingRecorder

    def tracking_recorder_subclass(self) -> type[QuantumTrackingRecorder]:
        return OwnTrackingRecorder

    def expected_process_recorder_class(self) -> type[QuantumProcessRecorder]:
        return QuantumProcessRecorder


class _WithEnvironment:
    """Sets the process's environment, which is where that package's applications look."""

    @pytest.fixture(autouse=True)
    def _environment(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in environment(database).items():
            monkeypatch.setenv(name, value)


class TestExampleApplication(_WithEnvironment, their_applications.ExampleApplicationTestCase):
    expected_factory_topic = f"{MODULE}.factory:QuantumFactory"


class TestApplication(_WithEnvironment, their_applications.ApplicationTestCase):
    pass


def environment(database: Database, tenant: str | None = None) -> dict[str, str]:
    """What an application needs to find our log."""
    return {
        "PERSISTENCE_MODULE": MODULE,
        "QUANTUM_DATABASE_URL": database.app_dsn,
        "QUANTUM_TENANT": tenant or fresh_tenant(),
    }


def stored(originator: UUID | str, version: int, topic: str = "topic", state: bytes = b"state") -> StoredEvent:
    return StoredEvent(originator, version, topic, state)


@pytest.fixture
def recorder(database: Database) -> Iterator[QuantumApplicationRecorder]:
    datastore = Datastore(database.app_dsn, fresh_tenant())
    yield QuantumApplicationRecorder(datastore)
    datastore.close()


async def test_an_applications_events_are_in_our_log_with_all_that_it_said(database: Database, store: EventStore) -> None:
    tenant = fresh_tenant()
    start = await store.horizon()
    with BankAccounts(env=environment(database, tenant)) as app:
        account_id = app.open_account("Alice", "alice@example.com")
        app.credit_account(account_id, Decimal("10.00"))
        newest = app.recorder.select_events(account_id)[-1]
    stream = StreamId(f"eventsourcing:bankaccounts_events:{account_id}")
    events = await store.read_stream(tenant, stream)
    assert [event.version for event in events] == [1, 2]
    assert {event.topic for event in events} == {"eventsourcing.stored.v1"}
    payload = json.loads(events[-1].payload)
    assert payload["topic"] == newest.topic
    assert payload["originator_id"] == str(account_id)
    assert payload["originator_version"] == newest.originator_version == 2
    page = await store.read_log(start, limit=1000)
    assert [event.position for event in page.events if event.tenant_id == tenant] == [event.position for event in events]
    assert events[0].metadata.actor == "eventsourcing"
    with pytest.raises(codec.UnknownTopic):
        _ = events[0].event


async def test_what_one_tenant_stores_does_not_exist_for_another(database: Database) -> None:
    mine, theirs_ = Datastore(database.app_dsn, fresh_tenant()), Datastore(database.app_dsn, fresh_tenant())
    try:
        originator = uuid4()
        assert QuantumApplicationRecorder(mine).insert_events([stored(originator, 1)]) == [1]
        QuantumTrackingRecorder(mine).insert_tracking(Tracking("upstream", 7))
        other = QuantumApplicationRecorder(theirs_)
        assert other.select_events(originator) == []
        assert other.select_notifications(None, 10) == []
        assert other.max_notification_id() is None
        assert QuantumTrackingRecorder(theirs_).max_tracking_id("upstream") is None
        assert other.insert_events([stored(originator, 1)]) == [1], "a key of another tenant's is no conflict, and no hint"
        with theirs_.transaction() as connection:
            rows = connection.execute("SELECT DISTINCT tenant_id FROM quantum.recorder_events").fetchall()
            assert rows == [(theirs_.tenant_id,)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(
                    "INSERT INTO quantum.recorder_events VALUES (%s, 's', 'originator', 1, NULL, 1, 'topic')",
                    (mine.tenant_id,),
                )
    finally:
        mine.close()
        theirs_.close()


@pytest.mark.parametrize("change", ["UPDATE quantum.recorder_events SET position = 0", "DELETE FROM quantum.recorder_events"])
async def test_where_an_event_is_can_be_written_once_and_never_changed(recorder: QuantumApplicationRecorder, change: str) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"), recorder.datastore.transaction() as connection:
        connection.execute(change.encode())


async def test_applications_and_snapshots_of_one_tenant_are_numbered_apart(database: Database) -> None:
    datastore = Datastore(database.app_dsn, fresh_tenant())
    try:
        originator = uuid4()
        first = QuantumApplicationRecorder(datastore, sequence="first_events")
        second = QuantumApplicationRecorder(datastore, sequence="second_events")
        snapshots = QuantumAggregateRecorder(datastore, sequence="first_snapshots")
        assert first.insert_events([stored(originator, 1), stored(originator, 2)]) == [1, 2]
        assert second.insert_events([stored(originator, 1)]) == [1]
        assert snapshots.insert_events([stored(originator, 9)]) is None
        snapshots.insert_events([stored(originator, 4)])
        assert [event.originator_version for event in snapshots.select_events(originator, desc=True)] == [9, 4]
        assert first.max_notification_id() == 2
    finally:
        datastore.close()


async def test_a_refused_insert_leaves_nothing_and_no_gap_in_the_notification_ids(
    recorder: QuantumApplicationRecorder, store: EventStore
) -> None:
    originator = uuid4()
    recorder.insert_events([stored(originator, 1)])
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(uuid4(), 1), stored(originator, 1)])
    assert recorder.insert_events([stored(originator, 2)]) == [2]
    page = await store.read_log(0, limit=10_000, tenant_id=recorder.datastore.tenant_id)
    assert len(page.events) == 2


async def test_ids_come_in_the_order_given_when_originators_alternate(recorder: QuantumApplicationRecorder) -> None:
    a, b = uuid4(), uuid4()
    given = [stored(a, 1, "a1"), stored(b, 1, "b1"), stored(a, 2, "a2"), stored(b, 2, "b2")]
    assert recorder.insert_events(given) == [1, 2, 3, 4]
    assert [notification.topic for notification in recorder.select_notifications(None, 10)] == ["a1", "b1", "a2", "b2"]
    assert [event.topic for event in recorder.select_events(b)] == ["b1", "b2"]


async def test_an_insert_that_is_sent_again_takes_effect_once_and_answers_the_same(
    recorder: QuantumApplicationRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The answer of the first try is lost after its commit, as when the connection breaks just then.
    connect, lost = recorder.datastore.connection, []

    def losing_the_first_answer() -> object:
        if not lost:
            lost.append(True)
            return _Losing(connect())
        return connect()

    monkeypatch.setattr(recorder.datastore, "connection", losing_the_first_answer)
    assert recorder.insert_events([stored(uuid4(), 1), stored(uuid4(), 1)]) == [1, 2]
    assert lost
    assert recorder.max_notification_id() == 2


class _Losing:
    """Lets the work inside happen, then reports that the connection broke."""

    def __init__(self, context: object) -> None:
        self._context = context

    def __enter__(self) -> object:
        return self._context.__enter__()  # type: ignore[attr-defined]

    def __exit__(self, *details: object) -> None:
        self._context.__exit__(*details)  # type: ignore[attr-defined]
        raise OperationalError("the connection broke")


async def test_a_writer_waits_for_a_transaction_on_its_originator_and_gives_up_with_a_sentence(
    recorder: QuantumApplicationRecorder, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("event_store.eventsourcing_adapter.recorders.BUSY_SECONDS_MAX", 0.05)
    originator = uuid4()
    resource = f"stream/{recorder.datastore.tenant_id}/eventsourcing:stored_events:{originator}"
    with psycopg.connect(database.app_dsn) as stranger:
        stranger.execute("SELECT pg_advisory_xact_lock(20822, hashtext(%s))", (resource,))
        with pytest.raises(OperationalError, match="writing the same originator"):
            recorder._insert_patiently.__wrapped__(recorder, _arguments_of(recorder, originator))
        stranger.rollback()
    assert recorder.insert_events([stored(originator, 1)]) == [1]


def _arguments_of(recorder: QuantumApplicationRecorder, originator: UUID) -> tuple[object, ...]:
    sent: list[tuple[object, ...]] = []
    intercepted = QuantumApplicationRecorder(recorder.datastore)
    intercepted._insert_patiently = lambda arguments: sent.append(arguments) or []  # type: ignore[assignment, func-returns-value]
    intercepted.insert_events([stored(originator, 1)])
    return sent[0]


async def test_more_than_an_append_may_hold_is_refused_with_a_sentence(recorder: QuantumApplicationRecorder) -> None:
    with pytest.raises(DataError, match="4,096 events"):
        recorder.insert_events([stored(uuid4(), 1)] * 4097)


async def test_text_the_database_cannot_hold_is_a_data_error(recorder: QuantumApplicationRecorder) -> None:
    with pytest.raises(DataError):
        recorder.insert_events([stored(uuid4(), 1, topic="nul \x00 byte")])
    assert recorder.max_notification_id() is None


async def test_any_bytes_come_back_as_they_were(recorder: QuantumApplicationRecorder) -> None:
    state = bytes(range(256)) * 40
    originator = uuid4()
    recorder.insert_events([stored(originator, 1, "Ünïcode:Täpic", state)])
    [event] = recorder.select_events(originator)
    assert (event.topic, event.state) == ("Ünïcode:Täpic", state)


async def test_a_subscription_wakes_for_what_another_process_stores(database: Database) -> None:
    tenant = fresh_tenant()
    reader, writer = Datastore(database.app_dsn, tenant), Datastore(database.app_dsn, tenant)
    seen: list[int] = []
    try:
        subscription = QuantumApplicationRecorder(reader).subscribe()

        def follow() -> None:
            with subscription:
                for notification in subscription:
                    seen.append(notification.id)
                    if len(seen) == 20:
                        return

        thread = threading.Thread(target=follow)
        thread.start()
        recorder = QuantumApplicationRecorder(writer)
        for _ in range(20):
            recorder.insert_events([stored(uuid4(), 1)])
        thread.join(timeout=30)
        assert seen == list(range(1, 21))
    finally:
        subscription.stop()
        reader.close()
        writer.close()


async def test_the_platforms_subscribers_are_woken_by_an_applications_insert(
    store: EventStore, recorder: QuantumApplicationRecorder
) -> None:
    await append(store, recorder.datastore.tenant_id, "warm-up")
    generation = store.wakeups.generation
    recorder.insert_events([stored(uuid4(), 1)])
    assert await store.wakeups.wait(10, since=generation)


async def test_a_login_that_could_see_other_tenants_is_refused(database: Database) -> None:
    for dsn, reason in ((database.owner_dsn, "superuser"), (database.platform_dsn, "not a member of quantum_app")):
        datastore = Datastore(dsn, fresh_tenant())
        try:
            with pytest.raises(UnsafeRole, match=reason):
                QuantumApplicationRecorder(datastore).max_notification_id()
        finally:
            datastore.close()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"QUANTUM_DATABASE_URL": ""}, "QUANTUM_DATABASE_URL is missing"),
        ({"QUANTUM_TENANT": ""}, "QUANTUM_TENANT is ''"),
        ({"QUANTUM_TENANT": "Not a slug"}, "QUANTUM_TENANT is 'Not a slug'"),
        ({"QUANTUM_POOL_SIZE": "many"}, "a number from 1 to 1000"),
        ({"ORIGINATOR_ID_TYPE": "int"}, "uuid or text"),
    ],
)
async def test_an_environment_that_says_too_little_is_refused_with_a_sentence(
    database: Database, changed: dict[str, str], sentence: str
) -> None:
    with pytest.raises(OSError, match=sentence):
        InfrastructureFactory.construct(environment(database) | changed)


class Labels(QuantumTrackingRecorder):
    """A read model of an application's own: it keeps the labels it was told, with the notification each came from."""

    def put(self, label: str, tracking: Tracking, *, interrupted: bool = False) -> None:
        with self.datastore.transaction() as connection:
            self.track(connection, tracking)
            self.track(connection, Tracking(f"label {label}", tracking.notification_id))
            if interrupted:
                raise KeyboardInterrupt


async def test_a_read_model_and_its_tracking_are_stored_together_or_not_at_all(database: Database) -> None:
    datastore = Datastore(database.app_dsn, fresh_tenant())
    try:
        labels = Labels(datastore)
        labels.put("a", Tracking("upstream", 1))
        with pytest.raises(KeyboardInterrupt):
            labels.put("b", Tracking("upstream", 2), interrupted=True)
        with pytest.raises(IntegrityError):
            labels.put("c", Tracking("upstream", 1))
        tracked = [labels.max_tracking_id(name) for name in ("upstream", "label a", "label b", "label c")]
        assert tracked == [1, 1, None, None]
    finally:
        datastore.close()


async def test_an_application_finds_its_events_again_after_a_restart(database: Database) -> None:
    settings = environment(database) | {"IS_SNAPSHOTTING_ENABLED": "y"}
    with BankAccounts(env=settings) as app:
        account_id = app.open_account("Alice", "alice@example.com")
        app.credit_account(account_id, Decimal("35.00"))
    with BankAccounts(env=settings) as app:
        assert app.get_balance(account_id) == Decimal("35.00")
        assert isinstance(app, Application)
        assert [item["id"] if isinstance(item, dict) else item.id for item in app.notification_log["1,10"].items] == [1, 2]
