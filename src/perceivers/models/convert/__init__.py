"""Weights of other libraries: what their files hold, read so that nothing in them is executed."""

from perceivers.models.convert.comparison import Comparison as Comparison
from perceivers.models.convert.importing import import_weights as import_weights
from perceivers.models.convert.importing import official as official
from perceivers.models.convert.read import read_weights as read_weights
from perceivers.models.convert.stored import Stored as Stored
from perceivers.models.convert.stored import StoredArray as StoredArray
from perceivers.models.convert.transformers import import_transformers as import_transformers
from perceivers.models.convert.transformers_export import export_transformers as export_transformers
from perceivers.models.convert.verify import UnsupportedRecordingError as UnsupportedRecordingError
from perceivers.models.convert.verify import compare as compare
from perceivers.models.convert.verify import verify as verify
