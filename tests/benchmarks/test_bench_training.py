"""Row 8: an epoch on segments against an epoch on windows; same network, start, samples, optimiser and schedule."""

import time

import numpy as np
import torch
from torch.nn import functional

from tasks.market.features import WARM_UP, build_features
from tasks.market.labels import LabelConfig, label_bars
from tasks.market.synthetic import SyntheticMarket, generate
from tasks.network.fit import FitConfig, Series, fit
from tasks.network.inference import sample_logits
from tasks.network.segments import UNKNOWN, stream_of

TRAIN, CHECK = 20_000, 10_000
BATCH = 64  # windows: the source text's
PIECES = 6  # of the windowed epoch; an epoch on segments follows each
