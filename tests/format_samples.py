"""Splats and comparisons that several format tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from engine.bridge.lock import hold
from engine.bridge.quaternions import rotation_of
from engine.bridge.splat_file import Splats

ROOT = Path(__file__).resolve().parents[1]
NODE_PACKAGES = (
    "@playcanvas/splat-transform@2.7.1",
    "gltf-validator@2.0.0-dev.3.10",
    "@gltf-transform/core@4.5.1",
)


def random_splats(count: int, degree: int, seed: int = 0) -> Splats:
    """Splats of every kind inside the range that all formats hold."""
    rng = np.random.default_rng(seed)
    k = (degree + 1) ** 2 - 1
    return Splats(
        means=rng.normal(0, 2, (count, 3)).astype(np.float32),
        quats=(rng.normal(0, 1, (count, 4)) * rng.uniform(0.5, 2, (count, 1))).astype(np.float32),
        scales_log=rng.uniform(-8, 1, (count, 3)).astype(np.float32),
        opacities_logit=rng.uniform(-5, 5, count).astype(np.float32),
        sh_dc=rng.uniform(-1.7, 1.7, (count, 3)).astype(np.float32),
        sh_rest=rng.uniform(-0.9, 0.9, (count, k, 3)).astype(np.float32),
    )


def covariances(splats: Splats) -> np.ndarray:
    """[n, 3, 3] R S^2 R^T."""
    half = rotation_of(splats.quats) * np.exp(splats.scales_log.astype(np.float64))[:, None, :]
    return half @ half.transpose(0, 2, 1)


def unit_quats(splats: Splats) -> np.ndarray:
    """[n, 4] of norm one."""
    return splats.quats / np.linalg.norm(splats.quats.astype(np.float64), axis=1, keepdims=True)


def rotation_error(a: Splats, b: Splats) -> float:
    """Largest 1 - |q_a . q_b|."""
    return float((1 - np.abs((unit_quats(a) * unit_quats(b)).sum(axis=1))).max())


def opacity(splats: Splats) -> np.ndarray:
    """[n] in 0..1, float64."""
    return 1 / (1 + np.exp(-splats.opacities_logit.astype(np.float64)))


def node_folder() -> Path:
    """A folder with the npm packages installed, or a skip that names what is missing. One process
    installs them, others wait for it.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js and npm are not installed")
    folder = ROOT / "build" / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / "install.lock", 600.0):
        _install_packages(folder)
    return folder


def _install_packages(folder: Path) -> None:
    packages = [folder / "node_modules" / package.rsplit("@", 1)[0] for package in NODE_PACKAGES]
    if not all(package.exists() for package in packages):
        (folder / "package.json").write_text('{"private": true}\n')
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *NODE_PACKAGES]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"npm could not install {', '.join(NODE_PACKAGES)}")


def splat_transform(*arguments: str | Path) -> None:
    """Run PlayCanvas' converter; fails the test when it fails."""
    tool = node_folder() / "node_modules" / ".bin" / "splat-transform"
    done = subprocess.run(
        [str(tool), "-q", "-w", "-g", "cpu", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr + done.stdout
