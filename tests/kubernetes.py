"""A Kubernetes API over a real socket, and a node whose containers are processes of this machine.

It knows what the run launcher asks of a cluster: Jobs, their pods, logs and events.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import RLock, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import kubernetes_validate
import yaml

from tests.charts import KUBERNETES
from tests.conftest import ROOT

Object = dict[str, Any]

TOKEN = "of-the-service-account"  # noqa: S105

_GROUPS = {"Job": "batch/v1", "Pod": "v1", "Event": "v1"}
_RESOURCE = re.compile(
    r"/(?:apis/batch|api)/v1/namespaces/(?P<namespace>[^/]+)/(?P<kind>job|pod|event)s"
    r"(?:/(?P<name>[^/]+)(?:/(?P<part>status|log))?)?"
)
_STATUS = {"kind": "Status", "apiVersion": "v1", "metadata": {}}
_REASONS = {
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.CONFLICT: "AlreadyExists",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Invalid",
}
# Has Python find a root file system that is read-only.
_READ_ONLY = """
import errno, os, sys
_MOUNTED = tuple(f"{folder}/" for folder in ["/dev", *os.environ.pop("MOUNTED").split(":")])
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
def _deny(event, args):
    if event == "os.mkdir" or (event == "open" and args[2] & _WRITES):
        path = os.path.abspath(os.fsdecode(args[0])) if not isinstance(args[0], int) else "/dev/fd"
        if not path.startswith(_MOUNTED) and not (event == "os.mkdir" and os.path.exists(path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
sys.addaudithook(_deny)
"""


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _refusal(status: HTTPStatus, message: str) -> tuple[HTTPStatus, Object]:
    """What the API server answers when it does not do what was asked."""
    told = {"status": "Failure", "message": message, "reason": _REASONS[status], "code": status}
    return status, _STATUS | told


def _value(thing: Object, path: str) -> Any:
    for key in path.split("."):
        thing = thing.get(key, {})
    return thing


def _fits(thing: Object, query: Mapping[str, str]) -> bool:
    """Whether it is what the selectors of a list tell."""
    labels = [term.split("=") for term in query.get("labelSelector", "").split(",") if term]
    fields = [term.split("=") for term in query.get("fieldSelector", "").split(",") if term]
    return all(
        thing["metadata"].get("labels", {}).get(key) == value for key, value in labels
    ) and all(_value(thing, path) == value for path, value in fields)


class Node:
    """Runs containers; a volume is a folder, which all share that mount it."""

    def __init__(self, folder: Path) -> None:
        """Keep volumes, and what containers print, in this folder."""
        self.folder = folder
        self.config: dict[str, Mapping[str, str]] = {}  # Secrets and ConfigMaps
        (folder / "sitecustomize.py").write_text(_READ_ONLY)

    def volume(self, name: str) -> Path:
        """The folder of a volume."""
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def begin(self, name: str, container: Object) -> subprocess.Popen[bytes]:
        """Run a container, which prints to a log of this name."""
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*container.get("command", ()), *container["args"]],
                cwd=self.folder,
                env=self._environment(container),
                stdout=log,
                stderr=log,
            )

    def log(self, name: str) -> str:
        """What a container has printed."""
        return (self.folder / f"{name}.log").read_text()

    def _environment(self, container: Object) -> dict[str, str]:
        """What the container finds; a path in a volume is where that is here."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            (named,) = source.values()
            if named["name"] in self.config or not named.get("optional"):
                found |= self.config[named["name"]]
        for entry in container.get("env", ()):
            named = entry.get("valueFrom", {}).get("secretKeyRef")
            found[entry["name"]] = (
                self.config[named["name"]][named["key"]] if named else entry["value"]
            )
        mounts = {
            mount["mountPath"]: str(self.volume(mount["name"]))
            for mount in container.get("volumeMounts", ())
        }
        for name, text in found.items():
            for path, folder in mounts.items():
                if f"{text}/".startswith(f"{path}/"):
                    found[name] = folder + text.removeprefix(path)
        if container["securityContext"]["readOnlyRootFilesystem"]:
            found["PYTHONPATH"] = f"{self.folder}:{ROOT}"
            found["MOUNTED"] = ":".join([*mounts, *mounts.values()])
        return found | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


@dataclass
class Cluster:
    """The API server, the controller of Jobs, and a node that runs a pod when it is told to."""

    node: Node
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)  # by kind and name
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)  # by pod
    _watches: dict[str, Thread] = field(default_factory=dict)  # by Job
    _lock: RLock = field(default_factory=RLock)

    @property
    def jobs(self) -> list[Object]:
        """All Jobs, as they came."""
        return [thing for (kind, _), thing in self.objects.items() if kind == "Job"]

    def pod(self, job: str) -> Object:
        """The pod of a Job."""
        (pod,) = [
            thing
            for (kind, _), thing in self.objects.items()
            if kind == "Pod" and thing["metadata"]["labels"]["job-name"] == job
        ]
        return pod

    def answer(
        self, verb: str, path: str, query: Mapping[str, str], body: Object
    ) -> tuple[HTTPStatus, Object | str]:
        """The status and the content of the API server's answer."""
        found = _RESOURCE.fullmatch(path)
        if found is None:
            return _refusal(HTTPStatus.NOT_FOUND, "the server has no such resource")
        with self._lock:
            if verb == "POST":
                return self._create_job(found["namespace"], body)
            kind, name = found["kind"].title(), found["name"]
            things = {
                of: thing
                for (a_kind, of), thing in self.objects.items()
                if (a_kind, thing["metadata"]["namespace"]) == (kind, found["namespace"])
            }
            if name is None:
                items = [thing for thing in things.values() if _fits(thing, query)]
                listed = {"kind": f"{kind}List", "apiVersion": _GROUPS[kind], "metadata": {}}
                return HTTPStatus.OK, deepcopy({**listed, "items": items})
            if name not in things:
                return _refusal(HTTPStatus.NOT_FOUND, f'{found["kind"]}s "{name}" not found')
            if verb == "DELETE":
                self._delete(kind, name)
            of_log = found["part"] == "log"
            return HTTPStatus.OK, self.node.log(name) if of_log else deepcopy(things[name])

    def _create_job(self, namespace: str, job: Object) -> tuple[HTTPStatus, Object]:
        """Keep a Job, and make its pod, which waits for the node."""
        name = job["metadata"]["name"]
        if ("Job", name) in self.objects:
            return _refusal(HTTPStatus.CONFLICT, f'jobs.batch "{name}" already exists')
        try:
            kubernetes_validate.validate(job, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error.message)
        pod = deepcopy(job["spec"]["template"])
        pod["metadata"]["name"] = f"{name}-{uuid4().hex[:5]}"
        pod["metadata"]["labels"]["job-name"] = name
        self._keep("Job", namespace, job, status={"active": 1, "startTime": _now()})
        self._keep("Pod", namespace, pod, status={"phase": "Pending"})
        return HTTPStatus.CREATED, job

    def _keep(self, kind: str, namespace: str, thing: Object, **more: Any) -> None:
        thing |= {"kind": kind, "apiVersion": _GROUPS[kind], **more}
        thing["metadata"] |= {"namespace": namespace, "uid": str(uuid4()), "resourceVersion": "1"}
        thing["metadata"]["creationTimestamp"] = _now()
        self.objects[kind, thing["metadata"]["name"]] = thing

    def _delete(self, kind: str, name: str) -> None:
        """Take it away; a pod whose container runs has time to end."""
        if name in self._processes:
            self.objects[kind, name]["metadata"]["deletionTimestamp"] = _now()
            self._processes[name].terminate()
        else:
            del self.objects[kind, name]

    # What happens to pods

    def start(self, job: str) -> None:
        """Have the node run the Job's pod."""
        pod = self.pod(job)
        (container,) = pod["spec"]["containers"]
        process = self.node.begin(pod["metadata"]["name"], container)
        self._processes[pod["metadata"]["name"]] = process
        self._tell(pod, "Running", {"running": {"startedAt": _now()}})
        self._watches[job] = Thread(target=self._watch, args=(job, pod, process))
        self._watches[job].start()

    def end(self, job: str) -> None:
        """Wait until the pod has ended."""
        self._watches[job].join()

    def evict(self, job: str) -> None:
        """Delete the pod, as when its node is drained: its container is asked to end."""
        self._delete("Pod", self.pod(job)["metadata"]["name"])

    def lose(self, job: str) -> None:
        """Lose the node, and the pod with it."""
        self.pod(job)["metadata"]["deletionTimestamp"] = _now()
        self.kill(job, "NodeLost")

    def kill(self, job: str, reason: str) -> None:
        """Kill the container, as the kernel does where memory ends."""
        pod = self.pod(job)
        pod["status"]["reason"] = reason
        self._processes[pod["metadata"]["name"]].kill()
        self.end(job)

    def _watch(self, job: str, pod: Object, process: subprocess.Popen[bytes]) -> None:
        """Tell how the container ended, as the kubelet and the controller of Jobs do."""
        code = process.wait()
        name = pod["metadata"]["name"]
        with self._lock:
            del self._processes[name]
            ended = {"exitCode": code if code >= 0 else 128 - code, "finishedAt": _now()}
            ended["reason"] = pod["status"].get("reason", "Error" if code else "Completed")
            self._tell(pod, "Failed" if code else "Succeeded", {"terminated": ended})
            if "deletionTimestamp" in pod["metadata"]:
                del self.objects["Pod", name]
            if ("Job", job) in self.objects:
                self._conclude(self.objects["Job", job], is_failed=code != 0)

    def _tell(self, pod: Object, phase: str, state: Object) -> None:
        (container,) = pod["spec"]["containers"]
        told = {key: container[key] for key in ("name", "image")} | {"imageID": "", "state": state}
        told |= {"ready": phase == "Running", "restartCount": 0}
        pod["status"] |= {"phase": phase, "containerStatuses": [told]}

    def _conclude(self, job: Object, *, is_failed: bool) -> None:
        """A Job that has one pod has ended with it."""
        why = {"reason": "BackoffLimitExceeded"}
        why["message"] = "Job has reached the specified backoff limit"
        condition = {"status": "True", "type": "Failed" if is_failed else "Complete"}
        job["status"] = {
            "startTime": job["status"]["startTime"],
            "failed" if is_failed else "succeeded": 1,
            "conditions": [condition | (why if is_failed else {})],
        }
        if is_failed:
            of_job = {"kind": "Job", "name": job["metadata"]["name"]}
            event = {"metadata": {"name": f"{of_job['name']}.{uuid4().hex[:8]}"}, "type": "Warning"}
            event |= {"involvedObject": of_job, **why}
            self._keep("Event", job["metadata"]["namespace"], event)


@contextmanager
def serving(cluster: Cluster) -> Iterator[None]:
    """The API server at work; kubeconfig in the node's folder tells where."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            url = urlsplit(self.path)
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
            asked = self.command, url.path, dict(parse_qsl(url.query)), body
            if self.headers["Authorization"] == f"Bearer {TOKEN}":
                status, content = cluster.answer(*asked)
            else:
                status, content = _refusal(HTTPStatus.UNAUTHORIZED, "Unauthorized")
            of_log = isinstance(content, str)
            told = content if isinstance(content, str) else json.dumps(content)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if of_log else "application/json")
            self.send_header("Content-Length", str(len(told.encode())))
            self.end_headers()
            self.wfile.write(told.encode())

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        here = {"cluster": "here", "user": "launcher"}
        config = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": here}],
            "clusters": [
                {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
            ],
            "users": [{"name": "launcher", "user": {"token": TOKEN}}],
        }
        (cluster.node.folder / "kubeconfig").write_text(yaml.safe_dump(config))
        try:
            yield
        finally:
            server.shutdown()
            for process in list(cluster._processes.values()):
                process.kill()
