# intent_ref: ground.packaging
