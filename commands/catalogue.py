# intent_ref: commands.shell
"""The modules a tenant can use, in one: its own and those that come with the platform."""

from domain.module import Modules

_TOGETHER_MAX = 1_000
_catalogues: dict[tuple[int, int], tuple[Modules, Modules, Modules]] = {}


def together(own: Modules, builtin: Modules) -> Modules:
    """Both, as the same object every time: what was judged against it once need not be judged again."""
    key = (id(own), id(builtin))
    kept = _catalogues.get(key)
    if kept is None:
        if len(_catalogues) >= _TOGETHER_MAX:
            del _catalogues[next(iter(_catalogues))]
        kept = _catalogues[key] = own, builtin, Modules({**own.by_name, **builtin.by_name})
    return kept[2]
