"""The real service: Paddle Serving in its own environment, started, asked, attacked, stopped. Minutes; `setup.sh` needs
the network once. The browser test also needs Chromium and its driver (`apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppgan_fr.face.spec import read_spec
from ppgan_fr.inference import paddle_run
from tests.deploy.test_serving import hostile

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "deploy" / "serving_python"
VENV = Path(os.environ.get("SERVING_VENV", ROOT / "build" / "serving" / "venv"))
ASTRONAUT = ROOT / "assets" / "demo" / "astronaut.jpg"


def free_port() -> int:
    for _ in range(50):
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise OSError("no two free ports in a row")


def run(*words: str | Path, timeout: float = 300) -> subprocess.CompletedProcess:
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class Running:
    """The service on a port of its own."""

    def __init__(self):
        self.port = free_port()
        run("bash", SERVICE / "start.sh", "--port", str(self.port))
        self.pid = int((ROOT / "build/serving/run" / f"service.{self.port}.pid").read_text())

    def worker(self) -> int:
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        return int(" ".join(path.read_text() for path in children).split()[0])

    def post(self, content: bytes | str, **options: str) -> tuple[int, dict]:
        value = content if isinstance(content, str) else base64.b64encode(content).decode()
        request = {"key": ["image", *options], "value": [value, *options.values()]}
        return self.send(json.dumps(request).encode())

    def send(self, body: bytes) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", "/gfpgan/prediction", body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def status(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        return connection.getresponse().status

    def wait_until_ready(self, seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while self.status("/readyz") != 200:
            assert time.monotonic() < end, "the worker did not come back"
            time.sleep(0.2)

    def stop(self) -> None:
        run("bash", SERVICE / "stop.sh", "--port", str(self.port))


@pytest.fixture(scope="module")
def service():
    os.environ.setdefault("PYTHON", sys.executable)
    run("bash", SERVICE / "setup.sh", timeout=1500)
    running = Running()
    yield running
    running.stop()
    assert not alive(running.pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def values(answer: dict) -> dict:
    return dict(zip(answer["key"], answer["value"]))


def rpc(service: Running, code: str) -> str:
    """Runs lines in the serving environment, with `call(request)` and the messages at hand."""
    head = f"""
import sys, grpc
sys.path.insert(0, {str(ROOT)!r})
from deploy.serving_python.wire import METHOD, messages
m = messages()
channel = grpc.insecure_channel("127.0.0.1:{service.port + 1}", options=[("grpc.enable_http_proxy", 0)])
call = channel.unary_unary(METHOD, m.Request.SerializeToString, m.Response.FromString)
"""
    return run(VENV / "bin" / "python", "-c", head + code).stdout


def test_both_clients_give_the_very_files_of_predict(service, tmp_path):
    run(sys.executable, ROOT / "tools/predict.py", "--input", ASTRONAUT, "--output", tmp_path / "predict")
    url = f"http://127.0.0.1:{service.port}/gfpgan/prediction"
    common = ["--image_dir", ASTRONAUT, "--save_dir"]
    run(sys.executable, SERVICE / "pipeline_http_client.py", "--url", url, *common, tmp_path / "http")
    endpoint = f"127.0.0.1:{service.port + 1}"
    client = SERVICE / "pipeline_rpc_client.py"
    run(VENV / "bin" / "python", client, "--endpoint", endpoint, *common, tmp_path / "rpc")
    contents = [(tmp_path / name / "restored/astronaut.jpg").read_bytes() for name in ("predict", "http", "rpc")]
    assert contents[0] == contents[1] == contents[2]
    line = json.loads((tmp_path / "http/results.jsonl").read_text())
    assert line["faces"][0]["identity_similarity"] > 0.3


def test_sixteen_clients_get_each_their_own_picture(service):
    photo = cv2.imread(str(ASTRONAUT))
    pictures = []
    for i in range(16):
        marked = photo[:256, 128:384].copy()
        cv2.rectangle(marked, (2 + 15 * i, 2), (12 + 15 * i, 12), (0, 0, 255), -1)
        pictures.append(cv2.imencode(".png", marked)[1].tobytes())
    alone = [values(service.post(picture)[1])["image"] for picture in pictures]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda i: values(service.post(pictures[i])[1])["image"], [*range(16)] * 2))
    assert together == alone * 2
    assert len(set(alone)) == 16


def test_hostile_requests_over_http_change_nothing(service, tmp_path):
    trap = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {trap}",))

    for content, status in ((b"", 422), (pickle.dumps(Evil()), 422), (ASTRONAUT.read_bytes()[:5000], 422)):
        assert service.post(content)[0] == status
    assert service.send(b"{")[0] == 400
    with socket.create_connection(("127.0.0.1", service.port), 5) as garbage:
        garbage.sendall(os.urandom(4096) + b"\r\n\r\n")
    for _ in range(20):  # clients that go away
        with socket.create_connection(("127.0.0.1", service.port), 5) as leaving:
            leaving.sendall(b"POST /gfpgan/prediction HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    assert service.post(ASTRONAUT.read_bytes())[0] == 200
    assert not trap.exists()


def test_a_thousand_hostile_requests_get_clear_answers(service):
    rng = random.Random(2)
    bodies = [hostile(rng, b'{"key": ["image"], "value": ["AAAA"]}') for _ in range(1000)]
    worker = service.worker()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(service.send, bodies))
    assert {status for status, _ in answers} <= {200, 400, 413, 422}
    assert all(bool(answer["err_msg"]) == (status != 200) for status, answer in answers)
    assert service.post(ASTRONAUT.read_bytes())[0] == 200
    assert service.worker() == worker


def test_hostile_messages_over_grpc_are_refused(service):
    said = rpc(
        service,
        """
import random
rng = random.Random(3)
raw = channel.unary_unary(METHOD, lambda content: content, m.Response.FromString)
codes = set()
for _ in range(200):
    keys = rng.choices(["image", "fidelity", "../x", "pipeline.profile", "", "%s%n"], k=rng.randrange(4))
    values = ["".join(map(chr, rng.choices(range(32, 500), k=rng.randrange(50)))) for _ in range(rng.randrange(4))]
    codes.add(call(m.Request(key=keys, value=values, name=rng.choice(["", "gfpgan", "x"])), timeout=60).err_no)
    try:
        codes.add(raw(rng.randbytes(rng.randrange(300)) if hasattr(rng, "randbytes") else b"", timeout=60).err_no)
    except grpc.RpcError as error:
        codes.add(error.code().name)
print(" ".join(sorted(map(str, codes))))
""",
    )
    assert set(said.split()) <= {"51", "53", "INTERNAL", "UNKNOWN"}
    assert service.post(ASTRONAUT.read_bytes())[0] == 200


def test_tensors_over_grpc_are_refused_unread(service, tmp_path):
    trap = tmp_path / "executed"
    said = rpc(
        service,
        f"""
import io, os, pickle, numpy as np
class Evil:
    def __reduce__(self):
        return os.system, ("touch {trap}",)
stream = io.BytesIO()
np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
request = m.Request()
tensor = request.tensors.add()
tensor.name, tensor.elem_type, tensor.byte_data = "image", 13, stream.getvalue()
answer = call(request, timeout=60)
print(answer.err_no, answer.err_msg)
answer = call(m.Request(key=["image", "pipeline.profile"], value=["x", "1"]), timeout=60)
print(answer.err_no, answer.err_msg)
""",
    )
    assert not trap.exists()
    assert [line.split()[0] for line in said.splitlines()] == ["51", "51"]
    with socket.create_connection(("127.0.0.1", service.port + 1), 5) as garbage:
        garbage.sendall(os.urandom(65536))
    assert service.post(ASTRONAUT.read_bytes())[0] == 200


def test_only_loopback_is_bound(service):
    ports = {service.port, service.port + 1}
    bound = [line.split()[1] for name in ("tcp", "tcp6") for line in _table(name) if line.split()[3] == "0A"]
    ours = [address for address in bound if int(address.rpartition(":")[2], 16) in ports]
    assert len(ours) == 2
    # 127.0.0.1, plain or within IPv6.
    assert all(address.rpartition(":")[0] in ("0100007F", "0000000000000000FFFF00000100007F") for address in ours)


def _table(name: str) -> list[str]:
    path = Path(f"/proc/net/{name}")
    return path.read_text().splitlines()[1:] if path.is_file() else []


def test_a_killed_worker_comes_back_and_nobody_waits_in_vain(service):
    worker = service.worker()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(service.post, ASTRONAUT.read_bytes()) for _ in range(4)]
        time.sleep(0.4)
        os.kill(worker, signal.SIGKILL)
        start = time.monotonic()
        assert {future.result()[0] for future in asked} <= {200, 503}
        assert time.monotonic() - start < 60
    service.wait_until_ready()
    assert service.worker() != worker
    assert service.post(ASTRONAUT.read_bytes())[0] == 200


def test_a_frozen_worker_is_replaced_and_nobody_waits_in_vain(service):
    worker = service.worker()
    over_grpc = """
try:
    print(call(m.Request(key=["image"], value=["x"]), timeout=200).err_no)
except grpc.RpcError as error:
    print(error.code().name)
"""
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(service.post, ASTRONAUT.read_bytes()) for _ in range(4)]
        time.sleep(0.4)
        os.kill(worker, signal.SIGSTOP)
        start = time.monotonic()
        said = pool.submit(rpc, service, over_grpc)
        assert {future.result()[0] for future in asked} <= {200, 503}
        assert said.result().strip() in ("UNAVAILABLE", "51")
        assert time.monotonic() - start < 90  # hang_s and what it takes to start again
    service.wait_until_ready()
    assert service.worker() != worker
    assert not alive(worker)
    assert service.post(ASTRONAUT.read_bytes())[0] == 200


def test_a_second_service_on_the_same_port_leaves_the_first_alone(service):
    words = ["bash", str(SERVICE / "start.sh"), "--port", str(service.port)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "already" in done.stderr
    assert service.status("/readyz") == 200
    assert int((ROOT / "build/serving/run" / f"service.{service.port}.pid").read_text()) == service.pid


def test_sigterm_lets_accepted_requests_finish_and_leaves_no_process(service):
    other = Running()
    worker = other.worker()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(other.post, ASTRONAUT.read_bytes()) for _ in range(4)]
        time.sleep(0.5)
        os.kill(other.pid, signal.SIGTERM)
        assert [future.result()[0] for future in asked] == [200] * 4
    for _ in range(150):
        if not alive(other.pid):
            break
        time.sleep(0.2)
    assert not alive(other.pid)
    assert not alive(worker)


# --- the page in a browser --------------------------------------------------------------------------------------------


class Browser:
    """Headless Chromium by the WebDriver protocol."""

    def __init__(self, width: int = 1000, height: int = 1100):
        self.port = free_port()
        self.driver = subprocess.Popen(["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"]
        options = {"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = ""
        self.session = "/" + self.ask("session", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def ask(self, command: str, content: dict | None = None) -> object:
        url = f"http://127.0.0.1:{self.port}/session{self.session}" + ("" if not self.session else f"/{command}")
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def do(self, script: str) -> object:
        return self.ask("execute/sync", {"script": script, "args": []})

    def find(self, selector: str) -> str:
        found = self.ask("element", {"using": "css selector", "value": selector})
        return next(iter(found.values()))

    def type(self, selector: str, keys: str) -> None:
        self.ask(f"element/{self.find(selector)}/value", {"text": keys})

    def wait(self, script: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not self.do(f"return !!({script})"):
            assert time.monotonic() < end, f"{script}: {self.do('return document.body.innerText')}"
            time.sleep(0.2)

    def close(self) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/session{self.session}", method="DELETE")
        urllib.request.urlopen(request, timeout=20).close()
        self.driver.terminate()
        self.driver.wait(10)


@pytest.fixture
def browser():
    assert shutil.which("chromedriver"), "apt-get install chromium chromium-driver"
    opened = Browser()
    yield opened
    opened.close()


def test_a_person_restores_a_photo_in_the_browser(service, browser):
    browser.ask("url", {"url": f"http://127.0.0.1:{service.port}/"})
    browser.type("#files", f"{ASTRONAUT}\n{ROOT / 'README.md'}")
    browser.wait("document.querySelectorAll('.card').length === 2")
    browser.wait("document.querySelector('.compare:not([hidden])') && document.querySelector('.card.failed')")
    assert "1 face restored" in browser.do("return document.querySelector('.card:not(.failed) .message').textContent")
    assert "not a picture" in browser.do("return document.querySelector('.card.failed .message').textContent")
    # The slider by keyboard.
    browser.type(".compare:not([hidden]) .slider", "\ue012" * 10)
    stage = "document.querySelector('.compare:not([hidden]) .stage')"
    assert browser.do(f"return {stage}.style.getPropertyValue('--cut')") == "40%"
    # The download is the service's file.
    link = "document.querySelector('.card:not(.failed) .download')"
    assert browser.do(f"return {link}.download") == "astronaut_restored.jpg"
    assert browser.do(f"return {link}.href").startswith("blob:")
    # Nothing came from elsewhere, and nothing is broken.
    names = browser.do("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith((f"http://127.0.0.1:{service.port}/", "blob:")) for name in names)
    # Every control has a name for those who do not see it.
    unnamed = browser.do(
        "return [...document.querySelectorAll('input, button, a, progress')].filter(e => e.offsetParent !== null"
        " && !(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length)))"
        ".map(e => e.outerHTML)"
    )
    assert unnamed == []
    picture = os.environ.get("PPGAN_SCREENSHOT")
    if picture:
        browser.do("document.querySelector('.card.failed').remove(); scrollTo(0, 0)")
        Path(picture).write_bytes(base64.b64decode(browser.ask("screenshot")))


def test_the_page_fits_a_phone(service, browser):
    browser.ask("window/rect", {"width": 500, "height": 800})
    browser.ask("url", {"url": f"http://127.0.0.1:{service.port}/"})
    assert browser.do("return document.documentElement.scrollWidth <= innerWidth")
    small = browser.do(
        "return [...document.querySelectorAll('.button, button, input[type=range]')]"
        ".filter(e => e.offsetParent !== null && e.getBoundingClientRect().height < 44).length"
    )
    assert small == 0


def test_the_restored_pixels_are_the_pipelines_whatever_the_format(service):
    _, answer = service.post(ASTRONAUT.read_bytes(), format="png")
    _, jpeg = service.post(ASTRONAUT.read_bytes())
    lossless, lossy = (
        cv2.imdecode(np.frombuffer(base64.b64decode(values(one)["image"]), np.uint8), cv2.IMREAD_COLOR)
        for one in (answer, jpeg)
    )
    assert values(answer)["format"] == "png"
    assert np.abs(lossless.astype(int) - lossy).mean() < 4


STAND_IN = """#!/bin/sh
echo "$@" > command
"""


def test_the_command_for_the_cpp_server_finds_the_exported_network(service, tmp_path):
    binary = tmp_path / "serving"
    binary.write_text(STAND_IN)
    binary.chmod(0o755)
    models = ROOT / "build" / "serving" / "models"
    shutil.copytree(models, tmp_path / "models")
    words = re.search(r"-m (paddle_serving_server\.serve .*)", (SERVICE / "README.md").read_text())[1].split()
    words[words.index("--model") + 1] = "models"
    environment = {**os.environ, "SERVING_BIN": str(binary)}
    command = [str(VENV / "bin" / "python"), "-m", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (tmp_path / "command").is_file(), done.stdout + done.stderr
    folder = tmp_path / "workdir_9393" / "GeneralInferOp_0"
    assert 'model_dir: "models"' in (folder / "model_toolkit.prototxt").read_text()
    said = (folder / "general_model.prototxt").read_text()
    # Names, kinds and shapes are those of the network itself.
    run_network = paddle_run(models)
    spec = read_spec(models)
    arrays = {one.name: np.zeros((1, *one.shape[1:]), np.float32) for one in spec.inputs}
    shapes = [(name, value.shape[1:]) for name, value in arrays.items()]
    shapes.append((spec.outputs[0], run_network(arrays)[0].shape[1:]))
    read = [
        (name, tuple(map(int, re.findall(r"shape: (\d+)", rest))))
        for name, rest in re.findall(r'_var \{\s+name: "(\w+)"(.*?)\}', said, re.DOTALL)
    ]
    assert read == shapes


SLOW_CLIENT = """
import socket, sys, threading, time
sys.path.insert(0, {root!r})
from deploy.serving_python.front import Front
from deploy.serving_python.settings import Settings
from deploy.serving_python.web_service import _http_server

class Worker:
    ready = was_ready = True

settings = Settings(http_port={port}, receive_timeout_s=3)
server = _http_server(Front(settings, Worker()), settings)
threading.Thread(target=server.run, daemon=True).start()
start = time.time()
slow = socket.create_connection(("127.0.0.1", {port}), 5)
slow.sendall(b"POST /gfpgan/prediction HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 1000\\r\\n\\r\\n")
slow.settimeout(0.5)
while time.time() - start < 60:
    try:
        slow.sendall(b" ")
        if slow.recv(1) == b"":
            break
    except socket.timeout:
        continue
    except OSError:
        break
print(time.time() - start)
"""


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(service):
    seconds = float(run(VENV / "bin" / "python", "-c", SLOW_CLIENT.format(root=str(ROOT), port=free_port())).stdout)
    assert 2 < seconds < 30
