import random


def split_by_group(groups, fractions, *, seed):
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    wanted = {split: fraction * len(groups) for split, fraction in fractions.items()}
    rows = {split: 0 for split in fractions}
    split_of = {}
    for position, name in enumerate(names):
        empty = [split for split in rows if rows[split] == 0]
        choose_from = empty if len(empty) >= len(names) - position else list(rows)
        best = max(choose_from, key=lambda split: wanted[split] - rows[split])
        split_of[name] = best
        rows[best] += groups.count(name)
    return [split_of[group] for group in groups]
