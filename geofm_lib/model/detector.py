"""Boxes from a plain ViT: a pyramid made of its last block's map (ViTDet, arXiv 2203.16527) under torchvision's FCOS.

torchvision brings matching, losses, decoding and non-maximum suppression. Ours are the pyramid, points at the middle of
each cell, and a loss that is a mean over images, since torchvision's is one over all matched points of a batch: that
would change with ranks and micro-batches.

Shapes: B images, N patches, D width, L levels, P points of all levels, K classes, G boxes of an image.
"""

import math
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import nn
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.ops import Conv2dNormActivation

from geofm_lib.model import vit
from geofm_lib.model.decoders import last_map

LEVELS = 4
FINEST = 4  # times finer than the patches, a side, is the first level, but no stride is less than
LEAST_STRIDE = 3  # pixels
MOST_WIDTH, GROUPS = 128, 32  # channels of every level; of a group norm in torchvision's head
CONVOLUTIONS = 2  # in a row in each branch of the head, for which torchvision has 4
PRIOR = 0.01  # what each class of each point begins with (RetinaNet, arXiv 1708.02002)
LEAST_SCORE, OVERLAP = 0.05, 0.6  # of a detection; IoU from which the weaker of two of a class is dropped
MOST = 100  # detections of an image, as COCO counts them


class Begins(nn.Conv2d):
    """A convolution that says the same of every point until it is trained."""

    def __init__(self, channels: int, outputs: int, value: float) -> None:
        super().__init__(channels, outputs, 3, padding=1)
        self.value = value

    def fixed_values(self) -> dict[str, torch.Tensor]:
        """See `init.initialise`."""
        return {"weight": torch.zeros(self.weight.shape), "bias": torch.full(self.bias.shape, self.value)}  # type: ignore[union-attr]


class Pyramid(nn.Module):
    """Maps [B, out_channels, h, w] of LEVELS strides from the tokens [B, N, D] of the last block.

    strides: in pixels, each twice the one before.
    """

    def __init__(self, encoder: vit.Encoder) -> None:
        super().__init__()
        self.grid = encoder.patch_embed.grid_size
        patch, width = encoder.patch_embed.patch_size[0], encoder.embed_dim
        first = next(k for k in (FINEST, 2, 1) if k == 1 or patch / k >= LEAST_STRIDE)
        scales = [first / 2**k for k in range(LEVELS)]
        self.strides = [patch / scale for scale in scales]
        self.out_channels = max(GROUPS, min(MOST_WIDTH, width) // GROUPS * GROUPS)
        self.levels = nn.ModuleList(self._level(width, scale) for scale in scales)

    def _level(self, width: int, scale: float) -> nn.Sequential:
        layers: list[nn.Module] = []
        for k in range(int(math.log2(scale)) if scale > 1 else 0):
            layers += [nn.GELU()] * (k > 0)
            layers += [nn.ConvTranspose2d(width, width // 2, 2, 2), LayerNorm2d(width // 2)]
            width //= 2
        if scale < 1:
            layers.append(nn.MaxPool2d(round(1 / scale), ceil_mode=True))
        how: dict[str, Any] = {"norm_layer": LayerNorm2d, "activation_layer": None}
        layers.append(Conv2dNormActivation(width, self.out_channels, 1, **how))
        layers.append(Conv2dNormActivation(self.out_channels, self.out_channels, 3, **how))
        return nn.Sequential(*layers)

    def forward(self, tokens_BND: torch.Tensor) -> list[torch.Tensor]:
        whole = tokens_BND.transpose(1, 2).unflatten(2, self.grid)
        return [level(whole) for level in self.levels]


class Detector(FCOS):
    """Tokens -> cls_logits [B, P, K], bbox_regression [B, P, 4] and bbox_ctrness [B, P, 1], float32."""

    layers = "last"

    def __init__(self, encoder: vit.Encoder, classes: int) -> None:
        with torch.device("meta"):
            pyramid = Pyramid(encoder)
            head = FCOSHead(pyramid.out_channels, 1, classes, CONVOLUTIONS)
            head.classification_head.cls_logits = Begins(pyramid.out_channels, classes, -math.log(1 / PRIOR - 1))
            # A distance is behind a ReLU: one that begins at 0 would stay there. 1 is the stride.
            head.regression_head.bbox_reg = Begins(pyramid.out_channels, 4, 1.0)
        how: dict[str, Any] = {"score_thresh": LEAST_SCORE, "nms_thresh": OVERLAP, "detections_per_img": MOST}
        super().__init__(pyramid, classes, head=head, **how)
        self.size = encoder.patch_embed.img_size
        self._points = [_points(self.size, stride) for stride in pyramid.strides]

    def take(self, encoder: vit.Encoder, images_BCHW: torch.Tensor) -> torch.Tensor:
        """What the head looks at: [B, N, D]."""
        return last_map(encoder, images_BCHW)

    def forward(self, tokens_BND: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return {name: found.float() for name, found in self.head(self.backbone(tokens_BND)).items()}

    def points(self, device: torch.device) -> list[torch.Tensor]:
        """Of each level a square of its stride around each point, [points, 4]."""
        return [each.to(device) for each in self._points]

    def loss(self, said: dict[str, torch.Tensor], boxes_BG5: torch.Tensor) -> torch.Tensor:
        """Focal, IoU and centre-ness loss: of each image over its matched points, then a mean over images.

        boxes: with their class, or a negative number for none (`data/boxes`). An image without any adds the focal loss
        of all points.
        """
        levels = self.points(boxes_BG5.device)
        points, counts = [torch.cat(levels)], [len(each) for each in levels]
        losses = []
        for i, rows in enumerate(boxes_BG5):
            rows = rows[rows[:, 4] >= 0]
            truth = [{"boxes": rows[:, :4], "labels": rows[:, 4].to(torch.int64)}]
            own = {name: found[i : i + 1] for name, found in said.items()}
            losses.append(torch.stack(list(self.compute_loss(truth, own, points, counts).values())).sum())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def detections(self, said: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, MOST, 6]: box in pixels of the network's images, score, class; the best first, class -1 for none."""
        device = said["cls_logits"].device
        levels = self.points(device)
        split = {name: list(each.split([len(level) for level in levels], 1)) for name, each in said.items()}
        count = len(said["cls_logits"])
        found = self.postprocess_detections(split, [levels] * count, [self.size] * count)
        whole = torch.zeros(count, MOST, 6, device=device)
        whole[..., 5] = -1
        for i, each in enumerate(found):
            columns = each["boxes"], each["scores"][:, None], each["labels"][:, None].float()
            whole[i, : len(each["boxes"])] = torch.cat(columns, 1)
        return whole


def _points(size: tuple[int, int], stride: float) -> torch.Tensor:
    """The squares of a level, row by row."""
    rows, columns = (torch.arange(math.ceil(side / stride)) * stride + stride / 2 for side in size)
    y, x = (each.flatten() for each in torch.meshgrid(rows, columns, indexing="ij"))
    return torch.stack([x, y, x, y], 1) + stride / 2 * torch.tensor([-1, -1, 1, 1])
