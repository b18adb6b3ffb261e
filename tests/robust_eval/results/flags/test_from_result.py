"""Flags that follow from a result's counts are shown as the present rules raise them."""

from __future__ import annotations

from support.synthetic_results import bits, result

from robust_eval.results import EvalResult, flags
from robust_eval.results.flags.rules import records


def recorded(*ids: str, robust: int = 500) -> EvalResult:
    """A result of 1,000 examples with these flags in its record."""
    made = result({"clean": bits(1000, 900), "pgd-20": bits(1000, robust)})
    old = tuple(flag.model_copy(update={"figure": "earlier"}) for flag in records((name, "") for name in ids))
    return made.model_copy(update={"flags": old})


def test_a_recorded_warning_that_the_counts_no_longer_raise_is_not_shown() -> None:
    found = recorded("random-gradients", "black-box-beats-white-box")
    assert [(flag.id, flag.figure) for flag in flags.current(found)] == [("random-gradients", "earlier")]
    assert flags.outdated(found) == ("black-box-beats-white-box",)


def test_a_flag_that_the_counts_raise_is_shown_with_its_present_figure() -> None:
    found = recorded("attack-without-effect", "random-gradients", robust=900)
    shown = {flag.id: flag.figure for flag in flags.current(found)}
    assert list(shown) == ["attack-without-effect", "random-gradients"]
    assert shown["attack-without-effect"].startswith("pgd-20: none of 900 examples broken")
    assert [flag.id for flag in flags.current(recorded(robust=900))] == ["attack-without-effect"]
    assert flags.outdated(found) == ()


def test_a_recorded_flag_that_blocks_ranking_remains() -> None:
    """The row stays unranked as long as the flag is in its file, so that the page must show the reason."""
    found = recorded("unbounded-attack-fails", "attack-without-effect")
    assert [flag.id for flag in flags.current(found)] == ["unbounded-attack-fails", "attack-without-effect"]


def test_a_blocking_flag_that_is_recorded_as_a_warning_blocks() -> None:
    """Whether its numbers raise it again (a collapsed model) or only the record has it."""
    found = recorded("remembers-images", "attack-without-effect", "collapsed")
    warned = tuple(flag.model_copy(update={"severity": flags.WARNS}) for flag in found.flags)
    collapsed = result({"clean": bits(1000, 100), "pgd-20": bits(1000, 50)})
    changed = collapsed.model_copy(update={"flags": warned})
    assert {flag.id for flag in flags.blocking(changed)} == {"remembers-images", "collapsed"}
    shown = {flag.id: flag.severity for flag in flags.current(changed)}
    assert shown == {"remembers-images": flags.BLOCKS, "collapsed": flags.BLOCKS}
