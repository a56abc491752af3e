# intent_ref: streaming.webhooks
"""Events delivered to addresses outside: signed, retried for days, in order per subject, fair between subscriptions."""
