"""Promotion: the rule for the champion, applied to what the database knows."""

from stock_assets.champion import LIVE_DAYS, Decision, LiveRecord, choose_champion
from stock_assets.database import Champion, Database


def decide_champion(database: Database, *, release: bool = False) -> tuple[Decision, Champion]:
    """Crown whoever the rule names, or keep the pinned one unless released; both are returned."""
    decision, now = _decision(database), database.champion()
    if release or not now.pinned:
        now = _named_by(decision)
    database.crown(now)
    return decision, now


def is_settled(database: Database) -> bool:
    """Whether all that follows forecasts was done: a process may be killed ahead of it."""
    if not database.ticker_states():
        return True
    now = database.champion()
    return database.is_scored() and (now.pinned or now == _named_by(_decision(database)))


def _decision(database: Database) -> Decision:
    told = database.live_records(LIVE_DAYS)
    live = {
        str(model): LiveRecord(days, ratio)
        for model, days, ratio in zip(told["model"], told["days"], told["mae_ratio"], strict=True)
    }
    return choose_champion(database.backtest_gains(), live)


def _named_by(decision: Decision) -> Champion:
    return Champion(decision.champion, decision.reason, pinned=False)
