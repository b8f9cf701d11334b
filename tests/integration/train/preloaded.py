"""What every job needs and is slow to get: the libraries, and the generator's loops in compiled form.

The fork server of `driver` imports this once.
"""

import mlflow.pyfunc
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import torch
import torch._dynamo  # as optimizers do at their first step

import serve.archive  # noqa: F401
import tests.integration.train.driver  # noqa: F401
from train import nade

torch.set_num_threads(1)
nade.compile_loops()
nade.NadeGenerator(length=1, hidden=1, nets=1, classes=1)(torch.zeros(1, 3, dtype=torch.float64))  # as in serving
