from .dictionary_set import DictionarySet as DictionarySet
from .members import members_in as members_in
