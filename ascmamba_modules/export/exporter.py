"""Writing a trained model as one file for other runtimes.

ONNX for onnxruntime and what else reads it, on servers, boxes and phones, and
``torch.export`` for PyTorch without this package.
"""

import io
import json
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ascmamba_modules import __version__
from ascmamba_modules.ascmamba import ASCMamba
from ascmamba_modules.export.traceable import TraceableClassifier
from ascmamba_modules.utils.files import replacing

FORMATS = ("onnx", "torch")
TOLERANCE = 1e-4  # largest difference of posteriors that is let pass
METADATA_FILE = "metadata.json"  # within a .pt2
OUTPUT = "posteriors"
_OPERATORS = ("MatMul", "Gemm", "Conv")
_BANDS = "features.bands"
_PLACE_AND_TIME = ("Xi'an", "2023-04-21 18:30:00")  # to check exports with
# Adaptive pooling and the Transformer of other models fix the length.
_ANY_LENGTH = (ASCMamba,)


@dataclass
class Exported:
    """What was written.

    Arguments
    ---------
    path : Path
        The file.
    metadata : dict
        Text by name, as in the file.
    difference : float
        Largest difference of posteriors to PyTorch's, on noise.
    """

    path: Path
    metadata: dict
    difference: float


def export_model(
    classifier,
    path,
    format="onnx",
    takes="waveform",
    takes_context=False,
    seconds=None,
    int8=False,
):
    """Writes a classifier as one file, checked against PyTorch.

    The file takes a batch of any size, "waveform" (batch, samples) or
    "features" (batch, frames, n_mels), and if asked for "context" (batch,
    context_size), and answers with "posteriors" (batch, classes).  All clips
    of a batch have the same length: nothing is padding.

    Arguments
    ---------
    classifier : ascmamba_modules.inference.SceneClassifier
        The trained model.
    path : str or Path
        File to write.
    format : str
        "onnx" or "torch".
    takes : str
        "waveform" at the model's sample rate, or "features" of ``LogMel``.
    takes_context : bool
        Whether the place and time come in as a vector, see
        :meth:`ascmamba_modules.inference.SceneClassifier.context`; if not,
        they are unknown.
    seconds : float, optional
        Length of all clips; None is any length, which ASCMamba alone can.
    int8 : bool
        Whether to quantise the weights to 8 bits, for ONNX alone; activations
        are quantised as they come.

    Returns
    -------
    Exported
        What was written.

    Raises
    ------
    ValueError
        If the options do not fit the model or each other, or if the file's
        posteriors differ by more than 1e-4 from PyTorch's (with ``int8`` they
        may differ).
    ImportError
        If the packages of the extra "export" are missing.
    """
    _check_options(classifier, format, takes, seconds, int8)
    if format == "onnx":
        _import_onnx()
    module = TraceableClassifier(classifier, takes, takes_context)
    metadata = _metadata(classifier, module, seconds, int8)
    metadata["input"] = takes
    with replacing(path) as temporary, _quiet():
        program = _trace(module, classifier, seconds)
        if format == "onnx":
            _write_onnx(program, temporary, takes, metadata, int8)
            run = onnx_runner(temporary)
        else:
            _write_torch(program, temporary, metadata)
            run = torch_runner(temporary)
        difference = _difference(run, module, classifier, seconds)
        if not difference <= TOLERANCE and not int8:
            raise ValueError(
                f"The exported model's posteriors differ by {difference:.2g} "
                f"from PyTorch's, more than {TOLERANCE:g}: not written."
            )
    return Exported(Path(path), metadata, difference)


def onnx_runner(path, threads=0):
    """Loads an exported ONNX file.

    Arguments
    ---------
    path : str or Path
        The file.
    threads : int
        Threads of an operator; 0 is onnxruntime's own choice.

    Returns
    -------
    callable
        Maps tensors, the inputs in order, to posteriors (batch, classes).
    """
    onnxruntime = _import_onnx()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    names = [x.name for x in session.get_inputs()]

    def run(*inputs):
        feed = {name: x.numpy() for name, x in zip(names, inputs)}
        return torch.from_numpy(session.run([OUTPUT], feed)[0])

    return run


def torch_runner(path):
    """Loads an exported ``.pt2`` file.

    Arguments
    ---------
    path : str or Path
        The file.

    Returns
    -------
    callable
        Maps tensors, the inputs in order, to posteriors (batch, classes).
    """
    # From memory: by a path, the loader would insist on the suffix .pt2.
    module = torch.export.load(io.BytesIO(Path(path).read_bytes())).module()
    return torch.no_grad()(module)


def quantise(path):
    """Quantises the weights of an exported ONNX file to 8 bits, in place.

    Those of the linear layers and convolutions; what goes through the scan
    stays in float32, and so do the features.

    Arguments
    ---------
    path : str or Path
        The file.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Folds constants: the pieces of DenseLayer's kernels become weights.
    quant_pre_process(path, path, skip_symbolic_shape=True)
    graph = onnx.load(path).graph
    quantize_dynamic(
        path,
        path,
        op_types_to_quantize=list(_OPERATORS),
        weight_type=QuantType.QInt8,
        # Power spectra span more than 8 bits can.
        nodes_to_exclude=[n.name for n in graph.node if _BANDS in n.input],
    )


def _import_onnx():
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed, which exporting to ONNX needs: "
            "pip install 'ascmamba[export]'"
        ) from None
    return onnxruntime


def _check_options(classifier, format, takes, seconds, int8):
    if format not in FORMATS:
        raise ValueError(
            f"format must be {' or '.join(FORMATS)}, got '{format}'."
        )
    if takes not in ("waveform", "features"):
        raise ValueError(f"takes must be waveform or features, got '{takes}'.")
    if int8 and format != "onnx":
        raise ValueError("int8 quantisation is for format onnx alone.")
    if seconds is None:
        if not isinstance(classifier.mods["model"], _ANY_LENGTH):
            kind = type(classifier.mods["model"]).__name__
            raise ValueError(
                f"{kind} can be exported for clips of one length only: say "
                "how many seconds, e.g. --seconds 10."
            )
        return
    hop = classifier.mods["features"].settings["hop_length"] / 1000
    if not 2 * hop <= seconds < 3600:
        raise ValueError(
            f"seconds must be at least two hops ({2 * hop:g} s) and less than "
            f"an hour, got {seconds}."
        )


@contextmanager
def _quiet():
    """Without what the exporters say of their own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _metadata(classifier, module, seconds, int8):
    features = classifier.mods["features"]
    values = {
        "classes": classifier.classes,
        "sample_rate": features.sample_rate,
        "window_seconds": seconds,
        "hop_samples": features.hop_samples,
        "features": features.settings,
        "context": "vector" if module.takes_context else "none",
        "weights": "int8" if int8 else "float32",
        "package": f"ascmamba {__version__}",
    }
    if module.takes_context:
        values["unknown_context"] = module.null_context[0].tolist()
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in values.items()
    }


def _inputs(module, classifier, batch, seconds):
    """Noise, as waveforms or as their features, and context vectors."""
    generator = torch.Generator().manual_seed(0)
    features = classifier.mods["features"]
    samples = round(seconds * features.sample_rate)
    signal = 0.1 * torch.randn(batch, samples, generator=generator)
    if module.features is None:
        with torch.no_grad():
            signal = features(signal.to(classifier.device)).cpu()
    if not module.takes_context:
        return (signal,)
    context = classifier.context(*_PLACE_AND_TIME).cpu()
    return signal, context.repeat(batch, 1)


def _trace(module, classifier, seconds):
    dynamic = torch.export.Dim.DYNAMIC
    inputs = _inputs(module, classifier, 3, seconds or 2.0)
    length = dynamic if seconds is None else torch.export.Dim.STATIC
    shapes = [{0: dynamic, 1: length}]
    if module.takes_context:
        shapes.append({0: dynamic})
    # Only traced by Dynamo the size of the batch stays free in all models, but
    # for those with Transformers, which it cannot trace.
    by_dynamo = not any(
        isinstance(x, torch.nn.TransformerEncoder) for x in module.modules()
    )
    with torch.no_grad():
        return torch.export.export(
            module, inputs, dynamic_shapes=tuple(shapes), strict=by_dynamo
        )


def _write_torch(program, path, metadata):
    for module in program.graph_module.modules():
        for node in module.graph.nodes:
            node.meta.pop("stack_trace", None)  # with paths of this machine
    program.example_inputs = None  # or they are saved
    text = json.dumps(metadata)
    torch.export.save(program, path, extra_files={METADATA_FILE: text})


def _write_onnx(program, path, takes, metadata, int8):
    n_inputs = len(program.graph_signature.user_inputs)
    exported_program = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[takes, "context"][:n_inputs],
        output_names=[OUTPUT],
    )
    exported = exported_program.model
    for node in exported.graph.all_nodes():
        node.metadata_props.clear()  # with paths of this machine
    exported.metadata_props.clear()
    exported.metadata_props.update(metadata)
    exported_program.save(str(path), external_data=False)
    if int8:
        quantise(path)


@torch.no_grad()
def _difference(run, module, classifier, seconds):
    """Largest difference to the classifier, at several batches and lengths."""
    differences = []
    for batch, length in ((1, 1.0), (2, 3.3)):
        signal, *context = _inputs(module, classifier, batch, seconds or length)
        place_and_time = _PLACE_AND_TIME if context else (None, None)
        if module.features is None:
            expected = classifier.posteriors_from_features(
                signal, None, *place_and_time
            )
        else:
            expected, *_ = classifier.classify_batch(
                signal, None, *place_and_time
            )
        difference = run(signal, *context) - expected.exp().cpu()
        differences.append(difference.abs().max().item())
    return max(differences)
