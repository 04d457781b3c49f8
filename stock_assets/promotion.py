"""Promotion: the rule for the champion, applied to what the database knows."""

from stock_assets.champion import LIVE_DAYS, Decision, LiveRecord, choose_champion
from stock_assets.database import Champion, Database


def decide_champion(database: Database, *, release: bool = False) -> tuple[Decision, Champion]:
    """Crown whoever the rule names, or keep the pinned one unless released; both are returned."""
    told = database.live_records(LIVE_DAYS)
    live = {
        str(model): LiveRecord(days, ratio)
        for model, days, ratio in zip(told["model"], told["days"], told["mae_ratio"], strict=True)
    }
    decision = choose_champion(database.backtest_gains(), live)
    now = database.champion()
    if release or not now.pinned:
        now = Champion(decision.champion, decision.reason, pinned=False)
    database.crown(now)
    return decision, now
