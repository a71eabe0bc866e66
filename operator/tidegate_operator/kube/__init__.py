"""The control plane on Kubernetes: what it sees, what it wants, and the steps between.

`state` holds what the API server has said. `model` is one deployment's decisions over time.
`reconcile` brings the world to the plan, `scale` moves replicas, `report` tells people. `handlers`
is where kopf's events come in, `operator` where the parts are put together.
"""
