from .dictionary import Dictionary as Dictionary
from .dictionary import parts_of as parts_of
from .files import load_any as load_any
from .files import load_dictionary as load_dictionary
from .files import save_dictionary as save_dictionary
from .layout import KINDS as KINDS
from .layout import Layout as Layout
from .part import Part as Part
