"""What every job needs and is slow to get: the libraries, and the generator's loops in compiled form.

The fork server of `driver` imports this once.
"""

from unittest.mock import Mock

import mlflow.pyfunc
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import torch
import torch._dynamo  # as optimizers do at their first step

import serve.archive  # noqa: F401
import tests.integration.train.driver  # noqa: F401
from train.nade import HiddenTerm, NadeGenerator

torch.set_num_threads(1)
for dtype in (torch.float32, torch.float64):
    NadeGenerator(length=1, hidden=1, nets=1, classes=1).to(dtype)(torch.rand(1, 3, dtype=dtype))
# Not by autograd, after whose first use a process must not fork.
rows = torch.zeros(1, 1)
HiddenTerm.forward(Mock(), rows, rows, rows, rows)
HiddenTerm.backward(Mock(saved_tensors=[rows] * 4), rows)
