"""From waveforms to what a model takes: the steps that training, inference,
evaluation and export share.

waveforms -> ``LogMel`` -> ``InputNormalization`` -> features; place and time ->
tokens -> ``ContextEncoder`` -> context.  The modules are those of a training's
YAML file: features, normalize, model and, for models that use place and time,
context_encoder.
"""


def compute_features(modules, wavs, wav_lens=None):
    """Computes the features of a batch of waveforms.

    Arguments
    ---------
    modules : dict or torch.nn.ModuleDict
        With features.
    wavs : torch.Tensor
        Waveforms (batch, samples).
    wav_lens : torch.Tensor, optional
        Relative lengths (batch).

    Returns
    -------
    features : torch.Tensor
        (batch, time, n_mels).
    lengths : torch.Tensor or None
        Relative lengths in frames (batch); None for None.

    Example
    -------
    >>> import torch
    >>> from ascmamba_modules.features import LogMel
    >>> modules = {"features": LogMel()}
    >>> features, lengths = compute_features(modules, torch.zeros(2, 44100))
    >>> features.shape
    torch.Size([2, 50, 64])
    """
    extract = modules["features"]
    return extract(wavs, wav_lens), extract.frame_lengths(wavs, wav_lens)


def model_inputs(modules, features, lengths=None, tokens=None, epoch=None):
    """Normalises features and encodes place and time.

    Arguments
    ---------
    modules : dict or torch.nn.ModuleDict
        With normalize and, for models that use place and time,
        context_encoder.
    features : torch.Tensor
        (batch, time, n_mels).
    lengths : torch.Tensor, optional
        Relative lengths (batch).
    tokens : tuple, optional
        Location tokens and time tokens, each (batch, n), as from
        :meth:`ascmamba_modules.context.ContextTokenizer.encode_batch`; not
        looked at if there is no context_encoder.
    epoch : int, optional
        Number of the epoch, in training.

    Returns
    -------
    features : torch.Tensor
        Normalised (batch, time, n_mels).
    context : torch.Tensor or None
        Context vectors (batch, context_size).
    lengths : torch.Tensor or None
        As given.

    Example
    -------
    >>> import torch
    >>> from speechbrain.processing.features import InputNormalization
    >>> modules = {"normalize": InputNormalization(norm_type="sentence")}
    >>> features, context, lengths = model_inputs(
    ...     modules, torch.rand(2, 50, 64)
    ... )
    >>> features.shape, context
    (torch.Size([2, 50, 64]), None)
    """
    features = modules["normalize"](features, lengths, epoch=epoch)
    context = None
    if "context_encoder" in modules:
        context = modules["context_encoder"](*tokens)
    return features, context, lengths


def class_names(label_encoder):
    """Lists the classes in the order of a model's outputs.

    Arguments
    ---------
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder
        Knows the index of each class.

    Returns
    -------
    list
        Their names.

    Example
    -------
    >>> from speechbrain.dataio.encoder import CategoricalEncoder
    >>> label_encoder = CategoricalEncoder()
    >>> label_encoder.update_from_iterable(["Bus", "Bar"])
    >>> class_names(label_encoder)
    ['Bus', 'Bar']
    """
    return [label_encoder.ind2lab[i] for i in range(len(label_encoder.ind2lab))]
