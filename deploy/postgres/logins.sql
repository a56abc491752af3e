-- intent_ref: ground.compose
-- The two logins of the platform, with passwords for development. Migrations make roles only where they are missing, so these stay.
CREATE ROLE quantum_app LOGIN PASSWORD 'development-only' NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT;
CREATE ROLE quantum_platform LOGIN PASSWORD 'development-only' NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS NOINHERIT;
