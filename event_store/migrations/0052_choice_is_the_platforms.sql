-- intent_ref: sagas.limits
-- Only the platform's workers choose rows (migration 0049 makes the function).
REVOKE ALL ON FUNCTION quantum.saga_choose FROM PUBLIC;
GRANT EXECUTE ON FUNCTION quantum.saga_choose TO quantum_platform;
