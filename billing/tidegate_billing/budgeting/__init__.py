"""Budgets in the database: `budgets` decides, this keeps, and tells."""
