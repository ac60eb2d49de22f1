"""A profile's card and its source: facts only, no markup from a header, several profiles in one repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from zen_mlx.errors import InputError
from zen_mlx.format.spec import Header
from zen_mlx.hub.address import HubSource, parse, shown
from zen_mlx.profiles.card import make_card


def facts(**more: Any) -> Header:
    info = {
        "name": "style",
        "created": "2026-01-02T03:04:05Z",
        "tool": "zen-mlx 0.1.0",
        "method": "sign",
        "license": "MIT",
    }
    base = {"model": "smollm2-135m", "architecture": "llama", "weights": "ab" * 32, "verified": True}
    metrics = {"base_loss": 4.42891, "retention": 97.25, "steps": 69, "data_sha256": "ef" * 32, "note": "Dear diary"}
    given = {"info": info, "base": base, "metrics": metrics, **more}
    return Header(**given, target_count=8000, model_count=10_000, file_bytes=1000, sha256="cd" * 32, tensors={})


def front(card: str | None) -> dict[str, Any]:
    assert card is not None
    assert card.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_card_has_what_the_hub_and_a_reader_want() -> None:
    card = make_card(None, facts(), "acme/style", "style.bitdelta", "org/base")
    assert front(card) == {
        "base_model": "org/base",
        "base_model_relation": "adapter",
        "library_name": "zen-mlx",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["bitdelta", "mlx", "personalization", "zen-mlx"],
    }
    for part in (
        "1,000 bytes",
        "1.000",
        "40.0x than in f32",
        "4.429",
        "97.25",
        "cd" * 32,
        "ab" * 32,
        "| licence | MIT |",
    ):
        assert part in (card or "")
    assert "diary" not in (card or "")
    assert "efef" not in (card or "")
    assert 'download_profile("acme/style", file="style.bitdelta")' in (card or "")


def test_a_header_brings_no_markup_into_the_card() -> None:
    evil = "<script>x</script> [a](http://evil.example) | ![i](x) --> \n# big www.evil.example `a` \x1b[2J"
    hostile = facts(
        info={"name": evil, "created": evil, "tool": evil, "method": evil, "license": evil},
        base={"model": evil, "architecture": evil, "weights": evil, "verified": True},
        metrics={"base_loss": evil, "steps": True, "retention": float("nan")},
    )
    card = make_card(None, hostile, "acme/style", "style.bitdelta", None)
    text = card or ""
    for part in ("<script", "](", "http://", "\n# big", "www.", "\x1b", "`a`"):
        assert part not in text.replace("https://", "")
    assert "license" not in front(card)
    assert 'load_base("BASE")' in text
    assert "Nothing was measured." in text


def test_an_unverified_profile_says_so_and_names_the_base_to_check() -> None:
    card = make_card(None, facts(base={"model": "acme/base", "verified": False}), "acme/x", "x.bitdelta", "acme/base")
    assert "not recorded" in (card or "")
    assert "zen profile pull acme/x --file x.bitdelta -m acme/base" in (card or "")


def test_sections_are_added_and_replaced_and_the_rest_stays() -> None:
    first = make_card(None, facts(), "acme/both", "one.bitdelta", "org/base")
    assert first is not None
    own = first.replace("# both\n", "# both\n\nWhat I say about them.\n") + "\nAnd at the end.\n"
    two = make_card(own, facts(info={"license": "apache-2.0"}), "acme/both", "two.bitdelta", "org/other")
    assert two is not None
    assert front(two)["base_model"] == ["org/base", "org/other"]
    assert "license" not in front(two), "each section says its own"
    again = make_card(two, facts(metrics={"steps": 4321}), "acme/both", "one.bitdelta", "org/base")
    assert again is not None
    assert again.count("<!-- zen-mlx: one.bitdelta -->") == 1
    assert "4,321" in again
    for part in ("What I say about them.", "And at the end.", "<!-- zen-mlx: two.bitdelta -->"):
        assert part in again
    assert front(again)["base_model"] == ["org/base", "org/other"]
    alone = make_card(first, facts(info={"license": "apache-2.0"}), "acme/both", "one.bitdelta", "org/new")
    assert (front(alone)["base_model"], front(alone)["license"]) == ("org/new", "apache-2.0")
    assert make_card(first, facts(), "acme/both", "one.bitdelta", "org/base") == first, (
        "a push of the same changes nothing"
    )


@pytest.mark.parametrize("existing", ["", "# Mine", "---\nlicense: mit\n---\n# Mine\n"])
def test_a_card_that_is_not_ours_stays(existing: str) -> None:
    assert make_card(existing, facts(), "acme/x", "x.bitdelta", None) is None


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("acme/style") == HubSource("acme/style")
    assert parse("acme/style@refs/pr/1") == HubSource("acme/style", "refs/pr/1")
    assert parse("acme/style.bitdelta") == Path("acme/style.bitdelta")
    for path in ("style.bitdelta", "./acme/style", "/acme/style", "a/b/c"):
        assert parse(path) == Path(path)
    Path("acme").mkdir()
    Path("acme/style").touch()
    assert parse("acme/style") == Path("acme/style"), "what exists here wins"
    hub = "https://huggingface.co/acme/style"
    assert parse(hub) == HubSource("acme/style")
    assert parse(f"{hub}/tree/v2") == HubSource("acme/style", "v2")
    assert parse(f"{hub}/resolve/main/a/b.bitdelta?download=true") == HubSource("acme/style", "main", "a/b.bitdelta")
    assert parse(f"{hub}/discussions/1/x/y") == f"{hub}/discussions/1/x/y"
    assert parse("https://example.org/x.bitdelta") == "https://example.org/x.bitdelta"
    for bad in ("acme/style@", "acme/style@../x", "acme/a--b", "acme/a..b", "acme/style@-x"):
        with pytest.raises(InputError):
            parse(bad)
    assert shown("https://me:word@example.org:8/x?key=1#a") == "https://example.org:8/x"
