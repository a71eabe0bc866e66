"""Messages to tenants' endpoints: `alerts` and `deliveries` decide, this keeps and sends."""
