"""Visits on web and app, the clicks in them, and the offers shown there: `customer_days` -> raw rows, with `at`."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from caspr_spark.simulate.bank.customers import NUM_HABITUAL_REASONS, REASONS, Bank
from caspr_spark.simulate.bank.draws import integer, looked_up, moment, one_of
from caspr_spark.simulate.bank.journeys import backward_steps, is_outcome, is_visit, steps_of_visit

REASON_PAGES = {  # what a customer comes for, and what is then seen and done
    "payments": ("payments", "payees", "transfer"),
    "cards": ("cards", "limits", "change_limit"),
    "savings": ("savings", "savings_rates"),
    "statements": ("statements", "export_data"),
    "funds": ("funds", "markets", "order_funds"),
    "settings": ("settings", "devices", "contact_details"),
    "help": ("help", "contact"),
    "loans": ("loans", "loan_calculator"),
    "fees": ("fees", "compare_accounts"),
}
TAKEOVER_PAGES = ("payees", "add_payee", "transfer")
ACTIONS = ("transfer", "change_limit", "order_funds", "add_payee")
PAGES = sorted({page for pages in REASON_PAGES.values() for page in pages if page not in ACTIONS})
NOISE_SHARES = (0.4, 0.2)  # of visits with a first, a second page by chance
STRAY_SHARE = 0.5  # of visits with two steps of a journey the other way round, which mean nothing
STRANGE_DEVICE = "unknown device"
STRANGE_SHARE, STRANGE_SHARE_PROBED = 0.06, 0.5  # of visits from a device that the bank does not know
OFFERS = ("credit card", "savings plan", "loan", "fund", "insurance")
APP_DEVICES, WEB_DEVICES = ("ios", "android"), ("windows", "mac", "linux")
STEP_SECONDS, PAUSE_SECONDS = 60, 40 * 60  # a pause is longer than the 30 minutes after which a session is idle
# Hours of the day by kind of visit, at least 30 minutes apart, so that one visit never runs into another.
_EXTRA_HOUR, _TAKEOVER_HOUR = 19, 2  # all others begin between 6:00 and 16:30


def clicks(days: DataFrame, bank: Bank) -> DataFrame:
    """click_id, customer_id, clicked_at, channel, kind, page, device, seconds, true_session, at.

    kind is login, view, action or logout. `true_session` is the session that a click was planted in, for tests.
    """
    steps = _visits(days, bank).select("*", F.posexplode("pages").alias("step", "page"))
    whose = (F.col("customer"), F.col("day"), F.col("visit_kind"), F.col("step"))
    is_after_pause = F.col("has_pause") & (F.col("step") >= 3)
    later = F.col("step") * STEP_SECONDS + integer(bank.chance("dwell", *whose), 0, STEP_SECONDS - 10)
    second = F.col("second") + later + F.when(is_after_pause, PAUSE_SECONDS).otherwise(0)
    visit = F.concat_ws("-", F.col("customer"), F.col("day"), F.col("visit_kind"))
    page = F.col("page")
    at = moment(F.col("day"), second)
    return steps.select(
        F.concat_ws("-", visit, F.col("step")).alias("click_id"),
        "customer_id",
        at.alias("clicked_at"),
        "channel",
        F.when(page.isin("login", "logout"), page).when(page.isin(*ACTIONS), "action").otherwise("view").alias("kind"),
        "page",
        "device",
        integer(bank.chance("seconds", *whose) ** 2, 1, 120).alias("seconds"),
        F.when(is_after_pause, F.concat(visit, F.lit("-later"))).otherwise(visit).alias("true_session"),
        at.alias("at"),
    )


def offers(days: DataFrame, bank: Bank) -> DataFrame:
    """offer_id, customer_id, time, offer, stage (shown, clicked, taken), at.

    Some routine visits show an offer, which few click and fewer take up. Who looks into loans is shown one, and the
    outcome of that journey is that it is taken up.
    """
    customer, day = F.col("customer"), F.col("day")
    is_shown = F.col("visit").isNotNull() & (bank.chance("offer", customer, day) < 0.25)
    is_clicked = is_shown & (bank.chance("offer clicked", customer, day) < 0.1)
    is_taken = is_clicked & (bank.chance("offer taken", customer, day) < 0.2)
    second, drawn = _own_second(bank), one_of(bank.chance("which offer", customer, day), OFFERS)
    loan, is_lent = F.lit("loan"), is_outcome("borrowing")
    is_lender = is_visit(1) & (F.col("episode.kind") == "borrowing")
    candidates = [
        _offer("routine", is_shown, drawn, "shown", second + 30),
        _offer("routine", is_clicked, drawn, "clicked", second + 75),
        _offer("routine", is_taken, drawn, "taken", second + 160),
        _offer("journey", is_lender, loan, "shown", second + 240),
        _offer("outcome", is_lent, loan, "shown", F.lit(14 * 3600)),
        _offer("outcome", is_lent, loan, "clicked", F.lit(14 * 3600 + 60)),
        _offer("outcome", is_lent, loan, "taken", F.lit(14 * 3600 + 300)),
    ]
    rows = days.select("customer", "customer_id", "day", F.explode(F.array(*candidates)).alias("one"))
    at = moment(day, F.col("one.second"))
    return rows.where("one is not null").select(
        F.concat_ws("-", customer, day, F.col("one.place")).alias("offer_id"),
        "customer_id",
        at.alias("time"),
        "one.offer",
        "one.stage",
        at.alias("at"),
    )


def takeover_second(bank: Bank) -> Column:
    """Second of the day at which a takeover's visit begins: at night."""
    drawn = bank.chance("takeover time", F.col("customer"), F.col("episode.start_day"))
    return integer(drawn, _TAKEOVER_HOUR * 3600, (_TAKEOVER_HOUR + 2) * 3600)


def _visits(days: DataFrame, bank: Bank) -> DataFrame:
    """One row a visit: customer, customer_id, day, visit_kind, second, channel, device, has_pause, pages."""
    customer, day = F.col("customer"), F.col("day")

    def habit(name: str) -> Column:
        return bank.chance(name, customer, day)

    by_chance = [
        F.when(habit(f"noise {place}") < share, one_of(habit(f"noise page {place}"), PAGES))
        for place, share in enumerate(NOISE_SHARES)
    ]
    stray = F.when(habit("stray") < STRAY_SHARE, backward_steps(habit("stray steps"))).otherwise(_pages())
    noise = F.concat(stray, F.array_compact(F.array(*by_chance)))
    overview = F.when(habit("overview") < 0.6, _pages("overview")).otherwise(_pages())
    planned = F.element_at(F.col("reasons"), (F.pmod(F.col("visit"), F.lit(NUM_HABITUAL_REASONS)) + 1).cast("int"))
    reason = F.when(habit("habit") < 0.8, planned).otherwise(one_of(habit("reason"), REASONS))
    purpose = looked_up(reason, {name: _pages(*pages) for name, pages in REASON_PAGES.items()})
    is_extra = bank.is_shifted(moment(day, F.lit(_EXTRA_HOUR * 3600))) & (habit("extra visit") < 0.5)
    evening = integer(habit("evening"), 0, 3600)
    is_routine = F.col("visit").isNotNull() & ~is_visit(0) & ~is_visit(1)  # a journey's visit takes its place
    own_time = _own_second(bank)
    in_journey = F.when(F.col("episode.kind") == "probed", STRANGE_SHARE_PROBED).otherwise(STRANGE_SHARE)
    usual = F.lit(STRANGE_SHARE)
    visits = [
        _visit(0, is_routine, own_time, [overview, purpose, noise], usual),
        _visit(1, is_extra, F.lit(_EXTRA_HOUR * 3600) + evening, [overview, noise], usual),
        _visit(2, is_visit(0), own_time, [overview, steps_of_visit(0), noise], in_journey),
        _visit(3, is_visit(1), own_time, [overview, steps_of_visit(1), noise], in_journey),
        _visit(4, is_outcome("probed"), takeover_second(bank), [_pages(*TAKEOVER_PAGES)], F.lit(1.0)),
    ]
    made = days.select("*", F.explode(F.array(*visits)).alias("made")).where("made is not null")
    whose = (customer, day, F.col("made.visit_kind"))
    logout = F.when(bank.chance("logout", *whose) < F.col("logout_share"), _pages("logout")).otherwise(_pages())
    is_app, device = bank.chance("channel", *whose) < F.col("app_share"), bank.chance("device", customer)
    own_device = F.when(is_app, one_of(device, APP_DEVICES)).otherwise(one_of(device, WEB_DEVICES))
    is_strange = bank.chance("strange", *whose) < F.col("made.strange_share")
    return made.select(
        "customer",
        "customer_id",
        "day",
        "made.visit_kind",
        "made.second",
        F.when(is_app, "app").otherwise("web").alias("channel"),
        F.when(is_strange, STRANGE_DEVICE).otherwise(own_device).alias("device"),
        ((bank.chance("pause", *whose) < 0.05) & (F.size("made.pages") > 3)).alias("has_pause"),
        F.concat(F.col("made.pages"), logout).alias("pages"),
    )


def _visit(kind: int, is_made: Column, second: Column, pages: list[Column], strange_share: Column) -> Column:
    """A struct, or null where the visit is not made."""
    made = F.struct(
        F.lit(kind).alias("visit_kind"),
        second.cast("int").alias("second"),
        F.concat(_pages("login"), *pages).alias("pages"),
        strange_share.alias("strange_share"),
    )
    return F.when(is_made, made)


def _own_second(bank: Bank) -> Column:
    minutes = integer(bank.chance("visit time", F.col("customer"), F.col("day")), 0, 90)
    return F.col("visit_hour") * 3600 + minutes * 60


def _offer(place: str, is_made: Column, offer: Column, stage: str, second: Column) -> Column:
    row = F.struct(
        F.lit(place).alias("place"),
        offer.alias("offer"),
        F.lit(stage).alias("stage"),
        second.cast("int").alias("second"),
    )
    return F.when(is_made, row)


def _pages(*pages: str) -> Column:
    return F.array(*map(F.lit, pages)).cast("array<string>")
