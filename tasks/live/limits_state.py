"""What limits are judged by, kept for an account and market: it outlives the process, and the session's name too."""

import json
import math
import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from storage.api_keys import ApiKey
from storage.schema import Market, StoreError
from tasks.execution.limits import Breach, LimitBook, TradingLimits
from tasks.journal.journal_reader import JournalReader
from tasks.journal.journal_rows import BarOpen, Decision
from tasks.live.gates import Denied
from tasks.strategy.live_tick import day_vol

_LONGEST = 1_000_000  # bytes


def forecast_risk(bar: BarOpen, decision: Decision | None, market: Market) -> float:
    """Return what the position of a row was forecast to move its account in 24 hours, share of it, by a decision.

    Returns:
        Infinite where nobody forecast it, or the account is worth nothing.
    """
    ledger, price = bar.opened.ledger, bar.quote.first
    worth = ledger.equity(price)
    vol = math.nan if decision is None else day_vol(decision.values, market.interval_ms)
    risk = abs(ledger.quantity) * price / worth * vol if worth > 0.0 else math.nan
    return risk if math.isfinite(risk) else math.inf


@dataclass(frozen=True)
class LimitsState:
    """The book of one account and market.

    Attributes:
        path: A small file, named by the account, so that another key of it goes on with the same book.
        session: Name of the session whose ledger the book is of.
    """

    path: Path
    session: str

    @classmethod
    def of(cls, folder: Path, key: ApiKey, user_id: int, market: Market, session: str) -> Self:
        """Return that of an account in a market.

        Args:
            key: Of the account; names it where the exchange does not say whose it is.
            user_id: The exchange's name of the account; 0 where it does not say.

        Raises:
            Denied: There is a book of the account and one of its key, and nobody knows which of them counts.
            StoreError: The key's can't be taken for the account's.
        """

        def path(account: int | str) -> Path:
            return folder / f"{key.environment}-{account}-{market.category}-{market.symbol}.json"

        if user_id:
            _take_for(path(key.fingerprint), path(user_id))
        return cls(path(user_id or key.fingerprint), session)

    def recall(
        self, limits: TradingLimits, capital: float, reader: JournalReader, market: Market, account: str
    ) -> tuple[LimitBook, Breach | None]:
        """Return the book as it was left, and as the session's journal goes on from there.

        Args:
            capital: USDT that the session began with.
            reader: Its journal, empty for a new one.
            account: The account's name in the journal.

        Returns:
            The book, and what the journal has latched that the book had not: nobody has halted the market for it yet.

        Raises:
            Denied: The file is damaged: nobody knows what has been lost.
        """
        book, closed_ms, opened_ms = LimitBook(limits, capital), -1, -1
        starts, equity = list[int](), [capital]  # at the start, and at each close
        if reader.facts():
            starts, equity = (one.tolist() for one in reader.equity(market, account))
        try:
            with self.path.open("rb") as file:
                said = json.loads(file.read(_LONGEST))
            if said["session"] != self.session:
                book.resume(said, worth=float(equity[-1]))
                return book, None
            book.resume(said)
            closed_ms, opened_ms = int(said["closed_ms"]), int(said["opened_ms"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as err:
            why = f"{self.path} can't be read ({type(err).__name__}: {err}), and with it what has been lost"
            raise Denied("RISK", f"{why}; look into it, and remove it to begin anew") from err
        known, side, decisions = book.latched, 0, reader.decisions(account)
        happened: list[tuple[int, float | BarOpen]] = [(bar.start_ms, bar) for bar in reader.opens(account)]
        happened += [(ms + market.interval_ms, worth) for ms, worth in zip(starts, equity[1:], strict=True)]
        # A bar opens after the one before it has closed.
        for at_ms, what in sorted(happened, key=lambda one: (one[0], isinstance(one[1], BarOpen))):
            if not isinstance(what, BarOpen):
                if at_ms > closed_ms + market.interval_ms:
                    book.close(at_ms, what)
                continue
            after = what.opened.ledger
            if at_ms > opened_ms:
                n = bisect_right(decisions, at_ms - market.interval_ms, key=lambda one: one.start_ms)
                risk = forecast_risk(what, decisions[n - 1] if n else None, market)
                book.trip(side, after.side, after.equity(what.quote.first), risk, what.opened.entry_costs)
            side = after.side
        return book, book.latched if known is None else None

    def keep(self, book: LimitBook, closed_ms: int, opened_ms: int) -> None:
        """Write the book down; an order waits for it, so nobody waits for the disk.

        What a power cut takes of it is damaged, and denies the next start; the journal has the rest of this session.

        Args:
            closed_ms: The last bar whose close it has seen.
            opened_ms: The last row of the ledger that it has seen.

        Raises:
            StoreError: It can't be written.
        """
        said = book.state() | {"session": self.session, "closed_ms": closed_ms, "opened_ms": opened_ms}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                # In place, by one call, over all that was there: another name for it would be 1 ms more on this path.
                text = json.dumps(said).encode().ljust(os.fstat(file).st_size)
                if os.pwrite(file, text, 0) < len(text):
                    raise OSError("there is no room for all of it")
            finally:
                os.close(file)
        except OSError as err:
            raise StoreError(f"what limits are judged by can't be written to {self.path} ({err}); free space") from err


def _take_for(of_key: Path, of_account: Path) -> None:
    """Let a book that is named by a key be its account's: it was begun before the exchange said whose the key is."""
    if not of_key.exists():
        return
    if of_account.exists():
        raise Denied(
            "RISK",
            f"{of_account} and {of_key} are both of this account, and neither knows what was lost by the other; look "
            "into them, and remove the one that does not count",
        )
    try:
        of_key.rename(of_account)
    except OSError as err:
        raise StoreError(f"{of_key} must become {of_account}, which can't be done ({err})") from err
