"""Small runs of `python -m benchmarks.faults pay`: killed around verify, serve and settle of payments."""

from benchmarks.faults import pay

MOMENTS = ("called", "middle", "settle", "late", "moved", "told")
MOMENTS_FIRST = ("verified", "settle", "moved")


def test_killed_around_every_step_of_a_payment_nothing_is_served_or_taken_twice_or_for_nothing() -> None:
    (verdict,), (about,) = pay.run(70, 12, len(MOMENTS), 1, pay.How(moments=MOMENTS))
    assert verdict.clean, (verdict.faults, verdict.examples)
    assert about["kills"] == len(MOMENTS)
    assert verdict.outcomes.total() == 70
    assert verdict.outcomes["served and paid"] > 40
    assert verdict.outcomes["paid and not served"] > 0  # or nothing of that was tried


def test_nor_where_wallets_pay_first_for_places_that_are_few() -> None:
    how = pay.How(moments=MOMENTS_FIRST, first=True)
    (verdict,), (about,) = pay.run(30, 12, len(MOMENTS_FIRST), 1, how)
    assert verdict.clean, (verdict.faults, verdict.examples)
    assert (about["kills"], verdict.outcomes.total()) == (len(MOMENTS_FIRST), 30)
    assert about["found_full"] > 0  # or nothing of that was tried
    assert verdict.outcomes["served and paid"] > 8
