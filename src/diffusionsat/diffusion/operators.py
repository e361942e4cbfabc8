"""What a sensor does to an image, as linear operators with exact adjoints.

Images are (B, C, H, W). An operator's `linear` part and its `adjoint` obey <A x, y> = <x, A^T y>; calling it
adds the offset where there is one. All kinds stand here, since they are made to be composed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionsat.errors import ConfigError


class Operator(ABC):
    """A linear operator, or an affine one, on images (B, C, H, W)."""

    def __call__(self, x: Tensor) -> Tensor:
        """What is measured of an image."""
        return self.linear(x)

    @abstractmethod
    def linear(self, x: Tensor) -> Tensor:
        """The linear part, A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint of the linear part, A^T y."""

    def measures(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a measurement of an image of shape (C, H, W), both without the batch."""
        return shape

    def gram(self, y: Tensor) -> Tensor | None:
        """The diagonal of A A^T, if all measurements are means of pixels of their own; else None.

        It is one over the number of pixels, and 0 where nothing is measured; it broadcasts to y.
        """
        return None

    def inverse(self, y: Tensor, variance: Tensor | None = None) -> Tensor | None:
        """A^T (A A^T + N)^-1 y in closed form, if there is one and N is one a band; else None."""
        return None


@dataclass(frozen=True, slots=True)
class Blur(Operator):
    """A separable Gaussian point spread function, its own adjoint.

    With the reflecting border (the edge pixel repeated, as SciPy's "reflect") rows and columns of its matrix
    sum to 1, so that it keeps the mean.

    Args:
        sigma: Standard deviation, pixels, 0 or more: one, or one a band.
        border: ``"reflect"`` or ``"zero"``.

    Raises:
        ConfigError: If either is not possible.
    """

    sigma: float | tuple[float, ...]
    border: str = "reflect"

    def __post_init__(self) -> None:
        if not all(0 <= s < math.inf for s in self._sigmas):
            raise ConfigError(f"sigma of the blur is {self.sigma!r}. Give pixels, 0 or more.")
        if self.border not in ("reflect", "zero"):
            raise ConfigError(f"border of the blur is {self.border!r}. Give reflect or zero.")

    @classmethod
    def from_fwhm(cls, fwhm: float | Sequence[float], border: str = "reflect") -> Self:
        """Of a full width at half maximum, pixels: one, or one a band."""
        per_sigma = 2 * math.sqrt(2 * math.log(2))
        if isinstance(fwhm, (int, float)):
            return cls(fwhm / per_sigma, border)
        return cls(tuple(f / per_sigma for f in fwhm), border)

    @classmethod
    def from_modulation(
        cls, modulation: Sequence[float], decimate: "Decimate", border: str = "reflect"
    ) -> Self:
        """What gives blur and decimation together a modulation at the coarse grid's Nyquist frequency.

        A Gaussian's modulation at f cycles per pixel is exp(-2 pi^2 sigma^2 f^2).

        Args:
            modulation: One a band, above 0 and up to what the decimation leaves (0.64 of area sampling by a
                large factor, 1 of point sampling); more is cut to that.
            decimate: What follows the blur.
            border: See the class.

        Raises:
            ConfigError: If a modulation is not above 0 and at most 1.
        """
        if not all(0 < m <= 1 for m in modulation):
            raise ConfigError(f"modulation is {tuple(modulation)!r}. Give shares above 0 and at most 1.")
        left = [min(1.0, m / decimate.modulation) for m in modulation]
        return cls(tuple(decimate.factor * math.sqrt(-2 * math.log(m)) / math.pi for m in left), border)

    def widths(self, bands: int) -> tuple[float, ...]:
        """The standard deviation of each of so many bands."""
        return self._sigmas * bands if len(self._sigmas) == 1 else self._sigmas

    @property
    def _sigmas(self) -> tuple[float, ...]:
        return self.sigma if isinstance(self.sigma, tuple) else (self.sigma,)

    def linear(self, x: Tensor) -> Tensor:
        """Blurred images; as products of matrices, the quickest way for windows of some hundred pixels.

        Raises:
            ConfigError: If there is a sigma a band for another number of bands.
        """
        if len(self._sigmas) not in (1, x.shape[1]):
            raise ConfigError(f"The blur has {len(self._sigmas)} widths and the image {x.shape[1]} bands.")
        down, across = (
            torch.stack([_spread(length, sigma, self.border) for sigma in self._sigmas]).to(x)
            for length in x.shape[-2:]
        )
        return down @ x @ across

    def adjoint(self, y: Tensor) -> Tensor:
        """The same: the matrices are symmetric."""
        return self.linear(y)


@lru_cache(maxsize=32)
def _spread(length: int, sigma: float, border: str) -> Tensor:
    """The matrix of a blur along one axis, symmetric, float64 (length, length)."""
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-offsets.double().square() / (2 * max(sigma, 1e-6) ** 2))
    kernel = kernel / kernel.sum()
    rows = torch.arange(length)[:, None]
    places = rows + offsets
    if border == "zero":
        kernel = torch.where((places >= 0) & (places < length), kernel, 0)
        places = places.clamp(0, length - 1)
    else:
        places = places % (2 * length)
        places = torch.minimum(places, 2 * length - 1 - places)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.index_put_((rows, places), kernel.expand(length, -1), accumulate=True)


@dataclass(frozen=True, slots=True)
class Decimate(Operator):
    """One pixel of every block of factor by factor, at the block's centre.

    Args:
        factor: Pixels of a block's side, 1 or more.
        sampling: ``"area"``, the block's mean, or ``"point"``, its central pixel or, if the factor is even,
            the mean of its central four.

    Raises:
        ConfigError: If either is not possible.
    """

    factor: int
    sampling: str = "area"

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or self.factor < 1:
            raise ConfigError(f"factor is {self.factor!r}. Give a whole number from 1.")
        if self.sampling not in ("area", "point"):
            raise ConfigError(f"sampling is {self.sampling!r}. Give area or point.")

    @property
    def aperture(self) -> int:
        """Pixels of the side of the square that is averaged."""
        return self.factor if self.sampling == "area" else 2 - self.factor % 2

    @property
    def modulation(self) -> float:
        """Of the average at the coarse grid's Nyquist frequency, along one axis."""
        angle = math.pi / (2 * self.factor)
        return math.sin(self.aperture * angle) / (self.aperture * math.sin(angle))

    def measures(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same bands, height and width by the factor less."""
        bands, height, width = shape
        if height % self.factor or width % self.factor:
            raise ConfigError(f"An image of {width}x{height} pixels has no whole blocks of {self.factor}.")
        return bands, height // self.factor, width // self.factor

    @property
    def _averaged(self) -> slice:
        first = (self.factor - self.aperture) // 2
        return slice(first, first + self.aperture)

    def linear(self, x: Tensor) -> Tensor:
        """Coarse images (B, C, H / factor, W / factor).

        Raises:
            ConfigError: If height or width is no multiple of the factor.
        """
        self.measures(x.shape[1:])
        blocks = x.unflatten(3, (-1, self.factor)).unflatten(2, (-1, self.factor))
        return blocks[:, :, :, self._averaged, :, self._averaged].mean((3, 5))

    def adjoint(self, y: Tensor) -> Tensor:
        """Every value spread evenly over what it is the mean of."""
        batch, bands, height, width = y.shape
        blocks = y.new_zeros(batch, bands, height, self.factor, width, self.factor)
        blocks[:, :, :, self._averaged, :, self._averaged] = y[:, :, :, None, :, None] / self.aperture**2
        return blocks.reshape(batch, bands, height * self.factor, width * self.factor)

    def gram(self, y: Tensor) -> Tensor:
        """One over the pixels of the average."""
        return y.new_full((), 1 / self.aperture**2)


@dataclass(frozen=True, slots=True, eq=False)
class Mask(Operator):
    """Pixels or bands that are known; the others are measured as 0.

    Args:
        known: Bool, broadcastable to the images: (H, W), (C, 1, 1), (B, 1, H, W) ...
    """

    known: Tensor

    def linear(self, x: Tensor) -> Tensor:
        """The known pixels; 0 elsewhere, even where the image is NaN."""
        return torch.where(self.known.to(x.device), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        """The same."""
        return self.linear(y)

    def gram(self, y: Tensor) -> Tensor:
        """1 where known, else 0."""
        return self.known.to(y)


@dataclass(frozen=True, eq=False)
class Separable(Operator):
    """Rows and columns of every band multiplied by matrices of its own, with an inverse in closed form.

    Args:
        down: For columns of pixels, (bands, h, H).
        across: For rows of pixels, (bands, w, W).
    """

    down: Tensor
    across: Tensor

    @classmethod
    def optics(cls, blur: Blur, decimate: Decimate, bands: int, height: int, width: int) -> Self:
        """A blur and a decimation in one, of the whole blocks of an image of any size."""
        matrices = [
            torch.stack(
                [_decimation(side, decimate) @ _spread(side, s, blur.border) for s in blur.widths(bands)]
            )
            for side in (height, width)
        ]
        return cls(matrices[0].float(), matrices[1].float())

    def linear(self, x: Tensor) -> Tensor:
        """Images of h rows and w columns."""
        return self.down.to(x) @ x @ self.across.mT.to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """By the transposed matrices."""
        return self.down.mT.to(y) @ y @ self.across.to(y)

    def measures(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The same bands, h rows and w columns."""
        return shape[0], self.down.shape[1], self.across.shape[1]

    def inverse(self, y: Tensor, variance: Tensor | None = None) -> Tensor:
        """A^T (A A^T + N)^-1 y; A A^T is a Kronecker product, whose eigenvectors are those of its factors.

        Args:
            y: Measurements (B, bands, h, w).
            variance: N, one a band (bands, 1, 1); None is none.
        """
        (vertical, v), (horizontal, h) = self._eigen
        power = (vertical[:, :, None] * horizontal[:, None, :]).to(y)
        enough = power > 1e-9 * power.amax((1, 2), keepdim=True)  # others are rounding
        total = power if variance is None else power + variance.to(y)
        seen = v.mT.to(y) @ y @ h.to(y)
        return self.adjoint(v.to(y) @ torch.where(enough, seen / total, 0) @ h.mT.to(y))

    @cached_property
    def _eigen(self) -> list[tuple[Tensor, Tensor]]:
        found = []
        for matrix in (self.down.double(), self.across.double()):
            values, vectors = torch.linalg.eigh(matrix @ matrix.mT)
            found.append((values.float(), vectors.float()))
        return found

    @cached_property
    def determined(self) -> Tensor:
        """The diagonal of A^+ A, 0 to 1, (bands, H, W)."""
        sides = [
            (torch.linalg.pinv(m.double()) @ m.double()).diagonal(dim1=1, dim2=2)
            for m in (self.down, self.across)
        ]
        return (sides[0][:, :, None] * sides[1][:, None, :]).float()


@lru_cache(maxsize=32)
def _decimation(length: int, decimate: Decimate) -> Tensor:
    """The matrix of a decimation of the whole blocks along one axis, float64 (blocks, length)."""
    blocks = length // decimate.factor
    first = (decimate.factor - decimate.aperture) // 2
    matrix = torch.zeros(blocks, blocks, decimate.factor, dtype=torch.float64)
    each = torch.arange(blocks)
    matrix[each, each, first : first + decimate.aperture] = 1 / decimate.aperture
    return F.pad(matrix.flatten(1), (0, length - blocks * decimate.factor))


@dataclass(frozen=True, slots=True, eq=False)
class BandResponse(Operator):
    """Every band of the sensor as a weighted sum of the image's bands.

    Args:
        matrix: Weights (bands out, bands in).
    """

    matrix: Tensor

    @classmethod
    def select(cls, places: Sequence[int], bands: int) -> Self:
        """Some of the image's bands, by position."""
        return cls(torch.eye(bands)[list(places)])

    def linear(self, x: Tensor) -> Tensor:
        """The sensor's bands."""
        return torch.einsum("oi,bihw->bohw", self.matrix.to(x), x)

    def adjoint(self, y: Tensor) -> Tensor:
        """By the transposed matrix."""
        return torch.einsum("oi,bohw->bihw", self.matrix.to(y), y)

    def measures(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """As many bands as the matrix has rows."""
        return len(self.matrix), *shape[1:]


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Operator):
    """Other units: gain * x + offset, of which `linear` is the gain alone.

    Args:
        gain: A number, or a tensor that broadcasts to images: (C, 1, 1).
        offset: Likewise.
    """

    gain: float | Tensor
    offset: float | Tensor = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """The image in the other units."""
        return self.linear(x) + torch.as_tensor(self.offset).to(x)

    def linear(self, x: Tensor) -> Tensor:
        """Times the gain."""
        return x * torch.as_tensor(self.gain).to(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """The same."""
        return self.linear(y)


@dataclass(frozen=True, slots=True, eq=False)
class Compose(Operator):
    """Operators one after another.

    Args:
        operators: In the order in which they meet the image.
    """

    operators: tuple[Operator, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """The last one's measurement of the one before's."""
        for operator in self.operators:
            x = operator(x)
        return x

    def linear(self, x: Tensor) -> Tensor:
        """The product of the linear parts."""
        for operator in self.operators:
            x = operator.linear(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoints in reverse order."""
        for operator in reversed(self.operators):
            y = operator.adjoint(y)
        return y

    def measures(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The last one's."""
        for operator in self.operators:
            shape = operator.measures(shape)
        return shape


@dataclass(frozen=True, slots=True, eq=False)
class Stack(Operator):
    """Several measurements of one image: sensors, dates, resolutions.

    A measurement is one tensor (B, N), so that whatever takes an operator takes this: `join` and `parts`
    convert.

    Args:
        operators: One a measurement.
        shape: Of the image, (C, H, W).
    """

    operators: tuple[Operator, ...]
    shape: tuple[int, int, int]

    def __call__(self, x: Tensor) -> Tensor:
        """All measurements, (B, N)."""
        return self.join([operator(x) for operator in self.operators])

    def linear(self, x: Tensor) -> Tensor:
        """All linear parts, (B, N)."""
        return self.join([operator.linear(x) for operator in self.operators])

    def adjoint(self, y: Tensor) -> Tensor:
        """The sum of the adjoints."""
        back = [operator.adjoint(part) for operator, part in zip(self.operators, self.parts(y), strict=True)]
        return torch.stack(back).sum(0)

    def measures(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(N,)."""
        return (sum(math.prod(operator.measures(shape)) for operator in self.operators),)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Measurements (B, c, h, w), each of its own size, as one tensor (B, N)."""
        return torch.cat([part.flatten(1) for part in parts], 1)

    def parts(self, y: Tensor) -> list[Tensor]:
        """The measurements (B, c, h, w) in one tensor (B, N)."""
        shapes = [operator.measures(self.shape) for operator in self.operators]
        pieces = y.split([math.prod(shape) for shape in shapes], 1)
        return [piece.unflatten(1, shape) for piece, shape in zip(pieces, shapes, strict=True)]
