import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from apportion.router.jobs import segments
from apportion.router.jobs.blobs import Blobs, FolderBlobs
from apportion.router.jobs.lines import RawLine, read_lines
from apportion.router.jobs.segments import (
    Merged,
    Result,
    ResultIndex,
    Segment,
    SegmentWriter,
    Tokens,
    manifest_of,
    merge,
    scan,
)
from apportion.router.jobs.stages import FirstStage, SecondStage
from tests.router.jobs.stores import blobs_of

JOB = "batch_1"


@pytest.fixture(params=["folder", "objects"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    for folder in ("jobs/batch_1", "files"):
        (tmp_path / folder).mkdir(parents=True)
    return blobs_of(request.param, tmp_path)


def result(row: int, text: str = "", *, ok: bool = True) -> Result:
    return Result(row, ok, json.dumps([row, text or "first"]).encode(), "wren", 10 + row, Tokens(5, 1, 2, 0))


def rows(blobs: Blobs, manifest: Sequence[Segment]) -> list[int]:
    return [found.row for _, _, found in scan(blobs, manifest)]


def merged(blobs: Blobs, total: int) -> tuple[Merged, list[str], list[str]]:
    manifest = manifest_of(blobs, JOB)
    index = ResultIndex.of(blobs, manifest, total)
    lines = list(read_lines(io.BytesIO(b"\n".join(b"{}" for _ in range(total))), 100))

    def missing(line: RawLine) -> bytes:
        return json.dumps([line.row, "missing"]).encode()

    found = merge(blobs, manifest, index, lines, output="files/o", errors="files/e", missing=missing)
    texts = []
    for path, size in (("files/o", found.output), ("files/e", found.errors)):
        with blobs.reading(path) as stream:
            texts.append(stream.read().decode().splitlines())
        assert size == len("\n".join(texts[-1])) + 1
    return found, texts[0], texts[1]


def test_results_come_back_as_they_were(blobs: Blobs) -> None:
    writer = SegmentWriter(blobs, JOB, 1)
    groups = [[result(2), result(0, "\\u2028 ü", ok=False)], [result(1), first(3), second(3)], []]
    for group in groups:
        writer.write(group)

    assert [one for _, _, one in scan(blobs, manifest_of(blobs, JOB))] == [*groups[0], *groups[1]]


def test_files_are_merged_in_the_order_of_the_lines_and_the_first_result_holds(blobs: Blobs) -> None:
    SegmentWriter(blobs, JOB, 1).write([result(3), result(0), result(3, "again")])
    SegmentWriter(blobs, JOB, 2).write([result(0, "later"), result(1, ok=False), result(99)])

    _, good, bad = merged(blobs, total=5)

    assert [json.loads(line) for line in good] == [[0, "first"], [3, "first"]]
    assert [json.loads(line) for line in bad] == [[1, "first"], [2, "missing"], [4, "missing"]]


def test_totals_count_each_request_once(blobs: Blobs) -> None:
    SegmentWriter(blobs, JOB, 1).write([result(0), result(1, ok=False), result(0, "again")])

    index = ResultIndex.of(blobs, manifest_of(blobs, JOB), 3)

    totals = index.totals
    assert (totals.completed, totals.failed, totals.cost_nano, totals.by_model) == (1, 1, 21, {"wren": 2})
    assert totals.tokens == Tokens(10, 2, 4, 0)
    assert index.done.tolist() == [True, True, False]


def first(row: int, sure: float = 0.5) -> Result:
    return replace(result(row), stage=FirstStage("heron", sure, 0.75))


def second(row: int, *, kept: bool = False) -> Result:
    stage = SecondStage("wren", kept)
    if kept:
        return Result(row, True, b"", None, 3, Tokens(), stage)
    return replace(result(row, "second"), model="heron", stage=stage)


def test_a_first_answer_holds_until_the_second_one_takes_its_place(blobs: Blobs) -> None:
    SegmentWriter(blobs, JOB, 1).write([first(0), first(1, 0.25), first(2), result(3)])
    SegmentWriter(blobs, JOB, 2).write(
        [second(0), second(0), second(1, kept=True), second(1), second(3), first(2, 0.1)]
    )

    index = ResultIndex.of(blobs, manifest_of(blobs, JOB), 5)
    totals, held = index.totals, index.held

    assert index.done.tolist() == [True, True, False, True, False]
    assert held.rows.tolist() == [False, False, True, False, False]
    assert (held.first_of(2), held.sure[2], held.given[2]) == ("wren", 0.5, 0.75)
    assert held.second(("wren", "heron")).tolist() == [-1, -1, 1, -1, -1]
    assert held.second(("wren",)).tolist() == [-1] * 5, "the second model is not served any more"
    assert (totals.completed, totals.failed, totals.first_answers, totals.asked_on) == (4, 0, 3, 1)
    assert totals.by_model == {"wren": 3, "wren>heron": 1}
    assert totals.cost_nano == 10 + 11 + 12 + 13 + 10 + 3
    assert totals.tokens == Tokens(25, 5, 10, 0)
    _, good, bad = merged(blobs, total=5)
    assert [json.loads(line) for line in good] == [[0, "second"], [1, "first"], [2, "first"], [3, "first"]]
    assert [json.loads(line) for line in bad] == [[4, "missing"]]


def test_what_an_earlier_owner_writes_after_the_manifest_counts_for_nothing(blobs: Blobs) -> None:
    old = SegmentWriter(blobs, JOB, 1)
    old.write([result(0)])
    manifest = manifest_of(blobs, JOB)
    old.write([result(1)])
    SegmentWriter(blobs, JOB, 2).write([result(2)])

    mine = [segment for segment in manifest_of(blobs, JOB) if "/000002-" in segment.path]

    assert rows(blobs, [*manifest, *mine]) == [0, 2]


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_torn_tail_is_dropped(tmp_path: Path, cut: int) -> None:
    blobs = FolderBlobs(tmp_path)
    writer = SegmentWriter(blobs, JOB, 1)
    writer.write([result(0), result(1)])
    path = tmp_path / manifest_of(blobs, JOB)[0].path
    path.write_bytes(path.read_bytes()[:-cut])

    assert rows(blobs, manifest_of(blobs, JOB)) == [0]


def test_a_tail_that_never_came_to_the_disk_ends_a_segment(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    SegmentWriter(blobs, JOB, 1).write([result(0), result(1), result(2)])
    path = tmp_path / manifest_of(blobs, JOB)[0].path
    text = path.read_bytes()
    at = text.index(b"[1,")
    for hole in (b"\0" * 30, b"9" * 30):
        path.write_bytes(text[: at + 30] + hole + text[at + 60 :])
        assert rows(blobs, manifest_of(blobs, JOB)) == [0]


def test_a_write_that_failed_half_way_hides_nothing_that_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = FolderBlobs(tmp_path)
    writer = SegmentWriter(blobs, JOB, 1)
    writer.write([result(0)])
    with monkeypatch.context() as full_disk:
        append = FolderBlobs.append

        def half(self: FolderBlobs, path: str, data: bytes) -> None:
            append(self, path, data[: len(data) // 2])
            raise OSError("full")

        full_disk.setattr(FolderBlobs, "append", half)
        with pytest.raises(OSError, match="full"):
            writer.write([result(1)])
    writer.write([result(2)])

    assert rows(blobs, manifest_of(blobs, JOB)) == [0, 2]


def test_files_of_results_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 200)
    blobs = FolderBlobs(tmp_path)
    writer = SegmentWriter(blobs, JOB, 1)
    for row in range(20):
        writer.write([result(row)])

    manifest = manifest_of(blobs, JOB)

    assert len(manifest) > 3
    assert max(segment.size for segment in manifest) <= 200
    assert rows(blobs, manifest) == list(range(20))
