"""What is wrong with a file: one line that names the file, the field and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.jobfile import read_model
from pipeline.errors import BadInput
from schemas.campaign import Campaign
from schemas.sites import SitesFile

STEP = "campaign: c\nsteps:\n  - name: one\n    command: ['true']\n"


def complaint(folder: Path, text: str | bytes, model: type[Campaign | SitesFile] = Campaign) -> str:
    """What is said of a file with this text, without the file's name."""
    path = folder / "job.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BadInput) as caught:
        read_model(path, model)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "it must be a mapping of fields, not a list"),
        ("", "it must be a mapping of fields, not empty"),
        ("just words", "it must be a mapping of fields, not a text"),
        ("42", "it must be a mapping of fields, not a number"),
        ("campaign: [", "it is no YAML: did not find expected node content at line 2, column 1"),
        ("campaign: a\ncampaign: b\n", "it is no YAML: the key 'campaign' stands twice at line 2, column 1"),
        (b"campaign: \xff\xfe", "it is no text file in UTF-8 (byte 10)"),
        (STEP + "    colour: red\n", "steps.0.colour: unknown field"),
        (STEP + "    priority: high\n", "steps.0.priority: Input should be a valid integer"),
        (STEP + "    after: [one]\n", "`after` goes in a circle: one -> one"),
        (STEP + "    after: [two]\n", "step one comes after two, which is no step of this campaign"),
        (STEP + "    outputs: ['{slice}.txt']\n", "steps.0: step one: unknown parameter {slice} in '{slice}.txt'"),
        (STEP + "    requirements: {colour: red}\n", "steps.0.requirements.colour: unknown field"),
        (
            STEP + "    parameters: {axes: {a: {range: [0, 0]}}}\n",
            "steps.0.parameters.axes.a: the range [0, 0] is empty",
        ),
        (STEP + "    parameters: {axis: {a: [1]}}\n", "steps.0.parameters.axis: unknown field (and 1 more)"),
        (STEP + "    parameters: 7\n", "steps.0.parameters: "),
        (STEP + "    inputs: [{stepp: a}]\n", "steps.0.inputs.0.stepp: unknown field (and 1 more)"),
        ("steps: []\n", "campaign: Field required"),
        ("a: " + "{a: " * 5000 + "1" + "}" * 5000, "it is nested too deeply"),
        ("campaign: a\n---\ncampaign: b\n", "expected a single document in the stream but found another document"),
        ('campaign: "a\\e[31m"\nsteps: []\n', "campaign: String should match pattern"),
        (STEP + "    sandbox: ['true']\n    archive: [\"a\\0b\"]\n", "a NUL character in 'a\\x00b'"),
        (
            STEP + "    parameters: {axes: {a: {range: [0, 1000000]}, b: [1, 2]}}\n",
            "steps.0.parameters: the axes make 2000000 jobs; at most 1000000 are allowed",
        ),
        (
            STEP + "    parameters: {axes: {a: {range: [0, 999999999999999999999]}}}\n",
            "Input should be less than or equal to 1000000000000000000",
        ),
    ],
)
def test_a_bad_job_file_is_told_by_field_and_reason(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in complaint(tmp_path, text)


def test_a_circle_of_several_steps_is_shown(tmp_path: Path) -> None:
    steps = "campaign: c\nsteps:\n"
    for name, after in (("a", "b"), ("b", "c"), ("c", "a")):
        steps += f"  - {{name: {name}, command: ['true'], after: [{after}]}}\n"
    assert complaint(tmp_path, steps) == "`after` goes in a circle: a -> b -> c -> a"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing\.yaml: No such file or directory"):
        read_model(tmp_path / "nothing.yaml", Campaign)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Is a directory"):
        read_model(tmp_path, Campaign)


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    assert complaint(tmp_path, STEP + "    colour: red\n    shape: round\n").endswith("(and 1 more)")


def test_json_is_yaml_too(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"campaign": "c", "steps": [{"name": "one", "command": ["true"]}]}')
    assert read_model(path, Campaign).steps[0].name == "one"


def test_a_sites_file_is_held_to_its_schema(tmp_path: Path) -> None:
    assert complaint(tmp_path, "storages: []\nsites: []\ncolour: red\n", SitesFile) == "colour: unknown field"
