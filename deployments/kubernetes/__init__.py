"""The service as objects of Kubernetes: a RayService of KubeRay, and what belongs around it."""
