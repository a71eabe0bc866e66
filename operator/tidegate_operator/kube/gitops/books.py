"""A PriceBook: its document goes to billing whole, and billing's answer into its status."""

from collections.abc import Mapping
from typing import Any

from tidegate_operator.kube.gitops.ledger import Ledger, Refused
from tidegate_operator.kube.gitops.told import Told

Object = Mapping[str, Any]


class Books:
    """Price books."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def settle(self, obj: Object) -> Told:
        """Tell billing what a resource says. Raises Away."""
        try:
            written = await self._ledger.put_book(obj["metadata"]["name"], dict(obj["spec"]))
        except Refused as error:
            return Told(False, "Refused", str(error))
        fields = {"number": written.number, "effectiveFrom": written.effective_from}
        return Told(True, "Written", f"in force from {written.effective_from}", fields)

    async def end(self, name: str) -> None:
        """Its resource is gone. Raises Away."""
        await self._ledger.end_book(name)
