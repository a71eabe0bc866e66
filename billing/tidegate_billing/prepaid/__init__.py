"""Prepaid credit in the database: `credit` decides, this keeps."""
