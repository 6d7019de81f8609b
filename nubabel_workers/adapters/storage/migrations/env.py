"""Alembic's entry: runs the migrations on the connection that `schema.py` hands over."""

from alembic import context

from nubabel_workers.adapters.storage.models import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=False)
with context.begin_transaction():
    context.run_migrations()
