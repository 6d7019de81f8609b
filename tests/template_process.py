"""Imported last by the process that others are forked from: what each of them would do at first, done once.

Frozen objects are left alone by the collector: a child that looks through them all copies their memory, which took most
of the time that its start took.
"""

import gc

from nubabel_workers.adapters.analysis_rules import load_rules
from tests.forking import command_line

load_rules()
command_line()
gc.collect()
gc.freeze()
