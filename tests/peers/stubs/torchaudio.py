"""Empty stand-in: LLaMA-Factory imports torchaudio for rows with audio only, and PyPI has it for CUDA builds alone."""
