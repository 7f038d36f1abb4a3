"""A GPU without a GPU: tensors hold numbers on the CPU, say ``cuda:0``, and obey CUDA's rules.

Trimtab's own commands run on it with Lightning's code for GPUs. What CUDA or NCCL would refuse is
refused; places at which the host would wait for the device, launches, copies, float64, sums in no
fixed order and collectives are counted per step, with the line that they come from::

    python -m tests.pretended_gpu classifier with/saf

====================  ==========================================================================
``marks.py``          where a tensor pretends to be, and how much memory is taken
``state.py``          the device: what is counted, in which phase, and what is refused
``events.py``         what is counted
``rules.py``          CUDA's rules as tables: waits, missing kernels, sums in no fixed order
``operation.py``      one operation and its tensors
``checks.py``         the rules, applied to an operation
``copies.py``         copies between host and device
``modes.py``          the modes of torch that see all operations and all calls
``tensor_methods.py`` what stands in for ``Tensor.to``, ``Tensor.numpy`` ...
``torch_cuda.py``     what stands in for ``torch.cuda``
``serialization.py``  what ``torch.save`` and ``torch.load`` copy
``device.py``         ``with pretended_gpu(project) as gpu:``
``autocast.py``       which operations autocast keeps in float32 on CUDA
``nccl.py``           NCCL's rules on a group of gloo
``phases.py``         what a Lightning run is doing
``measure.py``        runs a command, on one process or two ranks
``bounds.py``         the pinned counts of ``bounds.yaml``
``table.py``          how counts are printed
====================  ==========================================================================

It does not see: how many kernels an operation launches, or which dtypes and sizes a kernel refuses
beyond those listed; a kernel's rounding and time; device asserts; other threads, such as that which
pins memory for loading processes; ``torch.compile``, ``torch.export`` and CUDA graphs; NCCL's
time-outs, and its silence where the shapes of ranks differ.
"""
