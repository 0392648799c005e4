"""Pictures and the self-contained HTML report of a run or a query."""
