"""`inference.yml` says what it was told, and refuses what it does not know."""

from __future__ import annotations

import pytest
import yaml

from ppgan_fr.face.spec import ModelSpec, SpecError, TensorSpec, read_spec, write_spec


def test_a_spec_comes_back_from_its_file_unchanged(tmp_path):
    spec = ModelSpec(
        arch="gfpgan_mobile",
        inputs=(TensorSpec("lq", (-1, 3, 512, 512)), TensorSpec("fidelity", (-1, 1))),
        outputs=("image",),
        weights_sha256="ab" * 32,
        companions={"shape": "shape", "face_model": "face_model.npz"},
    )
    write_spec(spec, tmp_path)
    assert read_spec(tmp_path) == spec
    assert [path.name for path in tmp_path.iterdir()] == ["inference.yml"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "wizard"}, "kind: must be one of"),
        ({"std": 0}, "std: must not be 0"),
        ({"size": "big"}, "size: expected"),
        ({"typo": 1}, "unknown key 'typo'"),
        ({"model_file": "../../etc/passwd"}, "must be a file name"),
        ({"inputs": [{"shape": [1]}]}, "inputs or outputs"),
        ({"companions": {"shape": "../elsewhere"}}, "companions.shape: must be a file name"),
        ({"companions": ["shape"]}, "companions: expected a mapping"),
        ({"inputs": [{"name": "lq", "shape": [float("inf")]}]}, "inputs or outputs"),
        ({"engines": "paddle/fp32"}, "engines: expected a list"),
        ({"file_bytes": 7}, "file_bytes: expected a mapping"),
        ({"version": 7}, "version"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(tmp_path, change, message):
    path = write_spec(ModelSpec(arch="gfpgan"), tmp_path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(SpecError, match=message) as caught:
        read_spec(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"inference\.yml: cannot be read"):
        read_spec(tmp_path)


def test_a_python_object_in_the_file_is_refused_not_built(tmp_path):
    (tmp_path / "inference.yml").write_text("arch: !!python/object/apply:os.system ['echo x']\n")
    with pytest.raises(SpecError, match="not valid YAML"):
        read_spec(tmp_path)
