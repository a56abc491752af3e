-- intent_ref: sagas.execution
-- Attempts of steps that a module still has to make, or whose outcome is not yet in the log: a row appears when the log says
-- that an attempt may be made, and goes when its outcome has been recorded. `due_at` makes the row a timer as well.
--
-- `command_id` is the id under which the outcome will be recorded (it follows from the key), so that one look at the log
-- tells whether an attempt is over. `lease_owner` is the worker that is making the call; the lease lasts as long as the
-- worker's heartbeat, and `claims` counts how often the row was taken.
CREATE TABLE quantum.saga_workers (
    worker      text COLLATE "C" PRIMARY KEY,
    alive_until timestamptz NOT NULL
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.saga_workers TO quantum_platform;

CREATE TABLE quantum.saga_dispatches (
    tenant_id      text COLLATE "C" NOT NULL,
    execution_id   text COLLATE "C" NOT NULL,
    step           text COLLATE "C" NOT NULL,
    attempt        integer NOT NULL,
    due_at         timestamptz NOT NULL,
    command_id     uuid NOT NULL,
    event_id       uuid NOT NULL,
    correlation_id text NOT NULL,
    traceparent    text,
    lease_owner    text COLLATE "C",
    claims         integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, execution_id, step, attempt)
);
CREATE INDEX saga_dispatches_by_due ON quantum.saga_dispatches (due_at);

ALTER TABLE quantum.saga_dispatches ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.saga_dispatches FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON quantum.saga_dispatches FOR SELECT TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.saga_dispatches TO quantum_platform
    USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON quantum.saga_dispatches TO quantum_platform;
