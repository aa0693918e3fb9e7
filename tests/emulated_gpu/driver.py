"""What Triton takes for a GPU and its driver.

Everything is as on a card of the architecture up to the PTX: Triton's reading
of the arguments, its compiler with its layouts, shuffles and shared memory,
and the order of the parameters.  What is left out is ptxas, the launcher in C,
and the card.  Tensors stay on the CPU.
"""

from triton import knobs
from triton.backends import Backend, backends
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from emulated_gpu.machine import Kernel
from emulated_gpu.memory import Region

Compiler = backends["nvidia"].compiler


class PTXCompiler(Compiler):
    """Stops before ptxas."""

    def __init__(self, target):
        super().__init__(target)
        self.binary_ext = "ptx"

    def add_stages(self, stages, options, language):
        super().add_stages(stages, options, language)
        del stages["cubin"]

    def hash(self):
        return "ptx alone"


class EmulatedGPU:
    """What Triton asks of a driver.

    Arguments
    ---------
    architecture : int
        80 for compute capability 8.0.
    """

    def __init__(self, architecture):
        self.architecture = architecture
        self.utils = self
        self.launches = []

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.architecture, 32)

    def get_device_properties(self, device):
        return {"max_shared_mem": 99 * 1024}

    def load_binary(self, name, ptx, shared_bytes, device):
        ptx = ptx.decode() if isinstance(ptx, bytes) else ptx
        return None, Kernel(ptx, shared_bytes), 0, 0, 1024

    def launcher_cls(self, source, metadata):
        kinds = list(_flat(source.signature.values()))
        name = source.fn.__name__

        def launch(x, y, z, stream, kernel, *arguments):
            self.launches.append(name)
            values, storages = [], {}
            for kind, value in zip(kinds, _flat(arguments[4:]), strict=True):
                if kind == "constexpr":
                    continue
                if kind.startswith("*"):
                    storage = value.untyped_storage()
                    storages[storage.data_ptr()] = value
                    value = value.data_ptr()
                values.append(value)
            regions = [Region.of_storage(value) for value in storages.values()]
            scratch = [0, 0]
            kernel.run((x, y, z), values + scratch, regions)

        return launch


def _flat(values):
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def activate(architecture):
    """Makes Triton use it for all that follows in this process.

    Arguments
    ---------
    architecture : int

    Returns
    -------
    EmulatedGPU
    """
    if knobs.runtime.interpret:  # which Triton has settled by now
        raise RuntimeError("Start without TRITON_INTERPRET=1.")
    knobs.runtime.interpret = False  # whatever the environment says later
    gpu = EmulatedGPU(architecture)
    backends["nvidia"] = Backend(PTXCompiler, EmulatedGPU)
    driver.set_active(gpu)
    return gpu
