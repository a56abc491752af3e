# intent_ref: projections.catalogue
"""The list of read models. A new one is one file and one line here."""

from projections import executions, intent_search, intents, modules, resources, subscriptions, tenants
from projections.read_model import ReadModel

READ_MODELS: tuple[ReadModel, ...] = (
    tenants.READ_MODEL,
    intents.READ_MODEL,
    intent_search.READ_MODEL,
    executions.READ_MODEL,
    resources.READ_MODEL,
    modules.READ_MODEL,
    subscriptions.READ_MODEL,
)


class UnknownProjection(LookupError):
    """There is no projection of that name."""

    def __init__(self, name: str) -> None:
        names = ", ".join(model.name for model in READ_MODELS)
        super().__init__(f"There is no projection {name!r}. There are: {names}.")
        self.name = name


def read_model(name: str) -> ReadModel:
    """The read model of that name; raises `UnknownProjection`."""
    for model in READ_MODELS:
        if model.name == name:
            return model
    raise UnknownProjection(name)
