# intent_ref: quantum.open-files
"""How many connections and files this process may have open: as many as the system lets it, up to what a server can use.

The usual limit of a login is 1,024, which so many followers of streams use up; the hard limit above it needs no rights.
"""

import structlog

OPEN_FILES_MAX = 65_536
"""More helps nobody: at some tens of kilobytes a connection, memory ends first."""

log = structlog.get_logger(__name__)


def allow_open_files(most: int = OPEN_FILES_MAX) -> None:
    """Raises the soft limit of open files to the hard one, to `most` at most; leaves one that is higher. Logs what it is.

    Does nothing where a system has no such limits.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted_limit(soft, hard, most, resource.RLIM_INFINITY)
    if wanted is None:
        log.debug("open files are limited", limit=soft)
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as fault:  # systems with one more limit behind the hard one
        log.warning("the limit of open files stays as it is", limit=soft, fault=repr(fault))
        return
    log.info("the limit of open files was raised", limit=wanted, before=soft)


def wanted_limit(soft: int, hard: int, most: int, infinite: int) -> int | None:
    """The soft limit to set, or None to leave it."""
    wanted = most if hard == infinite else min(hard, most)
    return wanted if soft not in (infinite, wanted) and soft < wanted else None
