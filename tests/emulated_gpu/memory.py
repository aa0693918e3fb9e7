"""Memory as a program of one warp sees it, with what a card would pass over."""

import ctypes

import numpy as np

_NOBODY, _MANY = -1, -2


class Region:
    """Memory that kernels may use, and who used which byte of it last.

    Arguments
    ---------
    address : int
        Where it begins for kernels.
    values : np.ndarray
        Its bytes.
    """

    def __init__(self, address, values):
        self.address, self.values = address, values
        # By byte: lane and time of the last store, and of the last load.
        self.writer, self.written = self._nobody(), self._nobody()
        self.reader, self.read = self._nobody(), self._nobody()

    def _nobody(self):
        return np.full(len(self.values), _NOBODY)

    @classmethod
    def of_storage(cls, tensor):
        """All memory of a tensor on the CPU."""
        storage = tensor.untyped_storage()
        data = ctypes.c_uint8 * storage.nbytes()
        values = np.ctypeslib.as_array(data.from_address(storage.data_ptr()))
        return cls(storage.data_ptr(), values)

    def holds(self, start, end):
        """Whether it has all bytes between two addresses."""
        return self.address <= start and end <= self.address + len(self.values)


class View:
    """What a program sees of some regions.

    Accesses outside of the regions and unaligned ones are errors, and so are
    races: what another lane writes, or writes after another lane's access,
    without a barrier in between; between programs there is none.

    Arguments
    ---------
    regions : list of Region
    program : int
        Its number.
    """

    def __init__(self, regions, program):
        self.regions = regions
        self.start = self.time = program << 32

    def barrier(self):
        """All lanes see what all have written."""
        self.time += 1

    def load(self, addresses, dtype, mask):
        """Reads for each lane of the mask; the others get zeros.

        Arguments
        ---------
        addresses : np.ndarray
            Of int64, one for each lane.
        dtype : type
            Of the values.
        mask : np.ndarray
            Of bool.

        Returns
        -------
        np.ndarray
            One value for each lane.
        """
        size = np.dtype(dtype).itemsize
        result = np.zeros((len(mask), size), np.uint8)
        if mask.any():
            region, at, lanes = self._locate(addresses, size, mask)
            self._refuse(region.writer[at], region.written[at], lanes)
            again = (region.read[at] == self.time) & (
                region.reader[at] != lanes
            )
            region.reader[at] = np.where(again, _MANY, lanes)
            if len(np.unique(at)) < at.size:  # some lanes read the same
                region.reader[at] = _MANY
            region.read[at] = self.time
            result[mask] = region.values[at]
        return result.view(dtype)[:, 0]

    def store(self, addresses, values, mask):
        """Writes values, one for each lane, where the mask is."""
        if not mask.any():
            return
        values = np.ascontiguousarray(values)[mask]
        region, at, lanes = self._locate(addresses, values.itemsize, mask)
        self._refuse(region.writer[at], region.written[at], lanes)
        self._refuse(region.reader[at], region.read[at], lanes)
        region.values[at] = values.view(np.uint8).reshape(at.shape)
        region.writer[at], region.written[at] = lanes, self.time
        kept = region.values[at].view(values.dtype)[:, 0]
        if not _are_copies(kept, values):
            raise RuntimeError("Race: lanes write different values.")

    def _locate(self, addresses, size, mask):
        """The region, indices into it (lane, byte), and lanes."""
        addresses = addresses[mask]
        check_alignment(addresses, size)
        start, end = addresses.min(), addresses.max() + size
        for region in self.regions:
            if region.holds(start, end):
                at = (addresses - region.address)[:, None] + np.arange(size)
                return region, at, np.flatnonzero(mask)[:, None]
        raise IndexError("Access outside of all tensors.")

    def _refuse(self, who, when, lanes):
        """Fails if another lane's use of a byte is not over yet."""
        of_others = (when >= 0) & (when < self.start)
        of_lanes = (when == self.time) & (who != lanes)
        if (of_others | of_lanes).any():
            raise RuntimeError("Race: no barrier between two lanes' accesses.")


def check_alignment(addresses, size):
    """Fails if addresses are not multiples of what is read there at once."""
    if (addresses % size).any():
        raise RuntimeError(f"Access to {size} bytes that are not aligned.")


def _are_copies(kept, values):
    """Whether values are equal but for rounding.

    Lanes may hold copies of a sum that each has added up in its own order.
    """
    if values.dtype.itemsize != 4:
        return (kept == values).all()
    kept, values = kept.view(np.float32), values.view(np.float32)
    scale = np.abs(values).max()
    return np.isclose(kept, values, 1e-3, 1e-4 * scale, equal_nan=True).all()
