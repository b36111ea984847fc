"""Settings: where they come from, which wins, what is refused."""

from __future__ import annotations

import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fastq.config import SETTINGS, Settings, SettingWarning, mask_url
from fastq.exceptions import ImproperlyConfigured
from fastq.settings.page import settings_markdown


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
        if row.accepted:
            assert f"| `{name}` | {row.accepted} |" in page
        else:
            assert f"| `{name}` | {row.kind.name} |" in page
            assert row.env in page


# --- names ---


def test_no_name_means_two_settings() -> None:
    seen: dict[str, str] = {}
    for name, row in SETTINGS.items():
        for alias in row.aliases:
            assert alias not in SETTINGS
            assert seen.setdefault(alias, name) == name, alias


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BROKER_URL", "broker_url"),
        ("BROKER_TRANSPORT_OPTIONS", "broker_transport_options"),
        ("BROKER_POOL_LIMIT", "broker_pool_limit"),
        ("CELERY_RESULT_BACKEND", "result_backend"),
        ("CELERY_TASK_RESULT_EXPIRES", "result_expires"),
        ("CELERY_MAX_CACHED_RESULTS", "result_cache_max"),
        ("CELERY_ACCEPT_CONTENT", "accept_content"),
        ("CELERY_TIMEZONE", "timezone"),
        ("CELERY_IMPORTS", "imports"),
        ("CELERY_ALWAYS_EAGER", "task_always_eager"),
        ("CELERY_EAGER_PROPAGATES_EXCEPTIONS", "task_eager_propagates"),
        ("CELERY_MESSAGE_COMPRESSION", "task_compression"),
        ("CELERY_ROUTES", "task_routes"),
        ("CELERY_QUEUES", "task_queues"),
        ("CELERY_DEFAULT_QUEUE", "task_default_queue"),
        ("CELERY_CREATE_MISSING_QUEUES", "task_create_missing_queues"),
        ("CELERY_DEFAULT_RATE_LIMIT", "task_default_rate_limit"),
        ("CELERY_ANNOTATIONS", "task_annotations"),
        ("CELERY_SEND_TASK_SENT_EVENT", "task_send_sent_event"),
        ("CELERY_SEND_EVENTS", "worker_send_task_events"),
        ("CELERY_DISABLE_RATE_LIMITS", "worker_disable_rate_limits"),
        ("CELERY_WORKER_DIRECT", "worker_direct"),
        ("CELERYD_TASK_TIME_LIMIT", "task_time_limit"),
        ("CELERYD_TASK_SOFT_TIME_LIMIT", "task_soft_time_limit"),
        ("CELERYD_CONCURRENCY", "worker_concurrency"),
        ("CELERYD_PREFETCH_MULTIPLIER", "worker_prefetch_multiplier"),
        ("CELERYD_MAX_TASKS_PER_CHILD", "worker_max_tasks_per_child"),
        ("CELERYD_WORKER_LOST_WAIT", "worker_lost_wait"),
        ("CELERYD_ETA_SCHEDULER_PRECISION", "worker_timer_precision"),
        ("CELERYBEAT_SCHEDULE", "beat_schedule"),
        ("CELERYBEAT_MAX_LOOP_INTERVAL", "beat_max_loop_interval"),
        ("CELERY_REDIS_MAX_CONNECTIONS", "redis_max_connections"),
        ("CELERY_EVENT_SERIALIZER", "event_serializer"),
        ("CELERY_SECURITY_KEY", "security_key"),
        ("CELERY_MONGODB_BACKEND_SETTINGS", "mongodb_backend_settings"),
        ("CELERY_RESULT_DBURI", "database_url"),
    ],
)
def test_each_name_of_celery_3_is_known(old: str, new: str) -> None:
    assert SETTINGS[new].historic.count(old) == 1


def test_each_setting_has_its_name_in_both_namespaces() -> None:
    for namespace in ("CELERY", "FASTQ"):
        conf = settings()
        conf.load({f"{namespace}_WORKER_CONCURRENCY": 3, f"{namespace}_TASK_TIME_LIMIT": 5}, namespace=namespace)
        assert (conf.worker_concurrency, conf.task_time_limit) == (3, 5)
        conf = settings()
        conf.load({f"{namespace}_WORKER_CONCURRENCY": 3, "DEBUG": True})
        assert conf.worker_concurrency == 3


def test_a_config_file_for_celery_loads_without_a_warning() -> None:
    conf = settings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conf.load(
            {
                "CELERY_RESULT_BACKEND": "redis://localhost/1",
                "CELERYBEAT_SCHEDULE": {"each": {"task": "a.b", "schedule": 30.0}},
                "worker_prefetch_multiplier": 1,
                "broker_pool_limit": None,
                "broker_transport_options": {"visibility_timeout": 3600, "priority_steps": [0, 3, 6, 9], "sep": ":"},
                "redis_socket_timeout": 20,
                "worker_send_task_events": True,
                "event_queue_ttl": 5,
                "database_engine_options": {"echo": True},
                "worker_state_db": "/var/run/state",
            },
            force=True,
        )
    assert conf.worker_prefetch_multiplier == 1
    assert conf.beat_schedule["each"]["schedule"] == 30.0
    assert all(row.accepted for name, row in SETTINGS.items() if name.startswith("database_"))


# --- kinds ---


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("task_time_limit", 0, None),
        ("task_time_limit", timedelta(minutes=1), 60.0),
        ("task_soft_time_limit", "2.5", 2.5),
        ("task_default_rate_limit", "10 / m", "10/m"),
        ("task_default_rate_limit", 5, 5),
        ("task_default_rate_limit", "none", None),
        ("worker_concurrency", "auto", None),
        ("worker_rate_limit_scope", "worker", "worker"),
        ("task_annotations", [{"*": {"rate_limit": 1}}], ({"*": {"rate_limit": 1}},)),
        ("task_annotations", '{"*": {"rate_limit": 1}}', {"*": {"rate_limit": 1}}),
        ("task_routes", '{"a.*": "b"}', {"a.*": "b"}),
        ("task_routes", "pkg.route", "pkg.route"),
        ("broker_use_ssl", "yes", True),
        ("broker_use_ssl", '{"ssl_cert_reqs": "none"}', {"ssl_cert_reqs": "none"}),
        ("broker_connection_retry_on_startup", None, True),
    ],
)
def test_values_are_read_as_their_setting_wants_them(name: str, given: Any, value: object) -> None:
    assert settings(**{name: given})[name] == value


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("task_time_limit", -1, "a number of seconds"),
        ("task_default_rate_limit", "10/d", "a number of tasks a second, text such as '10/s'"),
        ("task_default_rate_limit", True, "a number of tasks"),
        ("worker_rate_limit_scope", "all", "'fleet' or 'worker'"),
        ("task_default_exchange_type", "headers", "'direct', 'topic' or 'fanout'"),
        ("task_annotations", 3, "a mapping of task names"),
        ("task_queues", 3, "a list of queues"),
    ],
)
def test_what_a_kind_refuses(name: str, given: Any, expected: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"expected {expected}"):
        settings(**{name: given})


def test_an_object_that_annotates_is_an_annotation() -> None:
    class Annotations:
        def annotate(self, task: object) -> dict[str, object]:
            return {}

    given = Annotations()
    assert settings(task_annotations=given).task_annotations is given


# --- sources ---


def test_added_defaults_lose_against_everything_but_the_table() -> None:
    conf = settings({"FASTQ_WORKER_LEASE": "9"})
    asked: list[int] = []

    def late() -> dict[str, Any]:
        asked.append(1)
        return {"worker_lease": 1, "task_default_queue": "late", "result_expires": 5, "my_own": conf.task_default_priority}

    before = conf.generation
    conf.add_defaults({"result_expires": 7, "task_default_priority": 4, "CELERYD_CONCURRENCY": 2})
    conf.add_defaults(late)
    assert conf.generation == before + 2 and not asked
    conf.load({"task_default_queue": "object"})
    assert conf.worker_lease == 9
    assert conf.task_default_queue == "object"
    assert conf.result_expires == 5, "the later addition wins"
    assert conf.task_default_priority == 4
    assert conf.worker_concurrency == 2
    assert conf.my_own == 4
    assert asked == [1]
    assert conf.origin("result_expires") == "add_defaults(...)"
    with pytest.raises(TypeError, match="takes a mapping or a function"):
        conf.add_defaults(3)  # type: ignore[arg-type]


def test_the_environment_names_a_config_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, queue in (("env_config_a", "a"), ("env_config_b", "b")):
        (tmp_path / f"{module}.py").write_text(f"task_default_queue = {queue!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        environ = {"CELERY_CONFIG_MODULE": "env_config_a"}
        assert settings(environ).task_default_queue == "a"
        environ["FASTQ_CONFIG_MODULE"] = "env_config_b"
        assert settings(environ).task_default_queue == "b"
        for force in (False, True):
            conf = settings(environ)
            conf.load({"task_default_queue": "own"}, force=force)
            assert conf.task_default_queue == "own", "what the application sets itself counts"
        conf = settings({"MY_SETTINGS": "env_config_a"})
        assert conf.load_envvar("MY_SETTINGS")
        assert conf.task_default_queue == "a"
        assert not conf.load_envvar("NOT_SET", silent=True)
        with pytest.raises(ImproperlyConfigured, match="NOT_SET is not set"):
            conf.load_envvar("NOT_SET")
    finally:
        for module in ("env_config_a", "env_config_b"):
            sys.modules.pop(module, None)


def test_arguments_are_settings_of_the_command_line() -> None:
    conf = settings(worker_lease=3)
    conf.load_arguments(["worker.lease=20", ".prefetch=0", "--task_acks_late=no", "beat_schedule={}", "worker_state_db=x=y"])
    assert (conf.worker_lease, conf.worker_prefetch, conf.task_acks_late) == (20, 0, False)
    assert (conf.beat_schedule, conf.worker_state_db) == ({}, "x=y")
    assert conf.origin("worker_lease") == "the command line"
    conf.load_arguments(
        [".timer_precision=(float)2", "imports=(list)a,b", "broker_transport_options=(json){}", "enable_utc=(bool)no"]
    )
    assert (conf.worker_timer_precision, conf.imports, conf.enable_utc) == (2.0, ("a", "b"), False)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("worker.leese=20", r"no setting 'worker_leese' \(did you mean 'worker_lease'\?\)"),
        ("20", "expected a setting and its value"),
        ("worker.lease=long", "worker_lease = 'long' from the command line: expected a number"),
        ("worker.lease=(int)long", "'long' is not of type 'int'"),
        ("worker.lease=(what)1", "is not of type 'what'"),
    ],
)
def test_a_wrong_argument_is_refused(argument: str, text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=text):
        settings().load_arguments([argument])


def test_an_instance_is_a_config_object() -> None:
    class Config:
        task_default_queue = "class"

        def __init__(self) -> None:
            self.worker_lease = 5

        @property
        def broker_url(self) -> str:
            return "memory://"

    conf = settings()
    conf.load(Config())
    assert (conf.task_default_queue, conf.worker_lease, conf.broker_url) == ("class", 5, "memory://")


# --- settings that have a say in others ---


@pytest.mark.parametrize(
    ("url", "tls", "expected"),
    [
        ("redis://h:1/0", True, "rediss://h:1/0"),
        ("redis://h/0?db=1", {"ssl_cert_reqs": 0}, "rediss://h/0?db=1&ssl_cert_reqs=none"),
        ("rediss://h?ssl_cert_reqs=none", {"ssl_cert_reqs": "required"}, "rediss://h?ssl_cert_reqs=none"),
        ("redis://h", {"ssl_ca_certs": "/etc/ca file.pem", "keyfile": None}, "rediss://h?ssl_ca_certs=/etc/ca%20file.pem"),
        ("redis://h", {"ssl_check_hostname": False}, "rediss://h?ssl_check_hostname=false"),
        ("redis://h", False, "redis://h"),
        ("sqlite:///x.db", True, "sqlite:///x.db"),
    ],
)
def test_tls_beside_the_url_is_never_left_out(url: str, tls: object, expected: str) -> None:
    conf = settings(broker_url=url, broker_use_ssl=tls, result_backend=url, redis_backend_use_ssl=tls)
    assert (conf.broker_url, conf.result_backend) == (expected, expected)


def test_unknown_options_of_tls_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"broker_use_ssl\['ssl_cafile'\] is not known"):
        _ = settings(broker_url="redis://h", broker_use_ssl={"ssl_cafile": "x"}).broker_url


def test_the_key_prefix_can_stand_where_celery_has_it() -> None:
    assert settings(broker_transport_options={"global_keyprefix": "mine:"}).key_prefix == "mine:"
    assert settings(broker_transport_options={"global_keyprefix": "mine:"}, key_prefix="own:").key_prefix == "own:"


def test_keys_are_masked_and_routing_keys_are_not() -> None:
    conf = settings(
        security_key="hunter2-hunter2-hunter2", security_trusted_keys=["hunter2"], broker_url="redis://h?password=hunter2",
        broker_password="hunter2", task_routes={"a": {"routing_key": "visible"}},
    )  # fmt: skip
    conf.stripe_api_key = conf.SECRET_KEY = "hunter2"
    text = conf.humanize()
    assert "hunter2" not in text
    assert "visible" in text and "redis://h?password=**" in text


def test_a_namespace_looks_at_nothing_else() -> None:
    class Django:
        CELERY_TASK_TIME_LIMIT = 5

        @property
        def SECRET_KEY(self) -> str:
            raise ImproperlyConfigured("The SECRET_KEY setting must not be empty")

    conf = settings()
    conf.load(Django(), namespace="CELERY")
    assert conf.task_time_limit == 5


def test_a_file_name_is_no_module_name() -> None:
    conf = settings()
    with pytest.raises(ImproperlyConfigured, match=r"is a file; expected the module's name, such as 'proj\.celeryconfig'"):
        conf.load("proj/celeryconfig.py", force=True)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("RESULT_EXPIRES", "result_expires"),
        ("CELERYD_CONCURENCY", "CELERYD_CONCURRENCY"),
        ("BROKER_ULR", "BROKER_URL"),
        ("REDIS_PASSWORD", None),
        ("DATABASE_URL", None),
        ("CELERY_FLOWER_PORT", None),
        ("SECRET_KEY", None),
    ],
)
def test_upper_case_names_of_others_do_not_warn(name: str, hint: str | None) -> None:
    conf = settings()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        conf.load({name: "x"}, force=True)
    assert [f"did you mean {hint!r}" in str(one.message) for one in caught] == ([True] if hint else [])
    assert conf[name] == "x"


def test_a_thread_never_sees_settings_without_the_source_that_another_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_config.py").write_text(
        "import test_gate\ntest_gate.inside.set()\nassert test_gate.go.wait(30)\ntask_default_queue = 'slow'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gate = types.ModuleType("test_gate")
    gate.inside, gate.go = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "test_gate", gate)
    conf = settings()
    conf.load("slow_config")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: conf.task_default_queue)
        assert gate.inside.wait(30)
        second = pool.submit(lambda: conf.task_default_queue)
        assert conf.generation == 1, "what is read on the hot path does not wait"
        gate.go.set()
        assert (first.result(30), second.result(30)) == ("slow", "slow")
    sys.modules.pop("slow_config", None)


def test_a_source_may_look_at_settings_while_it_is_read() -> None:
    conf = settings(key_prefix="mine:")

    class Config:
        @property
        def task_default_queue(self) -> str:
            return str(conf.key_prefix) + str(conf.broker_url)

        broker_url = "memory://"

    conf.load(Config())
    assert conf.task_default_queue == "mine:None"
    assert conf.broker_url == "memory://", "what was seen halfway is not kept"


def test_a_source_that_cannot_be_read_is_an_error_each_time() -> None:
    conf = settings()
    conf.load("no.such.module")
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match="there is no module"):
            _ = conf.task_default_queue
