"""The Python API, which `cotpress` exports: scores, compression, selection and verdicts of texts in memory."""
