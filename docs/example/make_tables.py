"""Writes the two CSV files of this folder: an invented shop, 40 customers, half a year. Synthetic; nobody is in it.

    python docs/example/make_tables.py docs/example

The same seed gives the same bytes. Three lines are damaged on purpose: see `DAMAGED`.
"""

import csv
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path

NUM_CUSTOMERS, NUM_DAYS, SEED = 40, 180, 1
START = datetime(2024, 1, 2)
ARTICLES = {
    "bread": 3.2, "milk": 1.4, "coffee": 7.9, "cheese": 5.5,
    "paint": 24.0, "brush": 6.5, "screws": 4.0, "ladder": 69.0,
}  # fmt: skip
BASKETS = {"food": ["bread", "milk", "coffee", "cheese"], "tools": ["paint", "brush", "screws", "ladder"]}
DAMAGED = [
    ["O90001", "C001", "soon", "bread", "3.20", "shop"],  # no time
    ["O90002", "", "2024-03-01 10:00:00", "milk", "1.40", "shop"],  # no customer
    ["O90003", "C002", "2024-03-02 11:00:00", "coffee", "seven", "web"],  # no number
]


def order_lines(chance: random.Random) -> list[list[str]]:
    lines = []
    for customer in range(1, NUM_CUSTOMERS + 1):
        taste, channel = chance.choice(sorted(BASKETS)), chance.choice(["shop", "web"])
        day = chance.uniform(0, 14)
        every = chance.choice([7, 14, 21])
        while day < NUM_DAYS:
            ordered_at = START + timedelta(days=int(day), hours=chance.randint(8, 20), minutes=chance.randint(0, 59))
            for article in sorted(chance.sample(BASKETS[taste], chance.randint(1, 3))):
                price = f"{ARTICLES[article] * chance.randint(1, 3):.2f}"
                lines.append([f"C{customer:03}", f"{ordered_at}", article, price, channel])
            day += every * chance.uniform(0.6, 1.4)
    lines.sort(key=lambda line: line[1])
    numbers = {order: number for number, order in enumerate(dict.fromkeys((line[0], line[1]) for line in lines), 1)}
    return [[f"O{numbers[line[0], line[1]]:05}", *line] for line in lines]


def accounts(chance: random.Random) -> list[list[str]]:
    """Some customers have no account."""
    rows = []
    for customer in range(1, NUM_CUSTOMERS - 4):
        opened = START - timedelta(days=chance.randint(1, 900))
        rows.append(
            [f"C{customer:03}", f"{opened:%Y-%m-%d}", chance.choice(["DE", "FR", "NL"]), f"{chance.randint(18, 80)}"]
        )
    return rows


def write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def main(folder: Path) -> None:
    chance = random.Random(SEED)
    lines = order_lines(chance)
    lines = [*lines[:100], *DAMAGED, *lines[100:], lines[-1]]  # the last line comes twice
    write(folder / "order_lines.csv", ["order", "customer", "ordered_at", "article", "price", "channel"], lines)
    write(folder / "accounts.csv", ["customer", "opened_on", "country", "age"], accounts(chance))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
