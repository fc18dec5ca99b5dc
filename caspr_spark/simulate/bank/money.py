"""Card payments and bookings on accounts: frames of `customer_days` -> raw rows, with `at`, the moment of each."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from caspr_spark.simulate.bank.customers import Bank
from caspr_spark.simulate.bank.draws import integer, looked_up, moment, one_of, weighted
from caspr_spark.simulate.bank.journeys import MOVING, MOVING_AFTER_DAYS, TRAVELLING, TRAVELLING_DAYS, is_outcome

MOST_PAYMENTS = 6  # of a customer and a day
CATEGORY_SHARES = {
    "groceries": 0.30,
    "restaurants": 0.16,
    "online": 0.16,
    "fuel": 0.09,
    "clothing": 0.08,
    "pharmacy": 0.07,
    "transport": 0.06,
    "leisure": 0.05,
    "travel": 0.03,
}
TYPICAL_AMOUNTS = {  # euros
    "groceries": 32.0,
    "restaurants": 24.0,
    "online": 45.0,
    "fuel": 55.0,
    "clothing": 60.0,
    "pharmacy": 18.0,
    "transport": 9.0,
    "leisure": 28.0,
    "travel": 240.0,
    "furniture": 310.0,
}
SHIFTED_FACTORS = {  # of the number of payments, while behaviour is shifted
    "groceries": 1.4,
    "restaurants": 0.15,
    "online": 2.0,
    "fuel": 0.4,
    "clothing": 0.3,
    "transport": 0.2,
    "leisure": 0.1,
    "travel": 0.05,
}
COUNTRIES_ABROAD = ("ES", "FR", "IT", "GR", "US", "TH")
MOST_THEFTS = 3  # transfers of one takeover


def card_transactions(days: DataFrame, bank: Bank) -> DataFrame:
    """card_transaction_id, customer_id, booked_at, amount (euros), category, merchant, country, channel, at.

    Habits: a category of the customer's own for each weekday, few merchants, more in the week after pay-day and at
    weekends. Travellers pay abroad; who moved buys furniture.
    """
    slots = days.withColumn("slot", F.explode(F.sequence(F.lit(0), F.lit(MOST_PAYMENTS - 1))))
    whose = (F.col("customer"), F.col("day"), F.col("slot"))
    timed = slots.withColumns(
        {
            "at": moment(F.col("day"), integer(bank.chance("payment time", *whose), 7 * 3600, 22 * 3600)),
            "category": _category(bank, whose),
        }
    )
    shifted_factor = F.coalesce(looked_up(F.col("category"), SHIFTED_FACTORS), F.lit(1.0))
    factor = F.when(bank.is_shifted(F.col("at")), shifted_factor).otherwise(1.0)
    since_pay_day = F.pmod(F.col("day_of_month") - F.col("pay_day"), F.lit(30))
    flush = F.when(since_pay_day < 7, 1.6).otherwise(0.85)
    expected = F.col("card_rate") * factor * flush * F.when(F.col("weekday") >= 5, 1.4).otherwise(0.85)
    paid = timed.where(bank.chance("payment", *whose) < expected / MOST_PAYMENTS)

    is_abroad = _is_travelling() & (bank.chance("abroad", *whose) < 0.8)
    typical = looked_up(F.col("category"), TYPICAL_AMOUNTS)
    merchant = F.floor(bank.chance("merchant", *whose) ** 2 * 4) + F.pmod(F.col("rotation"), F.lit(50))
    return paid.select(
        _row_id(*whose).alias("card_transaction_id"),
        "customer_id",
        F.col("at").alias("booked_at"),
        F.round(typical * (0.2 + 2.2 * bank.chance("amount", *whose) ** 2), 2).alias("amount"),
        "category",
        F.concat_ws(" ", F.col("category"), merchant.cast("string")).alias("merchant"),
        F.when(
            is_abroad, one_of(bank.chance("country", F.col("customer"), F.col("episode.start_day")), COUNTRIES_ABROAD)
        )
        .otherwise("DE")
        .alias("country"),
        F.when(F.col("category") == "online", "online").otherwise("terminal").alias("channel"),
        "at",
    )


def account_transactions(days: DataFrame, bank: Bank) -> DataFrame:
    """booking_id, customer_id, booked_at, kind, amount (euros, in is positive), counterparty, at."""
    customer, day = F.col("customer"), F.col("day")

    def habit(name: str) -> Column:
        return bank.chance(name, customer, day)

    def typical(name: str, euros: float) -> Column:
        return F.round(euros * (0.1 + 2 * habit(f"{name} amount") ** 2), 2)

    is_pay_day = F.col("day_of_month") == F.col("pay_day")
    bank_note = F.round(20.0 * integer(habit("cash amount"), 1, 10), 2)
    friend = F.concat(F.lit("payee "), integer(habit("payee"), 1, 4) + F.pmod(F.col("rotation"), F.lit(900)))
    cash_share = F.when(bank.is_shifted(moment(day, F.lit(43_200))), 0.02).otherwise(0.08)
    employer = F.concat(F.lit("employer "), F.pmod(F.col("rotation"), F.lit(200)))
    landlord = F.concat(F.lit("landlord "), F.pmod(F.col("rotation"), F.lit(700)))
    booked = [
        _booking("salary", is_pay_day, 5 * 3600, F.col("salary"), employer),
        _booking("rent", F.col("day_of_month") == F.col("rent_day"), 6 * 3600, -F.col("rent"), landlord),
        _booking("fee", F.col("day_of_month") == 1, 7 * 3600, F.lit(-4.9), F.lit("bank")),
        _booking("transfer_out", habit("transfer out") < 0.12, 12 * 3600, -typical("transfer out", 90), friend),
        _booking("transfer_in", habit("transfer in") < 0.05, 13 * 3600, typical("transfer in", 110), friend),
        _booking("cash", habit("cash") < cash_share, 17 * 3600, -bank_note, F.lit("cash machine")),
        _booking("loan", is_outcome("borrowing"), 15 * 3600, F.round(2000 + 9000 * habit("loan"), 2), F.lit("bank")),
        _booking(
            "closing", is_outcome("leaving"), 23 * 3600, -typical("closing", 2000), F.lit("own account elsewhere")
        ),
        *[
            _booking("transfer_out", _is_stolen(bank, number), second, -stolen_amount(bank, number), F.lit("new payee"))
            for number, second in enumerate(range(5 * 3600, 5 * 3600 + 60 * MOST_THEFTS, 60))
        ],
    ]
    numbered = [F.when(one["is_booked"], one.withField("number", F.lit(number))) for number, one in enumerate(booked)]
    rows = days.select("customer", "customer_id", "day", F.explode(F.array(*numbered)).alias("booking"))
    jitter = integer(bank.chance("booking time", customer, day, F.col("booking.number")), 0, 50)
    rows = rows.where("booking is not null").withColumn("at", moment(day, F.col("booking.second") + jitter))
    return rows.select(
        _row_id(customer, day, F.col("booking.number")).alias("booking_id"),
        "customer_id",
        F.col("at").alias("booked_at"),
        "booking.kind",
        "booking.amount",
        "booking.counterparty",
        "at",
    )


def stolen_amount(bank: Bank, number: int) -> Column:
    """Euros of the transfer with this number (from 0) in the takeover of the day's episode; 0 if it is not made."""
    whose = (F.col("customer"), F.col("episode.start_day"), F.lit(number))
    is_made = F.lit(number) < integer(bank.chance("thefts", *whose[:2]), 1, MOST_THEFTS)
    return F.when(is_made, F.round(200 + 1800 * bank.chance("theft", *whose), 2)).otherwise(0.0)


def _is_stolen(bank: Bank, number: int) -> Column:
    return is_outcome("probed") & (stolen_amount(bank, number) > 0)


def _booking(kind: str, is_booked: Column, second: int, amount: Column, counterparty: Column) -> Column:
    return F.struct(
        F.coalesce(is_booked, F.lit(False)).alias("is_booked"),
        F.lit(kind).alias("kind"),
        F.lit(second).alias("second"),
        amount.cast("double").alias("amount"),
        counterparty.cast("string").alias("counterparty"),
    )


def _category(bank: Bank, whose: tuple[Column, ...]) -> Column:
    categories = list(CATEGORY_SHARES)
    place = F.pmod(F.col("rotation") + F.col("weekday") * 4, F.lit(len(categories))).cast("int") + 1
    habitual = F.element_at(F.array(*map(F.lit, categories)), place)
    drawn = weighted(bank.chance("category", *whose), CATEGORY_SHARES)
    special = bank.chance("special", *whose)
    has_moved = (F.col("episode.kind") == MOVING) & F.col("episode_day").between(
        MOVING_AFTER_DAYS, MOVING_AFTER_DAYS + 7
    )
    return (
        F.when(has_moved & (special < 0.5), F.lit("furniture"))
        .when(_is_travelling() & (special < 0.3), F.lit("travel"))
        .when(bank.chance("habit", *whose) < 0.4, habitual)
        .otherwise(drawn)
    )


def _is_travelling() -> Column:
    return (F.col("episode.kind") == TRAVELLING) & F.col("episode_day").between(*TRAVELLING_DAYS)


def _row_id(*parts: Column) -> Column:
    return F.concat_ws("-", *[part.cast("string") for part in parts])
