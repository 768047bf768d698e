"""A small run of `python -m benchmarks.faults pay`: killed around verify, serve and settle of payments."""

from benchmarks.faults import pay

MOMENTS = ("called", "middle", "settle", "late", "moved", "told")


def test_killed_around_every_step_of_a_payment_nothing_is_served_or_taken_twice_or_for_nothing() -> None:
    (verdict,), (about,) = pay.run(70, 12, len(MOMENTS), 1, pay.How(moments=MOMENTS))
    assert verdict.clean, (verdict.faults, verdict.examples)
    assert about["kills"] == len(MOMENTS)
    assert verdict.outcomes.total() == 70
    assert verdict.outcomes["served and paid"] > 40
    assert verdict.outcomes["paid and not served"] > 0  # or nothing of that was tried
