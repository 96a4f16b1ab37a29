"""Every kernel as a function of device arrays: what the rest of tinyflow calls.

Activations are float32 or bfloat16 and passed in the shape of memory, rows (M, C) or
images (N, H, W, C), where a row may be a slice of a wider one; parameters, statistics
and sums are float32. Everything runs on the current stream, and nothing waits for it.
"""

from tinyflow.kernels.cuda.elementwise import add as add
from tinyflow.kernels.cuda.elementwise import bias_add as bias_add
from tinyflow.kernels.cuda.elementwise import bias_grad as bias_grad
from tinyflow.kernels.cuda.elementwise import combine as combine
from tinyflow.kernels.cuda.elementwise import gate as gate
from tinyflow.kernels.cuda.elementwise import gate_grad as gate_grad
from tinyflow.kernels.cuda.elementwise import relu as relu
from tinyflow.kernels.cuda.elementwise import relu_grad as relu_grad
from tinyflow.kernels.cuda.elementwise import sigmoid as sigmoid
from tinyflow.kernels.cuda.im2col import col2im as col2im
from tinyflow.kernels.cuda.im2col import im2col as im2col
from tinyflow.kernels.cuda.loss import CrossEntropy as CrossEntropy
from tinyflow.kernels.cuda.loss import cross_entropy as cross_entropy
from tinyflow.kernels.cuda.loss import (
    cross_entropy_input_grad as cross_entropy_input_grad,
)
from tinyflow.kernels.cuda.module import as_rows as as_rows
from tinyflow.kernels.cuda.module import compiled_by as compiled_by
from tinyflow.kernels.cuda.norm import Gradients as Gradients
from tinyflow.kernels.cuda.norm import Statistics as Statistics
from tinyflow.kernels.cuda.norm import batch_norm_affine as batch_norm_affine
from tinyflow.kernels.cuda.norm import batch_norm_apply as batch_norm_apply
from tinyflow.kernels.cuda.norm import batch_norm_gradients as batch_norm_gradients
from tinyflow.kernels.cuda.norm import batch_norm_input_grad as batch_norm_input_grad
from tinyflow.kernels.cuda.norm import batch_norm_statistics as batch_norm_statistics
from tinyflow.kernels.cuda.optim import TensorTable as TensorTable
from tinyflow.kernels.cuda.optim import adam_step as adam_step
from tinyflow.kernels.cuda.optim import advance_adam as advance_adam
from tinyflow.kernels.cuda.optim import advance_sgd as advance_sgd
from tinyflow.kernels.cuda.optim import gradient_norm as gradient_norm
from tinyflow.kernels.cuda.optim import sgd_step as sgd_step
from tinyflow.kernels.cuda.optim import tensor_table as tensor_table
from tinyflow.kernels.cuda.optim import with_gradients as with_gradients
from tinyflow.kernels.cuda.outcome import outcome as outcome
from tinyflow.kernels.cuda.pool import avg_pool2d as avg_pool2d
from tinyflow.kernels.cuda.pool import avg_pool2d_input_grad as avg_pool2d_input_grad
from tinyflow.kernels.cuda.pool import global_avg_pool2d as global_avg_pool2d
from tinyflow.kernels.cuda.pool import (
    global_avg_pool2d_input_grad as global_avg_pool2d_input_grad,
)
from tinyflow.kernels.cuda.pool import max_pool2d as max_pool2d
from tinyflow.kernels.cuda.pool import max_pool2d_input_grad as max_pool2d_input_grad
from tinyflow.kernels.cuda.random import advance as advance
from tinyflow.kernels.cuda.random import augment as augment
from tinyflow.kernels.cuda.random import byte_table as byte_table
from tinyflow.kernels.cuda.random import dropout as dropout
