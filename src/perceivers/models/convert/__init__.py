"""Weights of other libraries: what their files hold, read so that nothing in them is executed."""

from perceivers.models.convert.read import read_weights as read_weights
from perceivers.models.convert.stored import Stored as Stored
from perceivers.models.convert.stored import StoredArray as StoredArray
