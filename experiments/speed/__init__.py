"""Speed of cotpress against the release, a naive scorer, the hardware's limit, TRL and plain generation."""
