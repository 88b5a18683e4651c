"""A headless Chromium, and a JupyterLab, for the tests that click."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 600
"""Seconds, on a busy machine: a kernel imports torch."""


def chromium() -> str:
    """A Chromium of the system's, or the one of ``playwright install chromium``; skips where there is none."""
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed: pip install 'deepfield[browser]'")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        path = started.chromium.executable_path
    if not Path(path).exists():
        pytest.skip("no Chromium on this machine: install it, or run 'playwright install chromium'")
    return path


@contextmanager
def browser_window(**options: Any) -> Iterator[Any]:
    """A page of a headless Chromium whose errors fail the test."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    errors: list[str] = []
    with sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = started.chromium.launch(executable_path=path, args=arguments, timeout=1000 * PATIENCE)
        page = browser.new_page(viewport={"width": 1400, "height": 900}, **options)
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
    assert errors == []


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """A JupyterLab that serves ``folder``; gives its address with the token."""
    if find_spec("jupyterlab") is None:
        pytest.skip("JupyterLab is not installed: pip install 'deepfield[browser]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    arguments = [f"--ServerApp.root_dir={folder}", f"--port={port}", f"--IdentityProvider.token={token}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", *arguments],
        cwd=folder,
        env=os.environ | own | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert server.poll() is None, "JupyterLab ended at once"
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=60)
                break
            except OSError:
                time.sleep(0.25)
        yield f"{address}/lab/tree/{{}}?token={token}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook of code cells that have not run."""
    code = [
        {
            "cell_type": "code",
            "id": f"cell{i}",
            "execution_count": None,
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for i, source in enumerate(cells)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
