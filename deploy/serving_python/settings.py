"""What `config.yml` may say, checked before anything starts."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

OPS = ("detect", "restore", "paste")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SettingsError(ValueError):
    """`config.yml` or the command line says something that cannot be. One line."""


@dataclass(frozen=True)
class Settings:
    """The section `service` of `config.yml`; the comments there say what each means."""

    host: str = "127.0.0.1"
    model_dir: str | None = None
    engine: str | None = None
    cpu_threads: int | None = None
    faces_per_call: int = 1
    token: str | None = None
    max_body_mb: float = 32
    max_pixels_million: float = 25
    max_side: int = 12000
    timeout_s: float = 120
    max_in_flight: int = 32
    max_in_flight_per_client: int = 16
    requests_per_minute_per_client: float = 1200
    receive_timeout_s: float = 60
    drain_s: float = 60
    hang_s: float = 20
    trusted_proxies: tuple[str, ...] = ()
    log_mb: float = 10
    http_port: int = 18080
    rpc_port: int = 18081
    worker_num: int = 8

    @property
    def max_body(self) -> int:
        """Bytes of a request."""
        return int(self.max_body_mb * 1024 * 1024)

    @property
    def max_pixels(self) -> int:
        """Of a photo."""
        return int(self.max_pixels_million * 1_000_000)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in LOOPBACK


def load_settings(path: str | Path, **given: Any) -> tuple[Settings, dict[str, Any]]:
    """Reads `config.yml`.

    Args:
        path: the file.
        given: fields of `Settings` from the command line; None means not given.

    Returns:
        Our settings, and what Paddle Serving is told.

    Raises:
        SettingsError: the file is missing, not YAML, or has unknown or wrong entries.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        content = {} if content is None else content
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    except yaml.YAMLError:
        raise SettingsError(f"{path}: not valid YAML") from None
    if not isinstance(content, dict) or not isinstance(content.get("service", {}), dict):
        raise SettingsError(f"{path}: expected a mapping, with a mapping `service`")
    values = dict(content.pop("service", {}))
    for key in ("http_port", "rpc_port", "worker_num"):
        if key in content:
            values[key] = content.pop(key)
    if given.get("http_port") is not None and given.get("rpc_port") is None:
        given["rpc_port"] = given["http_port"] + 1
    values.update({key: value for key, value in given.items() if value is not None})
    if not values.get("token"):
        values["token"] = os.environ.get("PPGAN_SERVING_TOKEN") or None
    return _checked(values, path), _pipeline(content, path)


def _checked(values: dict[str, Any], path: str | Path) -> Settings:
    kinds = {field.name: field.type for field in dataclasses.fields(Settings)}
    for key, value in values.items():
        if key not in kinds:
            raise SettingsError(f"{path}: service.{key}: there is no such setting")
        kind = kinds[key]
        optional = "None" in kind
        if value is None and optional:
            continue
        if "tuple" in kind:
            good = isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
        elif "str" in kind:
            good = isinstance(value, str)
        else:
            good = isinstance(value, (int, float) if "float" in kind else int) and not isinstance(value, bool)
            good = good and 0 < value < 1e9
        if not good:
            raise SettingsError(f"{path}: service.{key}: {value!r} is not a possible value")
    values["trusted_proxies"] = tuple(values.get("trusted_proxies", ()))
    settings = Settings(**values)
    for key in ("http_port", "rpc_port"):
        if not 1024 <= getattr(settings, key) <= 65535:
            raise SettingsError(f"{path}: {key}: must be between 1024 and 65535, got {getattr(settings, key)}")
    if settings.http_port == settings.rpc_port:
        raise SettingsError(f"{path}: http_port and rpc_port are both {settings.http_port}")
    return settings


def _pipeline(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Paddle Serving's part. What would make its server hang or mix up answers is refused."""
    ops = content.setdefault("op", {})
    dag = content.setdefault("dag", {})
    if not isinstance(ops, dict) or not isinstance(dag, dict) or set(ops) - set(OPS):
        raise SettingsError(f"{path}: op: the Ops are {', '.join(OPS)}")
    for name in OPS:
        op = ops.setdefault(name, {})
        if not isinstance(op, dict):
            raise SettingsError(f"{path}: op.{name}: expected a mapping")
        if op.get("timeout", -1) > 0 or op.get("retry", 1) != 1:
            raise SettingsError(f"{path}: op.{name}: only timeout -1 and retry 1: anything else can hang the pipeline")
        if name == "restore" and op.get("concurrency", 1) != 1:
            raise SettingsError(f"{path}: op.restore: concurrency must be 1: threads would share one predictor")
        op.setdefault("local_service_conf", {})
    if dag.get("retry", 1) != 1 or not dag.get("is_thread_op", True) or content.get("build_dag_each_worker"):
        raise SettingsError(f"{path}: dag: only is_thread_op, retry 1 and build_dag_each_worker False are supported")
    dag.setdefault("retry", 1)
    dag.setdefault("is_thread_op", True)
    dag["use_profile"] = False
    return content
