-- intent_ref: streaming.dead-letters
-- Dead letters that a group has dealt with after all go after a while. (They stayed for ever before; migration 0013.)
CREATE INDEX stream_dead_letters_redriven ON quantum.stream_dead_letters (redriven_at) WHERE redriven_at IS NOT NULL;
GRANT DELETE ON quantum.stream_dead_letters TO quantum_platform;
