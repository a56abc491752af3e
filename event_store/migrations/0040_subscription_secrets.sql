-- intent_ref: event-store.subscription-secrets
-- What deliveries are signed with: sealed by the platform before it comes here, under a key that is not in the database.
-- A row is written before the event that names it, and is of no use until then.
CREATE TABLE quantum.subscription_secrets (
    tenant_id       text COLLATE "C" NOT NULL,
    subscription_id text COLLATE "C" NOT NULL,
    secret_id       text COLLATE "C" NOT NULL,
    sealed          bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, secret_id)
);
CREATE INDEX subscription_secrets_of ON quantum.subscription_secrets (tenant_id, subscription_id);

ALTER TABLE quantum.subscription_secrets ENABLE ROW LEVEL SECURITY;
ALTER TABLE quantum.subscription_secrets FORCE ROW LEVEL SECURITY;
-- The APIs put secrets in and take back what came to nothing; only the deliverer reads what is sealed.
CREATE POLICY tenant_rows ON quantum.subscription_secrets TO quantum_app
    USING (tenant_id = (SELECT quantum.current_tenant())) WITH CHECK (tenant_id = (SELECT quantum.current_tenant()));
CREATE POLICY platform_rows ON quantum.subscription_secrets TO quantum_platform
    USING (true) WITH CHECK (true);
GRANT INSERT, DELETE, SELECT (tenant_id, subscription_id, secret_id) ON quantum.subscription_secrets TO quantum_app;
GRANT SELECT, DELETE ON quantum.subscription_secrets TO quantum_platform;

CREATE FUNCTION quantum.keep_subscription_secret(tenant text, subscription text, secret text, in_sealed bytea) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    INSERT INTO quantum.subscription_secrets (tenant_id, subscription_id, secret_id, sealed)
    VALUES (tenant, subscription, secret, in_sealed);
END
$$;

CREATE FUNCTION quantum.drop_subscription_secret(tenant text, secret text) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('app.tenant_id', tenant, true);
    DELETE FROM quantum.subscription_secrets AS s WHERE s.tenant_id = tenant AND s.secret_id = secret;
END
$$;
REVOKE ALL ON FUNCTION quantum.keep_subscription_secret, quantum.drop_subscription_secret FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.keep_subscription_secret, quantum.drop_subscription_secret TO quantum_app;
