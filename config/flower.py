"""Flower's configuration file (`celery -A tasks.app flower --conf=config/flower.py`), made from our settings.

Flower runs this file and takes the names that are options of its own.
"""

import sys

from config.settings import load_settings

_settings = load_settings()
if _settings.flower_basic_auth is None:
    sys.exit("NUBABEL_FLOWER_BASIC_AUTH (user:password) is needed: Flower shows every task to whoever reaches it")

address = "" if _settings.flower_host == "::" else _settings.flower_host  # Tornado takes "::" for IPv6 alone
port = _settings.flower_port
basic_auth = [_settings.flower_basic_auth.get_secret_value()]
read_only = True  # it is a view: workers are controlled by their supervisor, executions by `nubabel`
tasks_columns = "name,state,result,received,runtime,worker,uuid"  # result: the line that says what a task moved
enable_events = _settings.worker_send_events  # by default Flower turns them on in every worker, whatever we set
inspect_timeout = 5_000.0  # ms; whoever answers later, as workers of a busy machine do, is left out of the queues' page
if _settings.flower_cookie_secret is not None:
    cookie_secret = _settings.flower_cookie_secret.get_secret_value()
