# intent_ref: modules.artifacts
