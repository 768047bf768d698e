"""How much another language of the corpus helps languages that were never seen: the learning curve."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from benchmarks.accuracy.rows import Rows, Say, fitted, language_folds
from router.classifier import judging
from router.classifier.model import LABELS

FOLDS = 4
STEPS = (1, 2, 4, 8, 12, 16, 20, 24)


def curve(rows: Rows, say: Say, temperature: float, orders: int) -> list[dict[str, Any]]:
    """Return accuracy on the corpus's rows of unseen languages against the number of languages trained on.

    English comes first, the others in random orders; a quarter of the languages is held out in turn. Rows of
    other sources, where `rows` has any, come with their language.
    """
    own = rows.where(lambda example: example.own)
    fold_of = {
        example.lang: fold for example, fold in zip(own.examples, language_folds(own, FOLDS), strict=True)
    }
    # Every step is measured in every fold, else its mean would be one of other languages.
    most = len(fold_of) - max(Counter(fold_of.values()).values())
    right: Counter[int] = Counter()
    total: Counter[int] = Counter()
    trained: Counter[int] = Counter()
    fits: Counter[int] = Counter()
    for fold in range(FOLDS):
        test = _of(own, {lang for lang, of in fold_of.items() if of == fold})
        others = sorted(lang for lang, of in fold_of.items() if of not in {fold, -1})
        for order in range(orders):
            random.Random(order).shuffle(others)
            say(f"learning curve, fold {fold + 1} of {FOLDS}, order {order + 1} of {orders}")
            for step in sorted({min(step, most) for step in STEPS}):
                train = _of(rows, {"en", *others[: step - 1]})
                if not len(test) or len(set(train.labels)) < len(LABELS):
                    continue
                given = judging.answers(fitted(train, temperature), test.prompts).argmax(axis=1).tolist()
                right[step] += sum(a == b for a, b in zip(given, test.labels, strict=True))
                total[step] += len(test)
                trained[step] += len(train)
                fits[step] += 1
    return [
        {
            "languages": step,
            "mean_rows_trained": round(trained[step] / fits[step]),
            "accuracy": round(right[step] / total[step], 4),
        }
        for step in sorted(total)
    ]


def _of(rows: Rows, langs: set[str]) -> Rows:
    return rows.where(lambda example: example.lang in langs)
