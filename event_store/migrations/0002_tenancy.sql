-- intent_ref: event-store.tenancy
-- Whose rows this transaction may see. After a local set_config the setting reads '' and not NULL, hence NULLIF: unset means no rows.
CREATE FUNCTION quantum.current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('app.tenant_id', true), '');

-- The tenants of the append in progress. Only the policies of quantum_log_writer read it.
CREATE FUNCTION quantum.batch_tenants() RETURNS text[]
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('app.batch_tenants', true), '')::text[];
