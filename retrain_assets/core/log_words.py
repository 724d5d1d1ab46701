"""Names that columns of logs have, in English and German.

Holds vocabularies; does not hold how a name is compared (`core/columns.py`) or what is concluded from one
(`core/inference.py`, `core/feature_inference.py`). All names are folded; in a tuple the likelier ones go first.
"""

from __future__ import annotations

import re

TASK = ("task_id", "taskid", "task", "job_id", "job", "ticket_id", "ticket", "item_id", "order_id", "request_id",
         "case_id", "auftrag", "auftrags_id", "auftragsnummer", "auftrag_nr", "vorgang", "vorgangs_id",
         "vorgangsnummer", "aufgabe", "aufgaben_id", "aufgaben_nr", "id", "uuid", "nr", "number")  # fmt: skip
ACTION = ("action_attempted", "action", "action_type", "task_type", "aktion", "massnahme", "channel", "kanal",
           "strategy", "strategie", "variant", "variante", "approach", "choice", "method", "methode", "option",
           "operation")  # fmt: skip
RESULT = ("result", "outcome", "success", "is_success", "succeeded", "successful", "was_successful", "ergebnis",
           "erfolg", "erfolgreich", "resultat", "status", "state", "ok", "passed", "converted", "won")  # fmt: skip
TIME = ("timestamp", "occurred_at", "finished_at", "completed_at", "ended_at", "finished", "end_time", "done_at",
         "beendet", "datetime", "date_time", "event_time", "zeitstempel", "zeitpunkt", "time", "ts", "at", "when",
         "updated_at", "created_at", "created", "started_at", "start_time", "logged_at", "zeit", "date",
         "datum")  # fmt: skip
REASON = ("failure_reason", "fail_reason", "error_reason", "fehlergrund", "reason", "grund", "error_message",
           "fehlermeldung", "error")  # fmt: skip
DOMAIN = ("domain", "target_domain", "site_domain", "host", "hostname", "website", "site")
RETRIES = ("retry_count", "retries")
ATTEMPT = ("attempt", "attempt_number", "attempt_no", "versuch")
DURATION = re.compile(
    r"(?:^|_)(?:execution_time|exec_time|execution|duration|elapsed|runtime|run_time|took|dauer|laufzeit|bearbeitungszeit)"
    r"(?:_(?:s|sec|secs|seconds|sekunden|ms|msec|millis|milliseconds|millisekunden|min|mins|minutes|minuten))?$"
)
WEAK = frozenset({"id", "uuid", "nr", "number", "type", "kind", "art", "typ", "option", "operation", "ok", "at",
                   "site", "host", "time", "date", "error", "state", "task", "job"})  # fmt: skip
"""Names that mean a field only when they are the whole name: `site_type` is no action."""

AFTERWARDS = frozenset(
    {"error", "errors", "exception", "failure", "failed", "fail", "reason", "response", "stack", "stacktrace", "trace",
     "traceback", "finished", "completed", "ended", "elapsed", "took", "duration", "runtime", "latency", "result",
     "results", "outcome", "success", "retries", "retry", "screenshot", "output", "message", "msg", "log", "fehler",
     "grund", "antwort", "dauer", "laufzeit", "ergebnis", "beendet"}
)  # fmt: skip
"""Words of names of columns that are known only after the task."""

HISTORY = frozenset({"previous", "prior", "past", "last", "history", "historic", "before", "expected", "estimated"})
"""Words that take such a column back to before the task: `previous_result`."""

NAMES_OF_ONE = frozenset(
    {"id", "uuid", "guid", "hash", "key", "url", "uri", "link", "email", "mail", "name", "title", "ip", "phone", "user",
     "nr", "no", "number", "domain", "host", "hostname"}
)  # fmt: skip

CLASSES = frozenset({"type", "kind", "class", "category", "segment", "tier", "art", "typ"})
"""Words of names of columns that say which kind of task it is."""
