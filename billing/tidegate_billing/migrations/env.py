"""Alembic's entry: runs the migrations on the connection that `database.migrate` hands over.

There is no alembic.ini and no URL here: whoever opened the database decides where it is.
"""

from alembic import context

from tidegate_billing.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
