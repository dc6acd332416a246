"""Rows in other programs' layouts, local directories laid out like the hub, and the hub without a network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.data.prepare.files import write_preparation
from deepscaler.data.prepare.preparation import PREPARED, Settings, Tools, prepare
from deepscaler.data.sources.hub import DATASETS, data_files, is_hub_name, reachable
from deepscaler.data.sources.layouts import Columns, Layout, read_fields, without_instruction, write_layout
from deepscaler.data.sources.load import load_problems, locate
from deepscaler.data.sources.readers import DataError
from deepscaler.types import Message

INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."
ROWS: list[dict[str, Any]] = [
    {"id": "a", "problem": "1+1?", "answer": ["2"], "source": "sums", "difficulty": 1.0},
    {"id": "b", "problem": "A root of $x^2=4$?", "answer": ["2", "-2"], "source": "roots", "difficulty": None},
]
DAPO = {
    "data_source": "math_dapo",
    "prompt": [
        {
            "role": "user",
            "content": "Solve the following math problem step by step. The last line of your response should be of the "
            "form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\nWhat is 17+17?\n\n"
            'Remember to put your answer on its own line after "Answer:".',
        }
    ],
    "ability": "MATH",
    "reward_model": {"ground_truth": "34", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
}


@pytest.mark.parametrize("layout", ["verl", "trl"])
@pytest.mark.parametrize("instruction", ["", INSTRUCTION])
def test_what_is_written_in_a_layout_is_read_back_the_same(tmp_path: Path, layout: Layout, instruction: str) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(list(write_layout(ROWS, layout, instruction, "train"))), path)
    first, second = load_problems(path, instruction=instruction)
    assert (first.id, first.prompt, first.references, first.source, first.difficulty) == (
        "a",
        "1+1?",
        ("2",),
        "sums",
        1,
    )
    assert (second.references, second.difficulty) == (("2", "-2"), None)


def test_verl_rows_hold_what_verl_reads() -> None:
    row = next(write_layout(ROWS, "verl", INSTRUCTION, "train"))
    assert row["prompt"] == [{"role": "user", "content": f"1+1? {INSTRUCTION}"}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": "2"}
    assert (row["data_source"], row["extra_info"]["split"], row["extra_info"]["index"]) == ("sums", "train", 0)


def test_the_dapo_schema_gives_the_bare_problem() -> None:
    fields = read_fields(DAPO, Columns())
    assert (fields.problem, fields.answer, fields.source) == ("What is 17+17?", "34", "math_dapo")


def test_the_last_user_message_is_the_problem() -> None:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
    ]
    fields = read_fields({"prompt": prompt, "solution": "$\\boxed{2}$"}, Columns())
    assert (fields.problem, fields.answer) == ("1+1?", "$\\boxed{2}$")
    assert fields.earlier == (Message("system", "Be brief."),)
    assert read_fields({"prompt": "1+1?", "answer": 2}, Columns()).answer == 2


def test_instructions_come_off_and_problems_stay() -> None:
    assert without_instruction(f"1+1? {INSTRUCTION}") == "1+1?"
    assert without_instruction("1+1? Be quick.", "Be quick.") == "1+1?"
    assert without_instruction("Let's think.") == "Let's think."


def test_a_directory_laid_out_like_the_hub_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, answer in (("train", "34"), ("test", "35"), ("validation", "36")):
        row = DAPO | {"reward_model": {"ground_truth": answer, "style": "rule"}}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.json").write_text("[]")
    assert [path.name for path in data_files(tmp_path)] == ["train-00000-of-00001.parquet"]
    (problem,) = load_problems(tmp_path)
    assert problem.references == ("34",)


def test_the_published_file_is_read_from_a_downloaded_copy(tmp_path: Path) -> None:
    (tmp_path / "deepscaler.json").write_text(json.dumps([{"problem": "1+1?", "answer": "2", "solution": "Add."}]))
    (tmp_path / "README.md").write_text("license: mit")
    (problem,) = load_problems(tmp_path)
    assert (problem.references, problem.solution, problem.source) == (("2",), "Add.", "deepscaler")


def test_a_folder_that_save_to_disk_wrote_is_a_source(tmp_path: Path) -> None:
    """A DatasetDict: a folder per split, Arrow streams beside descriptions of theirs, caches of transformations."""
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split, answer in (("train", "34"), ("test", "35")):
        folder = tmp_path / split
        folder.mkdir()
        (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
        (folder / "dataset_info.json").write_text("{}")
        table = pa.Table.from_pylist([{"problem": f"A {split} problem?", "answer": answer}])
        for name in ("data-00000-of-00001.arrow", "cache-1a2b.arrow"):
            with pa.ipc.new_stream(folder / name, table.schema) as stream:
                stream.write_table(table)
    assert [path.name for path in data_files(tmp_path)] == ["data-00000-of-00001.arrow"]
    (problem,) = load_problems(tmp_path)
    assert problem.references == ("34",)


COLUMNS: list[tuple[dict[str, Any], Columns]] = [
    ({"question": "1+1?", "solution": "\\boxed{2}"}, Columns("question", "solution")),
    ({"question": "1+1?", "answer": "3", "solution": "\\boxed{2}"}, Columns("question", "solution")),
    ({"info": {"question": "1+1?", "answer": "2"}}, Columns("info.question", "info.answer")),
    ({"info": '{"question": "1+1?", "answer": "2"}'}, Columns("info.question", "info.answer")),
    ({"my.question": "1+1?", "my.answer": "2"}, Columns("my.question", "my.answer")),
    (DAPO | {"extra_info": {"answer": "2", "question": "1+1?"}}, Columns("extra_info.question", "extra_info.answer")),
]


@pytest.mark.parametrize(("row", "columns"), COLUMNS)
def test_named_columns_are_read_and_the_prepared_file_has_the_promised_names(
    tmp_path: Path, row: dict[str, Any], columns: Columns
) -> None:
    """One recipe reads both: the raw file by the columns it names, the prepared one by its own."""
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    settings = Settings(columns)
    done = prepare([tmp_path / "rows.json"], (), settings, Tools(lambda a, b: a == b, bool))
    write_preparation(done, (), settings, tmp_path / "out")
    names = pq.read_schema(tmp_path / "out" / "train.parquet").names
    assert names == [*PREPARED.names] and len(set(names)) == len(names)
    for source in (tmp_path / "rows.json", tmp_path / "out" / "train.parquet"):
        (problem,) = load_problems(source, prompt_field=columns.problem, answer_field=columns.answer)
        assert (problem.prompt, problem.references) == ("1+1?", ("2",))


def test_a_missing_part_of_a_dotted_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"info": {"question": "1+1?"}}]))
    with pytest.raises(DataError, match=r"no field 'info\.answer'; it has info"):
        load_problems(tmp_path / "rows.json", prompt_field="info.question", answer_field="info.answer")


def test_an_id_of_0_is_an_id(tmp_path: Path) -> None:
    rows = [{"id": index, "problem": f"{index}+1?", "answer": "1"} for index in range(2)]
    rows.append({"prompt": "2+1?", "reward_model": {"ground_truth": "3"}, "extra_info": {"id": 2}})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert [problem.id for problem in load_problems(tmp_path / "rows.json")] == ["0", "1", "2"]


@pytest.mark.parametrize("field", ["problem", "answer", "id", "source"])
def test_half_a_surrogate_pair_is_one_message(tmp_path: Path, field: str) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"problem": "1+1?", "answer": "2"} | {field: "a\ud800"}]))
    with pytest.raises(DataError, match=rf"row 0, field '{field}': half of a surrogate pair"):
        load_problems(tmp_path / "rows.json")


def test_an_empty_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no training file"):
        load_problems(tmp_path)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("deepscaler.data.sources.hub.reachable", lambda endpoint: False)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", sorted(DATASETS))
def test_without_a_network_the_message_says_which_file_to_put_where(name: str) -> None:
    known = DATASETS[name]
    with pytest.raises(DataError) as caught:
        locate(name)
    message = str(caught.value)
    assert "could not be downloaded from the hub" in message
    assert f"hf download {name} --repo-type dataset --revision {known.revision} --local-dir DIR" in message
    assert known.files[0] in message


@pytest.mark.usefixtures("offline")
def test_another_dataset_without_a_network_is_refused_at_once() -> None:
    with pytest.raises(
        DataError, match=r"someone/numbers could not be downloaded from the hub \(no connection to http"
    ):
        locate("someone/numbers@0123abc")


def test_an_address_nobody_listens_at_is_not_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr("deepscaler.data.sources.hub.getproxies", dict)
        assert reachable(address)
    assert not reachable(address)


def test_an_unregistered_dataset_needs_a_commit() -> None:
    with pytest.raises(DataError, match="someone/numbers@COMMIT"):
        locate("someone/numbers")


def test_a_missing_file_is_no_dataset() -> None:
    assert not is_hub_name("data/train.json")
    assert not is_hub_name("/data/train")
    assert is_hub_name("someone/numbers@main")
    with pytest.raises(DataError, match=r"data/train\.json does not exist"):
        load_problems("data/train.json")


def test_pinned_revisions_are_commits() -> None:
    assert all(len(d.revision) == 40 and int(d.revision, 16) and d.licence and d.files for d in DATASETS.values())
