"""The stage calls in order: what each entry script does, and nothing else.

    data --> distill --> reference --> score --> compress --> sft --> evaluate --> report

Every call returns an artifact that is computed only if it is not there yet, so a sweep shares whatever its jobs
have in common, and a repeated command goes on where the last one stopped.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

from cotpress.artifacts import Artifact, ArtifactStore
from cotpress.compression.export import export
from cotpress.compression.stage import compress as compress_stage
from cotpress.config import CompressConfig, EvaluateConfig, PipelineConfig, ReportConfig, TrainConfig
from cotpress.data.stage import problems as problem_stage
from cotpress.data.stage import traces as trace_stage
from cotpress.distill.stage import distill as distill_stage
from cotpress.evaluation.config import Baseline
from cotpress.modeling.loading import load_tokenizer
from cotpress.records import CompressedTrace, SystemResult
from cotpress.runs import RunDirectory
from cotpress.scoring.stage import needs, score as score_stage
from cotpress.tables import read_records
from cotpress.tracking import Tracker, open_tracker

log = logging.getLogger(__name__)
