"""The service without Paddle Serving: requests, limits, the HTTP application and the stages, with stand-ins."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from deploy.serving_python import prepare_models
from deploy.serving_python.front import PREDICTION, Front
from deploy.serving_python.limits import Limits, check_token
from deploy.serving_python.restoring import Stages
from deploy.serving_python.settings import Settings, SettingsError, load_settings
from deploy.serving_python.wire import METHOD, Code, RefusedError, Ticket, look, open_ticket, parse_json
from ppgan_fr.face.identity import SFACE_112
from ppgan_fr.face.image_io import decode_photo
from ppgan_fr.face.spec import ModelSpec, TensorSpec
from ppgan_fr.face.types import Face

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy" / "serving_python" / "config.yml"
BOUNDS = {"max_pixels": 1_000_000, "max_side": 4000}


def png(width: int = 40, height: int = 30) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def body(content: bytes | str, **options: str) -> bytes:
    value = content if isinstance(content, str) else text(content)
    return json.dumps({"key": ["image", *options], "value": [value, *options.values()]}).encode()


class StandIn:
    """A worker that answers with the picture it was given."""

    def __init__(self, seconds: float = 0.0):
        self.ready = self.was_ready = True
        self.seconds, self.seen, self.error = seconds, [], None

    def predict(self, keys, values, seconds):
        self.seen.append(dict(zip(keys, values)))
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        try:
            ticket = open_ticket(keys, values, **BOUNDS)
        except RefusedError as refused:
            return int(refused.code), str(refused), [], []
        said = {"image": text(ticket.content), "format": "png", "width": "40", "height": "30", "faces": "[]"}
        said["seconds"] = '{"restore": 0.1}'
        return 0, "", list(said), list(said.values())


class Client:
    """Calls the application as a server would."""

    def __init__(self, settings: Settings | None = None, worker: StandIn | None = None):
        self.worker = worker or StandIn()
        self.front = Front(settings or Settings(max_body_mb=2), self.worker)

    def __call__(self, method: str, path: str, content: bytes = b"", **environ: str) -> tuple[int, dict, bytes]:
        said: dict = {}

        def start_response(status: str, headers: list) -> None:
            said.update(status=int(status.split()[0]), headers=dict(headers))

        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "CONTENT_LENGTH": str(len(content)),
            "REMOTE_ADDR": "10.0.0.1",
            "HTTP_HOST": "localhost:18080",
            "wsgi.input": io.BytesIO(content),
            **environ,
        }
        answer = b"".join(self.front(environ, start_response))
        return said["status"], said["headers"], answer

    def post(self, content: bytes, **environ: str) -> tuple[int, dict]:
        status, _, answer = self("POST", PREDICTION, content, **environ)
        return status, json.loads(answer)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_the_form_of_tipc_is_understood():
    ticket = open_ticket(*parse_json(body(png())), **BOUNDS)
    assert (ticket.content, ticket.kind, ticket.fidelity, ticket.format) == (png(), "PNG", None, None)


def test_options_are_read():
    keys, values = parse_json(body(png(), fidelity="0.25", only_center="true", format="jpeg"))
    ticket = open_ticket(keys, values, **BOUNDS)
    assert (ticket.fidelity, ticket.only_center, ticket.format) == (0.25, True, "JPEG")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"NaN",
        b'{"key": ["image"]}',
        b'{"key": "image", "value": "x"}',
        b'{"key": ["image"], "value": [1]}',
        b'{"key": ["image"], "value": [{"image": 1}]}',
        b'{"key": [], "value": []}',
        b'{"key": ["image", "image"], "value": ["a", "b"]}',
        b'{"key": ["image", "pipeline.profile"], "value": ["a", "1"]}',
        b'{"key": ["image", "../../etc/passwd"], "value": ["a", "1"]}',
        b'{"key": ["image"], "value": ["a"], "tensors": [{"elem_type": 13, "byte_data": "gASV"}]}',
        b'{"key": ["image"], "value": ["a"], "__class__": "os.system"}',
        b"[" * 100_000,
        b'{"key": ["image"], "value": ["a", "b"]}',
    ],
)
def test_other_bodies_are_refused(content):
    with pytest.raises(RefusedError) as caught:
        parse_json(content)
    assert caught.value.code == Code.BAD_REQUEST


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("not base64!", Code.BAD_REQUEST),
        ("Zm9v\u00e9", Code.BAD_REQUEST),
        ("", Code.NOT_A_PICTURE),
        (text(b"hello"), Code.NOT_A_PICTURE),
        (text(pickle.dumps({"a": 1})), Code.NOT_A_PICTURE),
        (text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"), Code.NOT_A_PICTURE),
        (text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), Code.NOT_A_PICTURE),
        (text(bomb(50_000, 50_000)), Code.TOO_LARGE),
        (text(bomb(5000, 2)), Code.TOO_LARGE),
        (text(bomb(1001, 1000)), Code.TOO_LARGE),
    ],
)
def test_what_is_no_picture_or_too_large_a_one_is_refused_before_decoding(value, code, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(RefusedError) as caught:
        open_ticket(["image"], [value], **BOUNDS)
    assert caught.value.code == code


@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan", "inf", "1e400", "one", "", "0" * 100])
def test_a_fidelity_that_is_none_is_refused(value):
    with pytest.raises(RefusedError, match="fidelity"):
        open_ticket(["image", "fidelity"], [text(png()), value], **BOUNDS)


def test_a_refusal_repeats_nothing_of_the_request():
    secret = "s3cret-%s-{0.__class__}"
    for content in (json.dumps({"key": [secret], "value": [secret]}), json.dumps({secret: secret}), secret):
        with pytest.raises(RefusedError) as caught:
            parse_json(content.encode())
        assert "s3cret" not in str(caught.value)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_more_requests_than_places_are_told_that_it_is_busy():
    limits = Limits(1, 1, 100)
    with limits.admit("a"), pytest.raises(RefusedError) as caught, limits.admit("b"):
        pass
    assert caught.value.code == Code.BUSY
    with limits.admit("b"):
        assert limits.in_flight == 1


def test_one_client_cannot_take_every_place():
    limits = Limits(10, 1, 100)
    with limits.admit("a"):
        with pytest.raises(RefusedError) as caught, limits.admit("a"):
            pass
        assert caught.value.code == Code.TOO_MANY
        with limits.admit("b"):
            pass


def test_the_pace_of_a_client_recovers_with_time():
    now = [0.0]
    limits = Limits(10, 10, 2, clock=lambda: now[0])

    def ask() -> bool:
        try:
            with limits.admit("a"):
                return True
        except RefusedError:
            return False

    assert [ask() for _ in range(3)] == [True, True, False]
    now[0] = 31
    assert [ask() for _ in range(2)] == [True, False]


def test_closing_waits_for_those_inside_and_lets_nobody_in():
    limits = Limits(10, 10, 100)
    inside, leave = threading.Event(), threading.Event()

    def serve() -> None:
        with limits.admit("a"):
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=serve)
    thread.start()
    inside.wait(5)
    assert not limits.close(0.01)
    with pytest.raises(RefusedError) as caught, limits.admit("b"):
        pass
    assert caught.value.code == Code.STOPPING
    leave.set()
    assert limits.close(5)
    thread.join()


def test_a_token_must_be_the_right_one():
    check_token(None, None)
    check_token("abc", "Bearer abc")
    for header in (None, "", "abc", "Bearer", "Bearer abcd", "Basic abc", "Bearer \u00e4"):
        with pytest.raises(RefusedError):
            check_token("abc", header)


# --- HTTP -------------------------------------------------------------------------------------------------------------


def test_a_photo_comes_back():
    client = Client()
    status, answer = client.post(body(png()))
    assert (status, answer["err_no"]) == (200, 0)
    assert base64.b64decode(dict(zip(answer["key"], answer["value"]))["image"]) == png()


def test_health_and_readiness_follow_the_worker():
    client = Client()
    client.worker.ready = client.worker.was_ready = False
    assert [client("GET", path)[0] for path in ("/healthz", "/readyz")] == [503, 503]
    client.worker.ready = client.worker.was_ready = True
    assert [client("GET", path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
    client.worker.ready = False  # it is being started again
    assert [client("GET", path)[0] for path in ("/healthz", "/readyz")] == [200, 503]
    status, headers, _ = client("POST", PREDICTION, body(png()))
    assert (status, headers["Retry-After"]) == (503, "2")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"REQUEST_METHOD": "GET"}, 405),
        ({"CONTENT_LENGTH": ""}, 411),
        ({"CONTENT_LENGTH": "-1"}, 411),
        ({"CONTENT_LENGTH": "99999999999"}, 413),
        ({"HTTP_ORIGIN": "https://elsewhere.example"}, 403),
        ({"HTTP_SEC_FETCH_SITE": "cross-site"}, 403),
        ({"HTTP_ORIGIN": "http://localhost:18080", "HTTP_SEC_FETCH_SITE": "same-origin"}, 200),
        ({"PATH_INFO": "/../config.yml"}, 404),
        ({"PATH_INFO": "/config.yml"}, 404),
    ],
)
def test_http_has_its_own_refusals(given, status):
    client = Client()
    assert client("POST", PREDICTION, body(png()), **given)[0] == status
    assert len(client.worker.seen) == (status == 200)


def test_a_token_guards_photos_and_metrics_but_not_health():
    client = Client(Settings(token="abc"))
    assert client.post(body(png()))[0] == 401
    assert client.post(body(png()), HTTP_AUTHORIZATION="Bearer abc")[0] == 200
    assert [client("GET", path)[0] for path in ("/metrics", "/healthz", "/")] == [401, 200, 200]


def test_a_dead_worker_is_an_answer():
    client = Client()
    client.worker.error = RefusedError(Code.RESTARTING, "the photo was lost with the worker; try again shortly")
    assert client.post(body(png()))[0] == 503
    client.worker.error = RuntimeError("secret path /home/x")
    status, answer = client.post(body(png()))
    assert status == 500
    assert "secret" not in json.dumps(answer)
    assert client.front.limits.in_flight == 0


def test_an_unknown_code_of_the_worker_is_a_failure():
    client = Client()
    client.worker.predict = lambda *_: (10000, "Traceback (most recent call last)", [], [])
    status, answer = client.post(body(png()))
    assert status == 500
    assert "Traceback" not in answer["err_msg"]


def test_only_a_trusted_proxy_may_name_the_client():
    settings = Settings(max_in_flight_per_client=1, trusted_proxies=("10.0.0.1",))
    client = Client(settings)
    assert client.front._client({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "6.6.6.6, 7.7.7.7"}) == "7.7.7.7"
    assert client.front._client({"REMOTE_ADDR": "9.9.9.9", "HTTP_X_FORWARDED_FOR": "7.7.7.7"}) == "9.9.9.9"


def test_metrics_and_logs_hold_numbers_and_no_picture(caplog):
    client = Client()
    with caplog.at_level("INFO", logger="ppgan_serving"):
        client.front.limits.per_minute = 1000
        client.post(body(png()))
        client.post(b"nonsense")
        client("GET", "/<script>")
    page = client("GET", "/metrics")[2].decode()
    assert 'requests_total{path="/gfpgan/prediction",status="200"} 1' in page
    assert 'requests_total{path="/gfpgan/prediction",status="400"} 1' in page
    assert 'path="other",status="404"' in page
    assert "ppgan_serving_request_seconds_count 2" in page
    lines = [json.loads(record.message) for record in caplog.records if record.name == "ppgan_serving"]
    assert [line["status"] for line in lines] == [200, 400]
    assert text(png())[:40] not in caplog.text


def test_the_page_loads_nothing_from_elsewhere():
    client = Client()
    for path in ("/", "/page.js", "/page.css"):
        status, headers, content = client("GET", path)
        assert status == 200
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert b"http://" not in content
        assert b"https://" not in content
        assert b"innerHTML" not in content


def test_a_thousand_hostile_requests_get_clear_answers_and_a_good_one_is_served_afterwards():
    client = Client(Settings(max_body_mb=2, requests_per_minute_per_client=1e6))
    rng = random.Random(1)
    good = body(png())
    statuses = set()
    for _ in range(1000):
        status, answer = client.post(hostile(rng, good))
        statuses.add(status)
        assert status in (200, 400, 413, 422)
        assert bool(answer["err_no"]) == (status != 200)
        assert bool(answer["err_msg"]) == (status != 200)
    assert {400, 413, 422} <= statuses
    assert client.post(good)[0] == 200
    assert client.front.limits.in_flight == 0


def hostile(rng: random.Random, good: bytes) -> bytes:
    noise = rng.randbytes(rng.randrange(200))
    picture = png()
    place = rng.randrange(len(picture))
    return rng.choice(
        [
            noise,
            good[: rng.randrange(len(good))],
            body(noise),
            body(picture[:place] + noise),
            body(picture[:24] + noise + picture[24 + len(noise) :]),
            body(bomb(rng.randrange(1, 2**31), rng.randrange(1, 2**31))),
            body(pickle.dumps(Exception)),
            body("%s%n{0.__class__}" * rng.randrange(5)),
            body("../" * rng.randrange(20)),
            body(picture, fidelity=rng.choice(["nan", "-1", "1e9", "{}", "__import__('os')"])),
            body("A" * 3_000_000) if rng.random() < 0.05 else b"x",
            json.dumps({"key": ["image"], "value": [noise.hex()], "tensors": [{"elem_type": 13}]}).encode(),
            json.dumps({noise.hex(): [[[[]]]]}).encode(),
        ]
    )


# --- stages -----------------------------------------------------------------------------------------------------------


def stages(answer=None, faces: int = 2) -> Stages:
    spec = ModelSpec("x", inputs=(TensorSpec("lq", (-1, 3, 512, 512)), TensorSpec("fidelity", (-1, 1, 1, 1))))
    points = np.array([[30, 30], [60, 30], [45, 45], [35, 60], [55, 60]], np.float32)
    found = [Face(np.array([20 + 40 * i, 20, 50, 60], np.float32), points + [40 * i, 0], 0.9) for i in range(faces)]
    return Stages(lambda image: found, answer or (lambda arrays: [arrays["lq"] * 0.5]), spec)


def photo() -> bytes:
    image = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 2)
    return cv2.imencode(".png", image)[1].tobytes()


def restored(stages: Stages, **options) -> dict:
    ticket = Ticket(photo(), "PNG", **options)
    stages.open(ticket)
    arrays = stages.feed(ticket)
    stages.take(ticket, stages.predict(arrays), 0.1)
    return stages.close(ticket)


def test_every_value_of_an_answer_is_a_string_and_faces_are_described():
    said = restored(stages())
    assert all(isinstance(value, str) for value in said.values())
    assert (said["width"], said["height"], said["format"]) == ("160", "120", "png")
    assert [face["restored"] for face in json.loads(said["faces"])] == [True, True]
    before, after = decode_photo(photo()).pixels, decode_photo(base64.b64decode(said["image"])).pixels
    assert not np.array_equal(before, after)


def test_a_photo_without_a_face_comes_back_as_it_was():
    said = restored(stages(faces=0))
    assert base64.b64decode(said["image"]) == photo()


def test_faces_of_several_photos_in_one_call_give_what_each_gives_alone():
    one = stages(lambda arrays: [arrays["lq"] * arrays["fidelity"]])
    tickets = [Ticket(photo(), "PNG", fidelity=value) for value in (0.2, 0.7)]
    for ticket in tickets:
        one.open(ticket)
    feeds = [one.feed(ticket) for ticket in tickets]
    together = one.predict({name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]})
    for i, ticket in enumerate(tickets):
        one.take(ticket, together[2 * i : 2 * i + 2])
    assert [one.close(ticket)["image"] for ticket in tickets] == [
        restored(one, fidelity=value)["image"] for value in (0.2, 0.7)
    ]


def test_an_answer_that_is_no_number_is_a_failure():
    with pytest.raises(RefusedError) as caught:
        restored(stages(lambda arrays: [np.full_like(arrays["lq"], np.nan)]))
    assert caught.value.code == Code.FAILED


def test_a_damaged_picture_is_refused_when_it_is_decoded():
    content = photo()[:-200]
    assert look(content, **BOUNDS) == "PNG"
    with pytest.raises(RefusedError) as caught:
        stages().open(Ticket(content, "PNG"))
    assert caught.value.code == Code.NOT_A_PICTURE


def test_a_photo_nobody_waits_for_is_not_restored():
    with pytest.raises(RefusedError) as caught:
        stages().open(Ticket(photo(), "PNG", deadline=time.monotonic() - 1))
    assert caught.value.code == Code.TIMEOUT


def test_only_the_face_nearest_to_the_middle_is_restored_when_asked():
    assert len(json.loads(restored(stages(), only_center=True)["faces"])) == 1


def test_the_landmarks_of_the_face_recogniser_are_those_of_its_network():
    from ppgan_fr.archs import sface

    assert np.allclose(SFACE_112.array(), sface.TEMPLATE_112)


# --- settings and models ----------------------------------------------------------------------------------------------


def test_the_shipped_settings_are_the_defaults():
    settings, conf = load_settings(CONFIG)
    assert settings == Settings(trusted_proxies=())
    assert set(conf["op"]) == {"detect", "restore", "paste"}
    assert load_settings(CONFIG, http_port=19000)[0].rpc_port == 19001


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "service: {unknown: 1}",
        "service: {max_side: many}",
        "service: {timeout_s: 0}",
        "http_port: 80",
        "http_port: 18081",
        "op: {restore: {concurrency: 2}}",
        "op: {restore: {timeout: 1000}}",
        "op: {detect: {retry: 2}}",
        "dag: {retry: 2}",
        "op: {other: {}}",
        "a: [",
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(content, tmp_path):
    (tmp_path / "config.yml").write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "config.yml")
    assert "\n" not in str(caught.value)


def test_the_description_of_a_model_is_what_the_cpp_server_reads():
    spec = ModelSpec("x", inputs=(TensorSpec("lq", (-1, 3, 8, 8)), TensorSpec("fidelity", (-1, 1, 1, 1))))
    said = prepare_models.prototxt(spec, (3, 8, 8))
    assert said.count("feed_var {") == 2
    assert 'fetch_var {\n  name: "image"\n  alias_name: "image"\n  is_lod_tensor: false\n  fetch_type: 1' in said


def test_what_the_container_copies_is_there_and_is_all_the_service_imports(tmp_path):
    recipe = (CONFIG.parent / "Dockerfile").read_text()
    copies = [line.split()[1:] for line in recipe.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert len(copies) == 5
    for *sources, target in copies:
        if sources == ["build/serving/models"]:  # made by setup.sh
            continue
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                into = tmp_path / target
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, into)
    code = (
        "import sys; import deploy.serving_python.restoring, deploy.serving_python.ops, ppgan_fr.inference;"
        "import deploy.serving_python.web_service, deploy.serving_python.front;"
        "print([m.__file__ for n, m in sys.modules.items() if n.startswith(('ppgan_fr', 'deploy.'))])"
    )
    words = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-s", "-c", code]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{ROOT}/" not in done.stdout


def test_the_load_balancer_allows_what_the_service_allows():
    text = (CONFIG.parent / "nginx.conf").read_text()
    settings, _ = load_settings(CONFIG)
    assert f"client_max_body_size {settings.max_body_mb:g}m;" in text
    waits = [int(seconds) for seconds in re.findall(r"_read_timeout (\d+)s", text)]
    assert len(waits) == 3
    assert min(waits) > settings.timeout_s
    assert f"server 127.0.0.1:{settings.http_port} " in text
    assert f"server 127.0.0.1:{settings.rpc_port};" in text
    assert METHOD.rpartition("/")[0] + "/" in text
