"""Where each tracker wants its records, by its own variables; found out without importing it."""

from __future__ import annotations

import netrc
import socket
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

CONNECT_SECONDS = 5.0
PROJECT = "glmjobs"
"""Project or experiment, where no variable names one."""


@dataclass(frozen=True)
class Target:
    """Where records go.

    Attributes:
        tracker: wandb, swanlab or mlflow.
        url: the server's address, without a password; "" for a place on disk.
        project: project or experiment, with its owner where one is named.
        offline: the tracker writes its own files, to be carried elsewhere.
        missing: what a person has yet to do for it; "" for nothing.
        needs: a package that this place takes beside the tracker's own; "" for none.
    """

    tracker: str
    url: str
    project: str
    offline: bool = False
    missing: str = ""
    needs: str = ""

    @property
    def name(self) -> str:
        """Under which it is on record what was sent there."""
        return "offline" if self.offline else f"{self.url} {self.project}".strip()


PACKAGES = {"wandb": ("wandb",), "swanlab": ("swanlab",), "mlflow": ("mlflow-skinny", "mlflow")}
"""Any of them will do."""

VARIABLES = (
    "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "SWANLAB_API_HOST", "SWANLAB_WEB_HOST", "SWANLAB_WORKSPACE",
    "SWANLAB_PROJ_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME",
)  # fmt: skip
"""What decides where a run is, and is kept with it, so that it is found again from another shell."""


ON = ("", "online", "run", "shared", "cloud")
OFF = ("offline", "dryrun", "local")
"""Values of WANDB_MODE and SWANLAB_MODE: with a server, and without."""


def target(tracker: str, environ: Mapping[str, str]) -> Target:
    """The tracker's target, as these variables say."""
    found = {"wandb": _wandb, "swanlab": _swanlab, "mlflow": _mlflow}[tracker](environ)
    mode = environ.get(f"{tracker.upper()}_MODE", "").lower()
    if mode == "disabled":
        why = f"{tracker.upper()}_MODE is disabled: unset it, or leave {tracker} out of track"
        return Target(tracker, found.url, found.project, missing=why)
    if tracker != "mlflow" and mode in OFF:
        return Target(tracker, found.url, found.project, offline=True)
    if tracker != "mlflow" and mode not in ON:
        why = f"{tracker.upper()}_MODE is {mode}: it is online, offline or disabled"
        return Target(tracker, found.url, found.project, missing=why)
    return found


def _wandb(environ: Mapping[str, str]) -> Target:
    url = _plain(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    if why := _no_server("WANDB_BASE_URL", url):
        return Target("wandb", url, PROJECT, missing=why)
    owner = environ.get("WANDB_ENTITY")
    project = "/".join(filter(None, (owner, environ.get("WANDB_PROJECT") or PROJECT)))
    home = Path(environ.get("HOME") or "~").expanduser()
    files = [Path(environ["NETRC"])] if environ.get("NETRC") else [home / ".netrc", home / "_netrc"]
    if environ.get("WANDB_API_KEY") or any(_has_login(file, urlsplit(url).hostname) for file in files):
        return Target("wandb", url, project)
    return Target("wandb", url, project, missing=_no_key("wandb", f"wandb login --host {url}", "WANDB"))


def _swanlab(environ: Mapping[str, str]) -> Target:
    url = _plain(environ.get("SWANLAB_API_HOST") or "https://api.swanlab.cn")
    owner = environ.get("SWANLAB_WORKSPACE")
    project = "/".join(filter(None, (owner, environ.get("SWANLAB_PROJ_NAME") or PROJECT)))
    home = Path(environ.get("HOME") or "~").expanduser()
    own = environ.get("SWANLAB_ROOT") or environ.get("SWANLAB_SAVE_DIR") or home / ".swanlab"
    files = [Path(".swanlab") / ".netrc", Path(own) / ".netrc"]
    if environ.get("SWANLAB_API_KEY") or any(_has_login(file) for file in files):
        return Target("swanlab", url, project)
    return Target("swanlab", url, project, missing=_no_key("SwanLab", "swanlab login", "SWANLAB"))


def _mlflow(environ: Mapping[str, str]) -> Target:
    project = environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        why = "MLflow is told by no MLFLOW_TRACKING_URI where its server is: export it, or set it in "
        return Target("mlflow", "", project, missing=f"{why}cluster.environment.variables")
    if (parts := urlsplit(uri)).password:
        why = "MLFLOW_TRACKING_URI holds a password: give it as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        return Target("mlflow", "", project, missing=why)
    if parts.scheme in ("http", "https"):
        return Target("mlflow", uri, project, missing=_no_server("MLFLOW_TRACKING_URI", uri))
    allowed = environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
    if parts.scheme in ("", "file") and not allowed:  # MLflow 3: mlflow.store.tracking.file_store
        why = f"MLFLOW_TRACKING_URI is a directory ({uri}), which MLflow no longer takes: name a server, http://…, "
        return Target("mlflow", "", project, missing=f"{why}or a file for a database, sqlite:////PATH")
    of_database = parts.scheme.partition("+")[0] in DATABASES
    return Target("mlflow", "", project, needs="sqlalchemy" if of_database else "")


DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""MLflow's own access to a database, which mlflow-skinny comes without."""


def lacking(where: Target, python: Path | str) -> str:
    """What is to be installed for a place that takes more than the tracker's smallest package."""
    return (
        f"{where.tracker} has no {where.needs} for a database beside it: {python} -m pip install "
        f"{PACKAGES[where.tracker][-1]}, or the address of a server, http://…"
    )


def _no_server(variable: str, url: str) -> str:
    """Why an address is none; "" where it is one."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.hostname:
        return ""
    return f"{variable} is {url}: the address of a server is http://HOST or https://HOST"


def _no_key(title: str, login: str, prefix: str) -> str:
    return (
        f"{title} has no key here: {login}, or export {prefix}_API_KEY; without a network anywhere: "
        f"export {prefix}_MODE=offline"
    )


def _plain(url: str) -> str:
    """An address without a user's name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def _has_login(file: Path, host: str | None = None) -> bool:
    """Whether a netrc file has a key for ``host``; None: for any."""
    try:
        hosts = netrc.netrc(str(file)).hosts
    except (OSError, netrc.NetrcParseError, ValueError):
        return False
    return bool(hosts) if host is None else host in hosts


def unreachable(url: str) -> str:
    """Why there is no way to a server from here; "" where there is one, or nothing to connect to.

    Asked before a tracker is: some of them wait minutes for a network. Behind a proxy, it is the proxy that counts.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        return ""
    proxy = (
        ""
        if urllib.request.proxy_bypass(parts.hostname)
        else urllib.request.getproxies().get(parts.scheme, "")
    )
    way = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else parts
    try:
        port = way.port or {"https": 443}.get(way.scheme, 80)
        socket.create_connection((str(way.hostname), port), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        return f"no way from {socket.gethostname()} to {way.hostname} ({getattr(error, 'strerror', None) or error})"
    return ""
