# intent_ref: domain.workflows
"""Workflows: intents that are meant to be run by others as a step."""

from typing import Final

WORKFLOW_LABEL: Final = ("kind", "workflow")
"""The label, and its value, that says so of an intent. Any intent may be run by its name, labelled or not."""
