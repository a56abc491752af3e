# intent_ref: modules.secrets
