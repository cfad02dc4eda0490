"""The audit log's words."""

from __future__ import annotations

import pytest

from falplan.core.audit import audit_entry, subject_of_body, subject_of_call
from falplan.core.operations import NOBODY, Asker, Operation, OperationKind, OperationStatus
from falplan.core.values import JsonObject

from .builders import NOON


def an_operation(kind: OperationKind, body: JsonObject, outcome: JsonObject) -> Operation:
    return Operation("op-1", kind, body, "", OperationStatus.DONE, NOON, outcome, NOON, Asker("key-1", "Kim"), "it")


@pytest.mark.parametrize(
    ("kind", "body", "outcome", "said"),
    [
        (
            OperationKind.OVERRIDE,
            {"settings": {"max_concurrency": 8, "regions": ["a", "b"], "request_start_timeout": None}},
            {},
            "set max_concurrency 8, regions a, b, request_start_timeout none",
        ),
        (OperationKind.DEPLOY, {"inputs": {}}, {"revision": "r-1"}, "deploy r-1"),
        (OperationKind.DEPLOY, {"inputs": {}}, {}, "deploy"),
        (OperationKind.SET_REVISION, {"revision": "r-1"}, {}, "set revision r-1"),
        (OperationKind.STOP_RUNNER, {"runner_id": "runner-1", "replace": True}, {}, "replace runner-1"),
        (OperationKind.CREATE_KEY, {}, {"scope": "API", "description": "ci"}, 'create API key "ci"'),
        (OperationKind.PUT_SECRET, {}, {"version": "secret-1"}, "set secret-1"),
        (OperationKind.REVOKE_KEY, {}, {}, "revoke key"),
    ],
)
def test_what_was_asked_for_is_told_in_words(
    kind: OperationKind, body: JsonObject, outcome: JsonObject, said: str
) -> None:
    assert audit_entry(an_operation(kind, body, outcome)).what == said


@pytest.mark.parametrize("kind", list(OperationKind))
def test_every_kind_has_words(kind: OperationKind) -> None:
    assert audit_entry(an_operation(kind, {}, {})).what


def test_plain_variables_of_an_app_are_not_told() -> None:
    """Somebody may have put a password there. Seen red with words that were the body."""
    inputs: JsonObject = {"settings": {"environment_variables": {"TOKEN": "planted"}}}
    assert "planted" not in str(audit_entry(an_operation(OperationKind.DEPLOY, {"inputs": inputs}, {})))


def test_subjects_are_addresses_where_there_are_any() -> None:
    assert subject_of_body({"address": "app.main.one"}) == "app.main.one"
    assert subject_of_body({"regions": {}}) == "gateway"
    assert subject_of_call(["secrets", "main", "TOKEN"], {}) == "secret.main.TOKEN"
    assert subject_of_call(["keys"], {"key_id": "key-1"}) == subject_of_call(["keys", "key-1"], {}) == "key-1"
    assert subject_of_call(["prune"], {}) == "gateway"


def test_an_asker_is_named_as_far_as_it_is_known() -> None:
    assert [str(a) for a in (Asker("key-1", "Kim"), Asker("key-1"), NOBODY)] == ["Kim (key-1)", "key-1", ""]
