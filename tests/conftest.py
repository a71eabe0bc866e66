"""What all tests share: properties are never judged by how fast the machine is just now."""

from hypothesis import HealthCheck, settings

settings.register_profile("tidegate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tidegate")
