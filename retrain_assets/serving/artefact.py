"""The artefact an engine serves: `model.onnx` and `manifest.json`, verified, self-tested, scored.

Holds the manifest's format, the digest check before any byte is parsed, the self-test and the scoring of
one task; does not hold routing, exploration, the decision log or refresh (`engine.py`, `refresh.py`), nor the
making of an artefact (`core/model.py`). Nothing here can run code that an artefact brings along.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from retrain_assets.core.encoding import Encoding, check_actions, encode_rows
from retrain_assets.core.features import FeatureSchema
from retrain_assets.errors import ArtefactRefused, SchemaError
from retrain_assets.serving.quiet_runtime import onnxruntime

ONNX_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1
SELF_TEST_TOLERANCE = 1e-5
"""Largest accepted difference of a probe's score from the recorded one."""
MAX_BYTES = {ONNX_FILE: 64 * 2**20, MANIFEST_FILE: 16 * 2**20}
"""Size limits in bytes, checked before a file is read."""
INPUT_NAME = "rows"
OUTPUT_NAME = "probability"


class FeatureEntry(msgspec.Struct, frozen=True):
    """One feature of the manifest; `core.encoding.ColumnEncoding` in JSON."""

    name: str
    type: str
    required: bool
    min: float | None
    max: float | None
    observed_min: float | None
    observed_max: float | None
    categories: list[str] | None


class CalibrationEntry(msgspec.Struct, frozen=True):
    """`expit(slope * log_odds + intercept)`, already inside the graph; here to be read by people."""

    method: str
    slope: float
    intercept: float


class ParityEntry(msgspec.Struct, frozen=True):
    """What the parity gate found: every difference was below `below`."""

    rows: int
    below: float
    limit: float
    seed: int


class Probe(msgspec.Struct, frozen=True):
    """A task with the score that the trained pipeline gives it."""

    features: dict[str, float | int | bool | str | None]
    action: str
    score: float


class Manifest(msgspec.Struct, frozen=True):
    """What `manifest.json` says; unknown keys are ignored, so that newer writers stay readable."""

    format: int
    estimator: str
    schema: dict[str, Any]
    schema_fingerprint: str
    features: list[FeatureEntry]
    actions: list[str]
    strata: list[str]
    calibration: CalibrationEntry
    opset: dict[str, int]
    onnx_sha256: str
    probes: list[Probe]
    parity: ParityEntry | None
    training: dict[str, Any]


class Artefact:
    """A verified model, ready to score. Immutable; threads may share it.

    Attributes
    ----------
    manifest : Manifest
    schema : FeatureSchema
        The features, actions and strata that the model was trained for.
    encoding : Encoding
    actions : tuple of str
        In the order of the model's codes; the default candidates.
    """

    __slots__ = ("_encode", "_pack", "_pools", "_session", "actions", "encoding", "manifest", "schema")

    def __init__(self, manifest: Manifest, session: onnxruntime.InferenceSession) -> None:
        self.manifest = manifest
        self.schema = FeatureSchema.from_dict(manifest.schema)
        self.encoding = Encoding.from_dict(msgspec.to_builtins(manifest))
        self.actions = self.encoding.actions
        self._session = session
        self._encode = self.encoding.row_encoder()
        self._pack = struct.Struct(f"={self.encoding.width - 1}f").pack_into
        self._pools: dict[tuple[str, ...], list[_Batch]] = {}

    @classmethod
    def load(
        cls, onnx_bytes: bytes, manifest_bytes: bytes, expected_digests: Mapping[str, str] | None = None
    ) -> Artefact:
        """Verify, parse and self-test the two files' bytes.

        Parameters
        ----------
        onnx_bytes, manifest_bytes : bytes
        expected_digests : mapping, optional
            File name (`model.onnx`, `manifest.json`) to SHA-256 in hex. Checked before anything is
            parsed. Without it only the manifest's own record of `model.onnx` is checked.

        Raises
        ------
        ArtefactRefused
            Names the file and what was expected and found.
        """
        for name, content in ((ONNX_FILE, onnx_bytes), (MANIFEST_FILE, manifest_bytes)):
            _check_size(name, len(content))
            if expected_digests is not None:
                _check_digest(name, content, expected_digests)
        manifest = _read_manifest(manifest_bytes)
        _check_digest(ONNX_FILE, onnx_bytes, {ONNX_FILE: manifest.onnx_sha256})
        artefact = cls(manifest, _session(onnx_bytes, len(manifest.features) + 1))
        artefact.self_test()
        return artefact

    def encode(self, features: Mapping[str, Any]) -> np.ndarray:
        """One task's features as float32, shape (number of features,), in the model's order.

        A missing value is NaN and an unknown category -1; a number beyond the schema's limits is
        passed on, since refusing a task at decision time would leave it without an answer.

        Raises
        ------
        SchemaError
            Names the feature whose value has a wrong type, is not finite, or is required but missing.
        """
        row = np.empty(self.encoding.width - 1, dtype=np.float32)
        self._pack(row.data, 0, *self._encode(features))
        return row

    def score(self, features: Mapping[str, Any], actions: Sequence[str] | None = None) -> np.ndarray:
        """Calibrated P(success | features, action) for every candidate action, in one batch.

        Parameters
        ----------
        features : mapping
            Raw values by feature name.
        actions : sequence of str, optional
            Candidates; default all of the model's actions, in `self.actions` order.

        Returns
        -------
        ndarray
            float32, shape (number of actions,).

        Raises
        ------
        SchemaError
            As `encode`; also for an action that is none of the model's.
        """
        candidates = self.actions if actions is None else tuple(actions)
        # list.pop and list.append are atomic, so threads never share a batch and never wait.
        pool = self._pools.get(candidates)
        batch = pool.pop() if pool else _Batch(self._session, self.encoding, candidates)
        try:
            self._pack(batch.buffer, 0, *self._encode(features))
            batch.matrix[:, :-1] = batch.features
            self._session.run_with_iobinding(batch.binding)
            return batch.scores.copy()
        finally:
            self._pools.setdefault(candidates, []).append(batch)

    def score_many(self, rows: Sequence[Mapping[str, Any]], actions: Sequence[str]) -> np.ndarray:
        """Scores of many tasks, one action each: float32, shape (len(rows),).

        Unlike `score`, an action outside the model's is scored as unknown instead of refused.
        """
        matrix = encode_rows(self.encoding, rows, actions)
        return np.asarray(self._session.run([OUTPUT_NAME], {INPUT_NAME: matrix})[0]).reshape(-1)

    def self_test(self) -> float:
        """Score the manifest's probes; the largest difference from their recorded scores.

        Raises
        ------
        ArtefactRefused
            When a score is not a number or differs by more than `SELF_TEST_TOLERANCE`.
        """
        if not self.manifest.probes:
            raise ArtefactRefused(f"{MANIFEST_FILE} has no probe rows; train and register the model again")
        try:
            found = [float(self.score(probe.features, (probe.action,))[0]) for probe in self.manifest.probes]
        except SchemaError as error:
            raise ArtefactRefused(f"{MANIFEST_FILE} has a probe row that cannot be encoded: {error}") from error
        difference = float(np.max(np.abs(np.array(found) - [probe.score for probe in self.manifest.probes])))
        if not difference <= SELF_TEST_TOLERANCE:
            raise ArtefactRefused(
                f"{ONNX_FILE} differs from its recorded probe scores by {difference:.2g}, "
                f"more than {SELF_TEST_TOLERANCE:g}; register the model again"
            )
        return difference


def load_artefact(location: Path | str | Mapping[str, Path | str], expected_digests: Mapping[str, str]) -> Artefact:
    """Read an artefact from disk and load it, digests first.

    Parameters
    ----------
    location : path or mapping
        The folder of `model.onnx` and `manifest.json`, or each file's path by that name.
    expected_digests : mapping
        File name to SHA-256 in hex, as the registry recorded it; both files are needed.

    Raises
    ------
    ArtefactRefused
        When a file is missing, too large, or not the one that was registered.
    """
    if isinstance(location, Mapping):
        paths = {name: Path(path) for name, path in location.items()}
    else:
        paths = {name: Path(location) / name for name in MAX_BYTES}
    contents = {}
    for name in MAX_BYTES:
        if name not in paths:
            raise ArtefactRefused(f"{name} has no path in the registry; register the model again")
        contents[name] = _read_file(name, paths[name])
    return Artefact.load(contents[ONNX_FILE], contents[MANIFEST_FILE], expected_digests)


def _read_file(name: str, path: Path) -> bytes:
    try:
        _check_size(name, path.stat().st_size)
        return path.read_bytes()
    except OSError as error:
        raise ArtefactRefused(f"{name} cannot be read at {path}: {error.strerror or error}") from error


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES[name]:
        raise ArtefactRefused(f"{name} has {size} bytes; at most {MAX_BYTES[name]} are accepted")


def _check_digest(name: str, content: bytes, expected_digests: Mapping[str, str]) -> None:
    expected = expected_digests.get(name)
    found = hashlib.sha256(content).hexdigest()
    if expected != found:
        raise ArtefactRefused(f"{name} is not the registered file: expected SHA-256 {expected}, found {found}")


def _read_manifest(content: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
        fingerprint = FeatureSchema.from_dict(manifest.schema).fingerprint
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise ArtefactRefused(f"{MANIFEST_FILE} cannot be read: {error}") from error
    if manifest.format != MANIFEST_FORMAT:
        raise ArtefactRefused(f"{MANIFEST_FILE} has format {manifest.format}; this version reads {MANIFEST_FORMAT}")
    if fingerprint != manifest.schema_fingerprint:
        raise ArtefactRefused(
            f"{MANIFEST_FILE} has a schema of fingerprint {fingerprint}, not {manifest.schema_fingerprint}"
        )
    return manifest


def _session(onnx_bytes: bytes, width: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One decision is a few rows: a thread pool would cost more than it gives, and spinning would take the
    # worker's own core.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base class of their own
        raise ArtefactRefused(f"{ONNX_FILE} cannot be loaded: {error}") from error
    inputs = [(item.name, item.type, item.shape[-1:]) for item in session.get_inputs()]
    outputs = [item.name for item in session.get_outputs()]
    if inputs != [(INPUT_NAME, "tensor(float)", [width])] or outputs != [OUTPUT_NAME]:
        raise ArtefactRefused(f"{ONNX_FILE} has inputs {inputs} and outputs {outputs}, not those of its manifest")
    return session


class _Batch:
    """Memory for one scoring at a time: the runtime reads `matrix` and writes `scores` in place."""

    __slots__ = ("binding", "buffer", "features", "matrix", "scores")

    def __init__(self, session: onnxruntime.InferenceSession, encoding: Encoding, actions: tuple[str, ...]) -> None:
        codes = check_actions(encoding, actions)
        self.features = np.empty(encoding.width - 1, dtype=np.float32)
        self.buffer = self.features.data
        self.matrix = np.empty((len(actions), encoding.width), dtype=np.float32)
        self.matrix[:, -1] = codes
        self.scores = np.empty(len(actions), dtype=np.float32)
        output = self.scores.reshape(-1, 1)
        self.binding = session.io_binding()
        # On the CPU an OrtValue wraps the array's own memory; nothing is copied at run time.
        self.binding.bind_ortvalue_input(INPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(self.matrix))
        self.binding.bind_ortvalue_output(OUTPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(output))
