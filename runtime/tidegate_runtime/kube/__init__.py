"""How a router learns the world from Kubernetes: `api` asks, `watch` follows, `world` knows."""
