"""Routes of the page, by who may call them."""

from __future__ import annotations

# What holds values of rows, however it is called: see the other routes before one is added here.
OF_ROWS = {
    "/sluice/api/v1/tables/{table}/versions",
    "/sluice/api/v1/tables/{table}/compared",
    "/sluice/api/v1/dead-letters",
    "/sluice/api/v1/olap/{relation}/rows",
    "/sluice/api/v1/topics/{topic}/messages",
}
