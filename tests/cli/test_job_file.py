"""Job files: what they may say, and where they are told to be wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from hatvid.cli.job_file import read_job_file
from hatvid.cli.toml_lines import line_of, lines_of
from hatvid.cli.upscale import upscale
from hatvid.errors import OptionError

GOOD = '[[job]]\ninput = "a.mkv"\n'


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Any]:
    def written(text: str) -> Any:
        path = tmp_path / "jobs.toml"
        path.write_text(text)
        return read_job_file(path, upscale.params)

    return written


def on_the_command_line(*arguments: str) -> dict[str, Any]:
    with upscale.make_context("upscale", ["x.mkv", *arguments]) as context:
        return context.params


# -- What they may say. --------------------------------------------------------------------


VALUES = {
    "height": "1080",
    "size": '"1920x1080"',
    "crf": "17.5",
    "preset": "8",
    "lossless": "true",
    "tile": "128",
    "overlap": '"auto"',
    "encoder-option": '["aq-mode=3", "x264-params=keyint=24:me=hex"]',
    "map": '["v:0", "a:m:language:eng"]',
    "start": "00:01:02.5",
    "end": '"300f"',
    "framerate": '"30000/1001"',
    "in-matrix": '"bt709"',
    "in-range": '"full"',
    "workers": "2",
    "segment": "4",
    "verify": '"quick"',
    "no-audio": "true",
    "deinterlace": '"field"',
    "arg": '["a=1"]',
}


@pytest.mark.parametrize("key", VALUES)
def test_a_value_is_what_the_command_line_makes_of_it(read: Callable[[str], Any], key: str) -> None:
    value = tomllib.loads(f"x = {VALUES[key]}")["x"]
    arguments = []
    for one in value if isinstance(value, list) else [value]:
        arguments += [f"--{key}"] if one is True else [f"--{key}", str(one)]
    expected = on_the_command_line(*arguments)
    (entry,) = read(f"{GOOD}{key} = {VALUES[key]}\n")
    (name,) = entry.given
    assert entry.given[name] == expected[name]
    assert expected[name] != on_the_command_line()[name] or value == "auto"


def test_every_option_of_a_job_is_a_key(read: Callable[[str], Any]) -> None:
    left_out = {"output", "format", "progress", "cluster"}
    options = [option for option in upscale.params if isinstance(option, click.Option)]
    for option in options:
        key = max(option.opts, key=len).removeprefix("--")
        with pytest.raises(OptionError) as caught:
            read(f"{GOOD}{key} = 1979-05-27\n")
        if key == "output":
            assert "valid string" in str(caught.value)
        else:
            assert ("not in a job file" in str(caught.value)) == (key in left_out), key
    assert len(options) > 50


def test_defaults_count_where_a_job_says_nothing(read: Callable[[str], Any]) -> None:
    first, second = read(
        '[defaults]\ncrf = 20\nfolder = "out"\nencoder-option = { aq-mode = 3 }\n'
        '[[job]]\ninput = "a"\n[[job]]\ninput = "b"\ncrf = 30\nfolder = "other"\nrecursive = true\n'
    )
    assert (first.where.rpartition(":")[2], second.where.rpartition(":")[2]) == ("5", "7")
    assert first.given == {"crf": 20.0, "encoder_options": (("aq-mode", "3"),)}
    assert second.given == {**first.given, "crf": 30.0}
    assert (first.folder, first.recursive) == ("out", False)
    assert (second.folder, second.recursive) == ("other", True)


# -- What is wrong, and where. -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", None, "job: is missing; a job file has a [[job]] for each"),
        ("job = []", 1, "job: "),
        ("[[job]]\n", 1, "input: is missing"),
        ('[[job]]\ninput = ""', 2, "input: "),
        ("[[job]]\ninput = 3", 2, "input: 3: input should be a valid string"),
        ("a = 1\n" + GOOD, 1, "a: no such key; there are [defaults] and [[job]]"),
        ('[[jobs]]\ninput = "a"', 1, "did you mean job?"),
        (GOOD + "crff = 3", 3, "crff: no such option; did you mean crf?"),
        (GOOD + "pix_fmt = 'x'", 3, "pix_fmt: no such option; did you mean pix-fmt?"),
        (GOOD + "zebra = 3", 3, "zebra: no such option; see hatvid upscale --help"),
        ("[defaults]\ninput = 'x'\n" + GOOD, 2, "input: belongs in a [[job]]"),
        (GOOD + "allow-outside = true", 3, "allow-outside: not in a job file"),
        (GOOD + "cluster = 'host:6379'", 3, "cluster: not in a job file"),
        (GOOD + "crf = 'high'", 3, "crf: 'high' is not a number"),
        (GOOD + "crf = true", 3, "crf: true is not a number"),
        (GOOD + "scale = 2.0", 3, "scale: 2.0 is not a whole number"),
        (GOOD + "lossless = 1", 3, "lossless: 1 is neither true nor false"),
        (GOOD + "codec = ['a']", 3, "codec: ['a'] is not text"),
        (GOOD + "engine = 'warp'", 3, "engine: 'warp' is not one of"),
        (GOOD + "start = 'soon'", 3, "start: 'soon' is not a time"),
        (GOOD + "# a comment\n\nencoder-option = [\n 'crf=3',\n 'x'\n]", 5, "not of the form K=V"),
        (GOOD + "crf = 'a'\nscale = 'b'", 3, "crf: 'a' is not a number (and 1 more)"),
        (GOOD + "crf = ", 3, "this is no TOML"),
        (GOOD + "crf = 1\ncrf = 2\n", 4, "this is no TOML"),
        (GOOD + "x = " + "[" * 100000, None, "TOML|nested"),
    ],
)
def test_file_line_and_key_are_named(
    read: Callable[[str], Any], tmp_path: Path, text: str, line: int | None, says: str
) -> None:
    with pytest.raises(OptionError) as caught:
        read(text)
    said = str(caught.value)
    where = f"{tmp_path}/jobs.toml" + ("" if line is None else f":{line}: ")
    assert said.startswith(where), said
    assert any(part in said for part in says.split("|")), said


def test_what_options_say_of_each_other_is_told_with_the_line(
    hatvid: Callable[..., Any], refusal: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "jobs.toml"
    path.write_text(f"\n{GOOD}crf = 3\nlossless = true\n")
    refusal(hatvid("batch", path), code=2, says="jobs.toml:2: lossless and crf exclude each other")
    path.write_bytes(b'[[job]]\ninput = "caf\xe9"\n')
    refusal(hatvid("batch", path), code=2, says="jobs.toml:2: this is not UTF-8")
    path.write_text("#" * (1 << 20) + "\n")
    refusal(hatvid("batch", path), code=2, says="larger than a job file may be")


WRITING = [
    ("stats", "x.log"),
    ("passlogfile", "x"),
    ("flags", "+pass1"),
    ("x264-params", "stats=x"),
    ("x264-params", "keyint=3:pass=1"),
    ("x264-params", "dump_yuv=x"),
    ("x264opts", "no-dump-yuv"),
    ("x264-params", "st\\ats=x"),
    ("x265-params", "csv=x.csv"),
    ("x265-params", "crf=3: --csv=x"),
    ("x265-params", "recon=x"),
    ("x265-params", "analysis-save=x"),
    ("svtav1-params", "stat-file=x"),
    ("anything", "/etc/x"),
    ("anything", "..\\x"),
]


@pytest.mark.parametrize(("name", "value"), WRITING)
def test_nothing_that_lets_an_encoder_write_files(
    read: Callable[[str], Any], name: str, value: str
) -> None:
    with pytest.raises(OptionError, match="may have the encoder write or read files"):
        read(f"{GOOD}encoder-option = ['{name}={value}']")
    with pytest.raises(OptionError, match=r"jobs\.toml:2: encoder-option: "):
        read(f"[defaults]\nencoder-option.{name} = '{value}'\n{GOOD}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("profile", "high"),
        ("x264-params", "sar=16/11:keyint=24:no-psy=1:slow-firstpass=1"),
        ("x265-params", "keyint=24:no-info=1:aq-mode=3:master-display=G(1,2)B(3,4)"),
        ("svtav1-params", "tune=0:film-grain-denoise=0"),
        ("flags", "+cgop"),
    ],
)
def test_other_options_of_an_encoder_are_taken(
    read: Callable[[str], Any], name: str, value: str
) -> None:
    (entry,) = read(f"{GOOD}encoder-option = ['{name}={value}']")
    assert entry.given["encoder_options"] == ((name, value),)


# -- Lines. --------------------------------------------------------------------------------


def test_lines_of_all_that_toml_can_write() -> None:
    text = '''# first
a = 1 # "not a string
b."c d".e = """
[[not.a.table]]
x = 1\\"""
""""
f = [ # ]
  [1, 2], { g = "]" },
]

[h]
i = \'\'\'
[no]\'\'\'
[[job]]
k = 1
[[job]]
k = { l = 2 }
[job.m]
n = 'it\\'
[[job.o]]
p = "\\"["
[[job.o]]
p = 2
'''
    parsed = tomllib.loads(text)
    lines = lines_of(text)
    expected = {
        ("a",): 2,
        ("b", "c d", "e"): 3,
        ("f",): 7,
        ("h",): 11,
        ("h", "i"): 12,
        ("job", 0): 14,
        ("job", 0, "k"): 15,
        ("job", 1): 16,
        ("job", 1, "k"): 17,
        ("job", 1, "m"): 18,
        ("job", 1, "m", "n"): 19,
        ("job", 1, "o", 0): 20,
        ("job", 1, "o", 0, "p"): 21,
        ("job", 1, "o", 1, "p"): 23,
    }
    for place, line in expected.items():
        value: Any = parsed
        for part in place:
            value = value[part]
        assert lines[place] == line, place
    assert line_of(("job", 1, "k", "l", "deeper"), lines) == 17
    assert line_of(("nowhere",), lines) is None
