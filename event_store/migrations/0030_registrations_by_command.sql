-- intent_ref: write-api.tenants
-- Two registrations under one idempotency key may name two tenants, so the key is looked for in all of them.
CREATE INDEX registrations_by_command ON quantum.events (command_id) WHERE topic = 'tenant.registered.v1';
