"""Settings: where they come from, which wins, what is refused."""

from __future__ import annotations

import sys
import types
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fastq.config import SETTINGS, Settings, SettingWarning, mask_url, settings_markdown
from fastq.exceptions import ImproperlyConfigured


def settings(environ: dict[str, str] | None = None, **keywords: Any) -> Settings:
    return Settings(keywords, environ=environ or {})


def test_every_default_is_a_value_of_its_setting() -> None:
    conf = settings()
    for name, row in SETTINGS.items():
        assert conf[name] == row.kind.read(row.default), name
        assert conf.origin(name) == "default"


def test_each_place_wins_over_the_next() -> None:
    conf = settings({"FASTQ_TASK_DEFAULT_QUEUE": "environment"}, task_default_queue="keyword")
    conf.load({"task_default_queue": "object", "task_default_priority": 7, "worker_lease": 20})
    assert conf.task_default_queue == "keyword"
    assert conf.origin("task_default_queue") == "a keyword of FastQ(...)"
    conf.task_default_queue = "assigned"
    assert conf["task_default_queue"] == "assigned"
    assert conf.origin("task_default_queue") == "app.conf"
    conf.override({"task_default_queue": "option"})
    assert conf.task_default_queue == "option"
    assert conf.origin("task_default_queue") == "the command line"
    assert conf.task_default_priority == 7
    assert conf.origin("task_default_priority") == "the config object"

    conf = settings({"FASTQ_WORKER_LEASE": "9.5"})
    conf.load({"worker_lease": 20})
    assert conf.worker_lease == 9.5
    assert conf.origin("worker_lease") == "environment FASTQ_WORKER_LEASE"


def test_an_assignment_can_be_taken_back() -> None:
    conf = settings(task_default_queue="keyword")
    conf.task_default_queue = "x"
    del conf["task_default_queue"]
    assert conf.task_default_queue == "keyword"
    with pytest.raises(KeyError):
        del conf["task_default_queue"]


def test_celery_names_of_the_environment_are_understood() -> None:
    conf = settings({"CELERY_BROKER_URL": "redis://a", "CELERY_RESULT_BACKEND": "redis://b"})
    assert (conf.broker_url, conf.result_backend) == ("redis://a", "redis://b")
    assert conf.origin("broker_url") == "environment CELERY_BROKER_URL"
    assert settings({"CELERY_BROKER_URL": "redis://a", "FASTQ_BROKER_URL": "redis://c"}).broker_url == "redis://c"
    assert settings({"FASTQ_BROKER_URL": ""}).broker_url is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("accept_content", "json, msgpack", ("json", "msgpack")),
        ("task_acks_late", "no", False),
        ("worker_concurrency", "8", 8),
        ("worker_concurrency", "none", None),
        ("result_expires", "60", 60.0),
        ("task_publish_retry_policy", '{"max_retries": 1}', {"max_retries": 1}),
        ("worker_redirect_stdouts_level", "error", "ERROR"),
    ],
)
def test_text_of_the_environment_becomes_values(name: str, text: str, value: object) -> None:
    assert settings({f"FASTQ_{name.upper()}": text})[name] == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("task_default_priority", 10, "a whole number from 0 to 9"),
        ("task_default_priority", "high", "a whole number from 0 to 9"),
        ("task_acks_late", "maybe", "True or False"),
        ("worker_concurrency", 0, "a whole number, 1 or more, or None"),
        ("worker_concurrency", 1.5, "a whole number, 1 or more, or None"),
        ("worker_lease", -1, "a number of seconds, or a timedelta"),
        ("accept_content", [1], "a list of text"),
        ("task_publish_retry_policy", "{", "a mapping"),
        ("task_default_queue", 3, "text"),
        ("worker_redirect_stdouts_level", "LOUD", "DEBUG, INFO"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_is_expected(name: str, value: object, expected: str) -> None:
    conf = settings()
    with pytest.raises(ImproperlyConfigured, match=f"{name} = .* from app.conf: expected {expected}"):
        conf[name] = value
    conf = settings()
    conf.load({name: value})
    with pytest.raises(ImproperlyConfigured, match="from the config object"):
        conf[name]


def test_a_wrong_value_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ImproperlyConfigured, match="from environment variable FASTQ_WORKER_CONCURRENCY: expected a whole number"):
        settings({"FASTQ_WORKER_CONCURRENCY": "many"})["worker_concurrency"]


def test_timedelta_is_seconds() -> None:
    assert settings(result_expires=timedelta(hours=1)).result_expires == 3600


def test_modules_classes_mappings_and_their_names_are_config_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_config.py").write_text(
        "import os\nfrom datetime import timedelta\ntask_default_queue = 'module'\nclass Inner:\n    task_default_queue = 'class'\n"
        "mapping = {'task_default_queue': 'mapping'}\n_private = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import some_config  # type: ignore[import-not-found]

    try:
        for source, expected in (
            ("some_config", "module"),
            (some_config, "module"),
            ("some_config:Inner", "class"),
            ("some_config.Inner", "class"),
            (some_config.Inner, "class"),
            ("some_config:mapping", "mapping"),
            ({"task_default_queue": "dict"}, "dict"),
        ):
            conf = settings()
            conf.load(source)
            assert conf.task_default_queue == expected
        assert "some_config" in conf.origin("task_default_queue") or conf.origin("task_default_queue") == "the config object"
        assert "_private" not in conf
    finally:
        del sys.modules["some_config"]


def test_a_config_object_is_read_late_and_replaces_an_earlier_one() -> None:
    conf = settings()
    conf.load("no.such.module")
    conf.load({"task_default_queue": "second"})
    assert conf.task_default_queue == "second"
    conf.load("no.such.module")
    with pytest.raises(ImproperlyConfigured, match=r"'no.such.module': there is no module 'no'"):
        _ = conf.task_default_queue
    conf.load("no.such.module", silent=True)
    assert conf.task_default_queue == "default"
    with pytest.raises(ImproperlyConfigured):
        conf.load("no.such.module", force=True)
    conf.load("fastq.config:nothing")
    with pytest.raises(ImproperlyConfigured, match="no attribute 'nothing'"):
        _ = conf.task_default_queue


def test_an_import_error_inside_a_config_module_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_config.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    conf = settings()
    conf.load("broken_config")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        _ = conf.task_default_queue


def test_a_namespace_takes_only_its_own() -> None:
    conf = settings()
    conf.load(
        {
            "CELERY_BROKER_URL": "redis://x",
            "CELERY_TASK_SERIALIZER": "json",
            "CELERY_ACKS_LATE": False,
            "CELERY_MY_OWN": 3,
            "DEBUG": True,
            "task_default_queue": "other",
        },
        namespace="CELERY",
    )
    assert conf.broker_url == "redis://x"
    assert conf.task_serializer == "json"
    assert conf.task_acks_late is False
    assert conf.my_own == 3
    assert conf.task_default_queue == "default"
    assert "DEBUG" not in conf


def test_old_names_are_understood_alone_and_beside_new_ones() -> None:
    conf = settings()
    conf.load({"CELERY_RESULT_BACKEND": "redis://a", "BROKER_URL": "redis://b", "CELERYD_CONCURRENCY": 3})
    assert (conf.result_backend, conf.broker_url, conf.worker_concurrency) == ("redis://a", "redis://b", 3)
    assert conf.BROKER_URL == "redis://b"
    conf.load({"CELERYD_CONCURRENCY": 3, "worker_concurrency": "3"})
    assert conf.worker_concurrency == 3
    conf.load({"CELERYD_CONCURRENCY": 3, "worker_concurrency": 4})
    with pytest.raises(ImproperlyConfigured, match="two names of one setting with different values"):
        _ = conf.worker_concurrency
    conf = settings()
    conf.CELERY_DEFAULT_QUEUE = "old"
    assert conf.task_default_queue == "old"


def test_unknown_names_are_kept_and_close_ones_warn() -> None:
    conf = settings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf.my_applications_own = 1
        conf.update(something_else=2)
    assert conf.my_applications_own == 1
    assert conf["something_else"] == 2
    assert conf.get("not_there") is None
    with pytest.raises(AttributeError, match="did you mean 'broker_url'"):
        _ = conf.broker_ur
    with pytest.warns(SettingWarning, match=r"'task_seralizer' is no setting of fastq \(did you mean 'task_serializer'\?\)"):
        conf.task_seralizer = "json"
    assert conf.task_seralizer == "json"
    with pytest.warns(SettingWarning, match="did you mean 'worker_concurrency'"):
        conf.load({"worker_concurency": 3}, force=True)
    with pytest.warns(SettingWarning, match="FASTQ_BROKER_ULR"):
        _ = settings({"FASTQ_BROKER_ULR": "x"}).broker_url


def test_modules_in_a_config_module_do_not_warn() -> None:
    module = types.ModuleType("conf_module")
    module.timezones = types  # type: ignore[attr-defined]
    conf = settings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf.load(module, force=True)


def test_the_first_accepted_serializer_is_used_where_none_is_named() -> None:
    conf = settings(accept_content=["json"])
    assert conf.task_serializer == "json"
    assert conf.result_serializer == "json"
    assert settings(accept_content=["json", "msgpack"], task_serializer="msgpack").task_serializer == "msgpack"
    assert settings().task_serializer == "msgpack"


def test_secrets_are_masked() -> None:
    conf = settings(broker_url="redis://me:hunter2@host:1/0", result_backend="redis://:hunter2@host")
    conf.my_password = "hunter2"
    conf.backup_options = {"url": "redis://u:hunter2@h", "api_token": "hunter2"}
    text = conf.humanize(with_defaults=True) + repr(conf)
    assert "hunter2" not in text
    assert "redis://me:**@host:1/0" in text
    assert "key_prefix: 'fastq:'" in text
    assert "hunter2" in conf.humanize(censored=False)
    assert mask_url("redis://:p:w@h/0") == "redis://:**@h/0"
    with pytest.raises(ImproperlyConfigured) as caught:
        settings(dead_letter_max="redis://u:hunter2@h")
    assert "hunter2" not in str(caught.value)


def test_a_change_is_seen_by_its_generation() -> None:
    conf = settings()
    before = conf.generation
    conf.task_default_queue = "x"
    conf.load({})
    conf.override({})
    assert conf.generation == before + 3


def test_settings_are_a_mapping() -> None:
    conf = settings(broker_url="memory://")
    conf.extra_one = 1
    assert set(SETTINGS) < set(conf)
    assert len(conf) == len(SETTINGS) + 1
    assert dict(conf)["extra_one"] == 1
    assert ("broker_url", "memory://", "a keyword of FastQ(...)") in conf.table()
    assert [name for name, _, _ in conf.table(with_defaults=False)] == ["broker_url", "extra_one"]


def test_defaults_cannot_be_changed_through_what_they_gave() -> None:
    settings().task_publish_retry_policy["max_retries"] = 99
    assert settings().task_publish_retry_policy["max_retries"] == 3


def test_the_page_of_settings_has_a_row_for_each() -> None:
    page = settings_markdown()
    for name, row in SETTINGS.items():
        assert f"| `{name}` | {row.kind.name} |" in page
        assert row.env in page
