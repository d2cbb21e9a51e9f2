import os

from squeezetime_jax.data import workers
from squeezetime_jax.errors import UserError


def work(item):
    if item == "dies":
        os._exit(11)
    if item == "bad":
        raise UserError("bad: no good")
    return item * 2


def test_results_come_in_order_and_a_dead_process_costs_one_item():
    items = ["a", "b", "bad", "dies", *"cdefghijklmnop"]
    found = list(workers.each(work, items, 2))
    assert [item for item, _ in found] == items
    outcomes = dict(found)
    assert str(outcomes["bad"]) == "bad: no good"
    assert str(outcomes["dies"]).startswith("dies: the process that read it died")
    rest = {item: result for item, result in found if item not in ("bad", "dies")}
    assert rest == {item: item * 2 for item in rest}


def test_items_are_taken_as_they_are_needed():
    taken = []
    results = workers.each(work, (taken.append(n) or str(n) for n in range(1000)), 1)
    assert next(results) == ("0", "00")
    assert len(taken) < 20
    results.close()
