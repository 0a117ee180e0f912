"""Published weights into a student: read without running code, recognised, fitted, reported, or refused.

loading      what others call: weights of a file or of timm into a model
reading      the tensors of a file (unwrapping: which)  sealed       files that carry their own hashes
formats      names around a backbone                    recognition  which family's they are, by its record
published    what a family says of its formats          parts        tensors on their way into a model
fitting      renamed, split, resized, put in place      gaps         what file and model lack of each other
student      which student a file is                    report       what became of every tensor
windows      those that SwinV2 was trained in           resizing     position embeddings and tables
heads        the classifier beside a backbone           timm_*       timm's models, by its own converters
"""

from fd_scale.models.weights.report import LoadReport

__all__ = ["LoadReport"]
