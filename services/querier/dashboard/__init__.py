"""The page for people, at the querier's ``/``: reads of the history, of the metagraph and of the other services.

It changes nothing and holds nothing that is not elsewhere: a bounded part of the history in memory, read along with it,
and the other services' newest answers. Asking the network goes through ``/inference`` like any other request.
"""

from services.querier.dashboard.dashboard import Dashboard

__all__ = ["Dashboard"]
