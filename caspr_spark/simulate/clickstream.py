"""An invented bank's clickstream: sessions of login, pages, searches and logout. Synthetic; for tests, docs and scale.

    python -m caspr_spark.simulate.clickstream --folder data/clickstream/raw --customers 200 --seed 1

writes synthetic_clicks.jsonl and synthetic_accounts.csv, which conf/clickstream.yaml declares. A customer's rows depend
on the customer's number and the seed alone. Every click carries `true_session`, the session that it was planted in: it
is for tests and not declared in the configuration.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

CLICKS_FILE, ACCOUNTS_FILE = "synthetic_clicks.jsonl", "synthetic_accounts.csv"
START, NUM_DAYS = datetime(2024, 1, 1, tzinfo=UTC), 180
IDLE_MINUTES = 30
PAGES = ("overview", "payments", "cards", "savings", "loans", "funds", "help", "settings")
TERMS = ("iban", "limit", "interest", "mortgage", "pin", "statement", "tax", "travel")
REGIONS = ("north", "south", "east", "west")

Click = dict[str, str | int]


def clicks_of(customer: int, *, seed: int) -> Iterator[Click]:
    """All clicks of one customer in order. Habits: a few pages, a channel, an hour of the day, how often, and whether
    the customer logs out. A session without logout ends by standing idle, and the next may begin without login."""
    random = Random(f"{seed}/clicks/{customer}")
    favourites, own_hour = random.sample(PAGES, 3), random.randrange(24)
    web_share, logout_share = random.choice((0.1, 0.9)), random.choice((0.2, 0.9))
    days_between, num_pages = random.choice((2, 7, 20)), random.randrange(2, 9)
    time, session = START + timedelta(days=random.uniform(0, days_between), hours=own_hour), 0
    is_known = False  # still logged in from the session before
    while time < START + timedelta(days=NUM_DAYS):
        session += 1
        channel = "web" if random.random() < web_share else "app"
        visited = [] if is_known and random.random() < 0.5 else ["login"]
        visited += [_page(random, favourites) for _ in range(random.randint(1, num_pages))]
        visited += ["logout"] if random.random() < logout_share else []
        for number, page in enumerate(visited):
            click: Click = {
                "click_id": f"{customer}-{session}-{number}",
                "customer_id": _name(customer),
                "clicked_at": time.isoformat(timespec="milliseconds"),
                "channel": channel,
                "page": page,
                "seconds": random.randint(1, 240),
                "true_session": f"{customer}-{session}",
            }
            yield click | ({"term": random.choice(TERMS)} if page == "search" else {})
            time += timedelta(seconds=random.choice((5, 30, 120, IDLE_MINUTES * 60)))  # 30 minutes are not yet idle
        is_known = visited[-1] != "logout"
        time += _pause(random, days_between, logged_out=not is_known)


def accounts(num_customers: int, *, seed: int) -> Iterator[dict[str, str | int]]:
    """What is known of the customers: one row each, a second one for those who moved; every tenth has none."""
    for customer in range(num_customers):
        random = Random(f"{seed}/account/{customer}")
        age, moves = random.randint(18, 90), random.random() < 0.3
        for since in ("2020-01-01", "2024-04-01") if moves else ("2020-01-01",):
            if customer % 10 != 9:
                region = random.choice(REGIONS)
                yield {"customer_id": _name(customer), "valid_from": since, "region": region, "age": age}


def write_clickstream(folder: Path, *, num_customers: int, seed: int) -> int:
    """Write both files into `folder` and return the number of clicks."""
    folder.mkdir(parents=True, exist_ok=True)
    num_clicks = 0
    with (folder / CLICKS_FILE).open("w", encoding="utf-8") as file:
        for customer in range(num_customers):
            for click in clicks_of(customer, seed=seed):
                file.write(json.dumps(click) + "\n")
                num_clicks += 1
    with (folder / ACCOUNTS_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["customer_id", "valid_from", "region", "age"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(accounts(num_customers, seed=seed))
    return num_clicks


def _page(random: Random, favourites: list[str]) -> str:
    pick = random.random()
    return "search" if pick < 0.15 else random.choice(favourites) if pick < 0.85 else random.choice(PAGES)


def _pause(random: Random, days_between: int, *, logged_out: bool) -> timedelta:
    """Until the next session: mostly days; sometimes a minute after a logout, or barely more than idle without."""
    if random.random() < 0.1:
        return timedelta(minutes=1 if logged_out else IDLE_MINUTES, seconds=1)
    return timedelta(days=random.expovariate(1 / days_between), hours=1)


def _name(customer: int) -> str:
    return f"synthetic-{customer:06d}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write an invented clickstream (synthetic data).")
    parser.add_argument("--folder", type=Path, required=True, help="where the two files go")
    parser.add_argument("--customers", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    num_clicks = write_clickstream(chosen.folder, num_customers=chosen.customers, seed=chosen.seed)
    print(f"{num_clicks:,} synthetic clicks of {chosen.customers:,} customers in {chosen.folder}")


if __name__ == "__main__":
    main()
